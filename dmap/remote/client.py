"""The way to a running daemon: where it is, with which key, and what went wrong in one line."""

import json
import os
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp

URL = "http://127.0.0.1:8000"
CONNECT_S = 5.0
ANSWER_S = 30.0
"""What a question takes at most, but for one that waits for a model."""
_OF_OTHERS = (301, 302, 307, 308, 404, 405, 501)
"""What servers say that have no such page; dmap signs its own refusals."""
MOST_BYTES = 16 * 1024 * 1024
"""Of an answer."""


class Trouble(Exception):
    """The daemon refused, or cannot be used as it was asked; the message is one line for a person."""


class Gone(Trouble):
    """The daemon cannot be reached, is busy, or has gone away: it may be worth another try."""


class DaemonClient:
    """A running daemon at *url*, asked with *key*; make it by `daemon_of`."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    async def ask(self, path: str, order: Mapping[str, Any] | None = None) -> Any:
        """Return the JSON that is at *path*, or the answer to *order*, which may take as long as it takes."""
        async with self.open(path, order=order, total_s=ANSWER_S if order is None else None) as response:
            try:
                return json.loads(await _whole(response))
            except ValueError:
                raise Trouble(f"what answers at {response.url.origin()} is not dmap") from None

    @asynccontextmanager
    async def open(
        self,
        path: str,
        *,
        order: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        total_s: float | None = None,
        silence_s: float | None = None,
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        """
        Get *path*, or post *order* to it, and give the answer to the context, not read yet.

        Raises `Trouble` for what the daemon refuses, and `Gone` when it does not answer: not within
        *total_s* in all, or not a byte for *silence_s*.
        """
        timeout = aiohttp.ClientTimeout(total=total_s, connect=CONNECT_S, sock_read=silence_s)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, headers=self._headers) as session,
                session.request(
                    "GET" if order is None else "POST",
                    self.url + path,
                    json=order,
                    headers=headers,
                    allow_redirects=False,
                ) as response,
            ):
                if response.status != 200:
                    raise self._refusal(response, await _whole(response))
                yield response
        except (aiohttp.ClientError, OSError) as exc:  # a TimeoutError is an OSError
            raise self.trouble(exc) from None

    def trouble(self, exc: Exception) -> Trouble:
        """Say in one line why there is no answer."""
        match exc:
            case TimeoutError():
                return Gone(f"{self.url} does not answer in time")
            case aiohttp.ClientConnectorCertificateError():
                why = plain(str(exc.certificate_error))[:200]
                hint = "SSL_CERT_FILE names one to trust"
                return Trouble(f"the certificate of {self.url} is not trusted ({why}); {hint}")
            case aiohttp.ClientConnectorSSLError():
                reason = plain(str(exc.os_error))[:200]
                return Trouble(f"no TLS with {self.url} ({reason}); it may be http://...")
            case aiohttp.ClientConnectorError():
                number = exc.errno or 0  # below 0 it is the resolver's
                reason = plain(os.strerror(number) if number > 0 else exc.strerror or str(exc.os_error))
                return Gone(f"no dmap answers at {self.url} ({reason}); --url or DMAP_URL says where it is")
        return Gone(f"the connection to {self.url} broke: {plain(str(exc))[:200]}{self._hint(exc)}")

    def _hint(self, exc: Exception) -> str:
        """Guess that a server which hangs up without an answer has TLS; it may have other reasons."""
        is_plain = isinstance(exc, aiohttp.ServerDisconnectedError) and self.url.startswith("http:")
        return "; if it has TLS, it is https://..." if is_plain else ""

    def _refusal(self, response: aiohttp.ClientResponse, body: bytes) -> Trouble:
        reason = _reason(body) or response.reason or "no reason given"
        if response.status in _OF_OTHERS and _signed(body) is None:
            told = plain(f"{response.status} {reason}")[:200]
            return Trouble(
                f"what answers at {self.url} is not dmap ({told}); --url or DMAP_URL says where it is"
            )
        hint = "; DMAP_KEY holds the key" if response.status == 401 else ""
        text = f"{self.url} refused ({response.status}): {plain(reason)[:2000]}{hint}"
        return (Gone if response.status in (429, 502, 503, 504) else Trouble)(text)


def daemon_of(environment: Mapping[str, str], url: str | None = None) -> DaemonClient:
    """
    Find the daemon by *url*, or by `DMAP_URL` without one, with or without `/v1`, and `DMAP_KEY`.

    Every address to listen at, as the log has it, is this host to ask.  Raises `Trouble` when they cannot be
    used.
    """
    name = "--url" if url else "DMAP_URL"
    url = url or environment.get("DMAP_URL") or URL
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url or parts.query or parts.fragment or parts.username is not None:
        raise Trouble(f"{name}: write it like http://127.0.0.1:8000")
    key = environment.get("DMAP_KEY", "")
    if not (key.isascii() and key.isprintable()):
        raise Trouble("DMAP_KEY: a key has printable ASCII characters only")
    if parts.hostname in ("0.0.0.0", "::"):
        url = url.replace("0.0.0.0", "127.0.0.1", 1).replace("[::]", "[::1]", 1)
    return DaemonClient(url.rstrip("/").removesuffix("/v1").rstrip("/"), key)


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > MOST_BYTES:
            raise Trouble(f"the answer of {response.url.origin()} is over {MOST_BYTES} bytes")
    return bytes(body)


_signed = re.compile(rb'"src": ?"dmap"').search


def _reason(body: bytes) -> str:
    """Return the message of an error in OpenAI's shape, nothing if it has another."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return ""


def plain(text: str) -> str:
    """Return *text* with all that a terminal would obey, or a reader be misled by, written as escapes."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else json.dumps(letter)[1:-1] for letter in text)
