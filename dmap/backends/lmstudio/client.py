"""
LM Studio's REST API: one question, one answer, and what its errors mean.

Its statuses cannot be trusted: unknown paths answer 200 (or 404, by version), a refused load 500 whatever
the reason, a load that another one displaced 400, and a page of HTML comes now and then.  So an answer is
judged by what it holds, and everything that is no answer is raised as a `Fault` here, in one place.
"""

import json
from typing import Any

from dmap.backends.ask import Unheard, ask, decoded
from dmap.backends.base import Target
from dmap.backends.lmstudio.section import LMStudioSection
from dmap.errors import BackendDown

ASK_S = 10.0
"""How long a list may take; loads have a bound of their own."""

ANSWER_BYTES = 8 * 2**20


class Fault(Exception):
    """
    An answer that says no: *status* as it came, *words* LM Studio's own reason.

    *missing* when the path does not exist on this version, *canceled* when another load displaced this one,
    *garbled* when the answer made no sense.
    """

    def __init__(self, status: int, words: str, *, garbled: bool = False) -> None:
        super().__init__(words)
        self.status = status
        self.garbled = garbled

    @property
    def missing(self) -> bool:
        return "unexpected endpoint" in str(self).lower() or (self.status == 404 and self.garbled)

    @property
    def canceled(self) -> bool:
        return "operation canceled" in str(self).lower()

    @property
    def barred(self) -> bool:
        return self.status in (401, 403)


class RestClient:
    """
    The *server* of *section*; *name* is the backend's, for messages.

    No connection is kept: LM Studio closes idle ones after 5 s (`Keep-Alive: timeout=5`), and a POST on one
    that is just being closed could not be sent again without risking a second load.
    """

    def __init__(self, name: str, section: LMStudioSection, connect_s: float) -> None:
        self.name = name
        self.server = Target.of(section.url, section.api_key)
        self._connect_s = connect_s

    async def get(self, path: str) -> dict[str, Any]:
        """
        Ask for *path*, once more if what comes is no JSON: seen as HTML when a load begins, 1 of 79 times.

        Raises `Fault`, and `BackendDown` when there is no answer.
        """
        try:
            return await self._ask(path)
        except Fault as fault:
            if not fault.garbled or fault.missing:
                raise
        return await self._ask(path)

    async def post(self, path: str, body: dict[str, Any], within_s: float) -> dict[str, Any]:
        """Send *body* to *path*, once.  Raises `Fault`, `BackendDown`, and TimeoutError after *within_s*."""
        return await self._ask(path, json.dumps(body).encode(), within_s)

    def down(self, words: str) -> BackendDown:
        """Return the error that says that LM Studio does not answer, or not to us; clients read it."""
        return BackendDown(f"the backend {self.name!r} (LM Studio) {words}", retry_after_s=5)

    def reason(self, fault: Fault) -> str:
        """Return *fault* in words for a client; a refused token is not repeated."""
        if fault.barred:
            lack = "" if self.server.headers else ", which is not set"
            problem = f"LM Studio refused dmap's own credentials (status {fault.status})"
            return f"{problem}; see backends.{self.name}.api_key{lack}"
        return str(fault)

    async def _ask(self, path: str, body: bytes = b"", within_s: float = ASK_S) -> dict[str, Any]:
        target, connect_s = self.server.at(path), self._connect_s
        try:
            status, answer = await ask(
                target, body=body, within_s=within_s, connect_s=connect_s, most_bytes=ANSWER_BYTES
            )
        except TimeoutError as exc:
            if body:
                raise
            raise self.down(f"has not answered for {within_s:g} s") from exc
        except Unheard as exc:
            raise self.down(f"does not answer: {exc}") from exc
        return _understood(status, answer)


def _understood(status: int, body: bytes) -> dict[str, Any]:
    """Return the object in *body*; raise `Fault` for an error of any form, whatever the status."""
    try:
        answer = decoded(body)
    except (ValueError, RecursionError):
        raise Fault(status, _plain(status, body), garbled=True) from None
    error = answer.get("error") if isinstance(answer, dict) else None
    if error:
        raise Fault(status, _words(error))
    if status != 200 or not isinstance(answer, dict):
        raise Fault(status, f"status {status}, {_plain(status, body)}", garbled=True)
    return answer


def _words(error: Any) -> str:
    """Read an error: a string on some routes, else an object with a message and sometimes a code."""
    if isinstance(error, dict):
        return str(error.get("message") or error.get("code") or error.get("type") or error)
    return str(error)


def _plain(status: int, body: bytes) -> str:
    """Describe a body that is no JSON: a line of text as it is, a page of HTML only by its name."""
    text = " ".join(body[:300].decode("utf-8", "replace").split())
    return f"status {status} and no JSON" if not text or text.startswith("<") else text
