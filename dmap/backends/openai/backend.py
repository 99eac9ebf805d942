"""
A server that speaks OpenAI's API and whose models dmap cannot switch.

It is asked for its list of models and for answers, nothing else: any vLLM, llama-server or LM Studio that
its owner runs by himself, or another dmap.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from dmap.backends.base import Target, is_alike
from dmap.backends.trouble import trouble_of
from dmap.errors import BackendDown
from dmap.models import ModelInfo

_LIST_S = 10.0
_NO_LIST = (404, 405, 501)
"""It answers but keeps no list, as many servers for speech or ranking: its models are those of the file."""
_LIST_BYTES = 4 * 2**20


class OpenAIBackend:
    """The server at *url* (with or without a closing `/v1`), asked with *api_key* if one is given."""

    def __init__(self, name: str, url: str, *, api_key: str | None, connect_s: float) -> None:
        parts = urlsplit(url)
        self.name = name
        self.url = url
        self.report: Callable[[Sequence[ModelInfo] | BackendDown], None] = _ignored
        self._host = parts.hostname or ""
        self._tls = parts.scheme == "https"
        self._port = parts.port or (443 if self._tls else 80)
        self._prefix = parts.path.rstrip("/").removesuffix("/v1")
        self._headers = (("Authorization", f"Bearer {api_key}"),) if api_key else ()
        self._timeout = aiohttp.ClientTimeout(total=_LIST_S, sock_connect=connect_s)

    async def models(self) -> Sequence[ModelInfo]:
        """
        Ask for `GET /v1/models`; everything listed counts as resident.

        Raises `BackendDown` when there is no answer, or none that is a list of models.
        """
        host = f"[{self._host}]" if ":" in self._host else self._host
        url = f"{'https' if self._tls else 'http'}://{host}:{self._port}{self._prefix}/v1/models"
        try:
            async with (
                aiohttp.ClientSession(timeout=self._timeout, headers=dict(self._headers)) as session,
                session.get(url, allow_redirects=False) as answer,
            ):
                payload = await _json(answer)
        except (aiohttp.ClientError, TimeoutError, ValueError, RecursionError) as exc:
            told = f"the backend {self.name!r} does not list its models: {_reason(exc)}"
            raise BackendDown(told, retry_after_s=5) from exc
        return [_info(item) for item in payload]

    def target(self, model: str, path: str) -> Target:
        """Tell where a request for our route *path* goes; the same for every model."""
        return Target(self._host, self._port, self._tls, self._prefix + path, self._headers)

    async def confirm(self) -> None:
        """Nothing here depends on what is resident."""

    def means(self, model: str, named: str) -> bool:
        """Tell whether *named* is *model*, by its looks."""
        return is_alike(model, named)

    async def close(self) -> None:
        """Nothing is kept open between two questions."""


def _ignored(found: Sequence[ModelInfo] | BackendDown) -> None:
    """Stand in for the inventory: this backend looks at nothing by itself."""


def _reason(exc: Exception) -> str:
    if isinstance(exc, TimeoutError):
        return "no answer in time"
    return trouble_of(exc) if isinstance(exc, aiohttp.ClientError) else str(exc)


async def _json(answer: aiohttp.ClientResponse) -> list[dict[str, Any]]:
    """Read a list of models, bounded; raise ValueError if the answer is none."""
    if answer.status in _NO_LIST:
        return []
    if answer.status != 200:
        raise ValueError(f"status {answer.status}")
    body = bytearray()
    async for piece in answer.content.iter_any():
        body += piece
        if len(body) > _LIST_BYTES:
            raise ValueError(f"a list of models over {_LIST_BYTES} bytes")
    payload = json.loads(body)
    items = payload.get("data") if isinstance(payload, dict) else None
    if not isinstance(items, list):
        raise ValueError("no list of models in the answer")
    return [item for item in items if isinstance(item, dict) and isinstance(item.get("id"), str)]


def _info(item: dict[str, Any]) -> ModelInfo:
    """Read one model; vLLM tells its context as `max_model_len`, llama-server in `meta`, dmap by name."""
    meta = item.get("meta")
    length = item.get("max_model_len") or item.get("context_length")
    length = length or (meta.get("n_ctx") if isinstance(meta, dict) else None)
    return ModelInfo(
        item["id"],
        resident=item.get("resident") is not False,
        context_length=length if isinstance(length, int) else None,
        embedding=item.get("embedding") is True,
    )
