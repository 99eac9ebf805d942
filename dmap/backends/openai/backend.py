"""
A server that speaks OpenAI's API and whose models dmap cannot switch.

It is asked for its list of models and for answers, nothing else: any vLLM, llama-server or LM Studio that
its owner runs alone, or another dmap.
"""

from collections.abc import Callable, Sequence

from dmap.backends.ask import Unheard, ask
from dmap.backends.base import Target, ignore, is_alike
from dmap.backends.compatible import LIST_BYTES, listed
from dmap.backends.openai.section import OpenAISection
from dmap.errors import BackendDown
from dmap.models import ModelInfo

_LIST_S = 10.0
_NO_LIST = (404, 405, 501)
"""It answers but keeps no list, as many servers for speech or ranking: its models are those of the file."""


class OpenAIBackend:
    """The server that *section* describes; a connection to it may take *connect_s*."""

    def __init__(self, name: str, section: OpenAISection, connect_s: float) -> None:
        self.name = name
        self.url = section.url
        self.report: Callable[[Sequence[ModelInfo] | BackendDown], None] = ignore
        self._server = Target.of(section.url, section.api_key)
        self._connect_s = connect_s

    async def models(self) -> Sequence[ModelInfo]:
        """
        Ask for `GET /v1/models`; everything listed counts as resident.

        Raises `BackendDown` when there is no answer, or none that is a list of models.
        """
        target = self._server.at("/v1/models")
        try:
            status, body = await ask(
                target, within_s=_LIST_S, connect_s=self._connect_s, most_bytes=LIST_BYTES
            )
            if status not in (200, *_NO_LIST):
                raise ValueError(f"status {status}")
            return listed(body) if status == 200 else []
        except (Unheard, TimeoutError, ValueError, RecursionError) as exc:
            reason = "no answer in time" if isinstance(exc, TimeoutError) else exc
            message = f"the backend {self.name!r} does not list its models: {reason}"
            raise BackendDown(message, retry_after_s=5) from exc

    def target(self, model: str, path: str) -> Target:
        """Tell where a request for our route *path* goes; the same for every model."""
        return self._server.at(path)

    async def confirm(self) -> None:
        """Nothing here depends on what is resident."""

    def means(self, model: str, named: str) -> bool:
        """Tell whether *named* is *model*, by its looks."""
        return is_alike(model, named)

    def made_of(self, model: str) -> str | None:
        """Return nothing: such a server tells a name and no more."""
        return ""

    async def close(self) -> None:
        """Nothing is kept open between two questions."""
