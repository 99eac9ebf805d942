"""
The server that a command runs, as dmap asks it: whether it is ready, and what it gives.

Its own words are the truth.  What the command was told need not be what it made of that: llama.cpp shares its
context out among its slots, vLLM takes less where memory is short.
"""

import asyncio
from collections.abc import Sequence

from dmap.backends.ask import Unheard, ask, count, decoded
from dmap.backends.base import Loaded, Target, trouble_of
from dmap.backends.compatible import LIST_BYTES, listed
from dmap.errors import SAID, LoadFailed
from dmap.sections.command import PORT

ANSWER_S = 5.0
"""How long a server may take to answer a question about itself."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 0.5
"""Between two questions whether it is ready."""
LAST_LINES = 12
"""So many of its last lines are told when it fails."""
LINE_LETTERS = 160


class Server:
    """
    The server at *url*, which is ready when it answers *ready* with status 200.

    If *ready* is `port`, it is as soon as it takes connections.
    """

    def __init__(self, url: str, ready: str, connect_s: float) -> None:
        self.target = Target.of(url, None)
        self._ready = ready
        self._connect_s = connect_s
        self._last = ""

    async def check_unused(self) -> None:
        """Raise `LoadFailed` if somebody answers there already: it would be taken for the new server."""
        if not await self._takes_connections():
            return
        where = f"{self.target.host}:{self.target.port}"
        raise LoadFailed(f"somebody listens at {where} already, who is not the server that is to be started")

    async def come_up(self) -> Loaded:
        """Wait until it is ready; return what it says that it gives, None where it does not tell."""
        pause_s = FIRST_PAUSE_S
        while not await self._is_ready():
            await asyncio.sleep(pause_s)
            pause_s = min(LONGEST_PAUSE_S, 1.2 * pause_s)
        props, models = await asyncio.gather(self._asked("/props"), self._asked("/v1/models"))
        context_length, parallel = of_props(props)
        return Loaded(None, context_length or of_list(models), parallel)

    def reason(self, what: str, lines: Sequence[str]) -> str:
        """Say why it failed: *what* was seen from outside and its last answer; and its last *lines*."""
        seen = f"{what} ({self._last})" if self._last and what else what
        said = " | ".join(line[:LINE_LETTERS] for line in lines[-LAST_LINES if what else -1 :])
        return SAID.join(filter(None, (seen, said)))

    async def _takes_connections(self) -> bool:
        try:
            async with asyncio.timeout(self._connect_s):
                _, writer = await asyncio.open_connection(self.target.host, self.target.port)
        except OSError as exc:  # a TimeoutError is one
            self._last = trouble_of(exc, self._connect_s)
            return False
        writer.transport.abort()
        return True

    async def _is_ready(self) -> bool:
        if self._ready == PORT:
            return await self._takes_connections()
        try:
            target = self.target.at(self._ready)
            status, _ = await ask(target, within_s=ANSWER_S, connect_s=self._connect_s, most_bytes=LIST_BYTES)
        except (Unheard, TimeoutError) as exc:
            self._last = f"{self._ready}: {exc or 'no answer'}"
            return False
        self._last = f"{self._ready}: status {status}" if status != 200 else ""
        return status == 200

    async def _asked(self, path: str) -> bytes:
        """Return what it says at *path*, nothing if it has no such path."""
        try:
            status, body = await ask(self.target.at(path), within_s=ANSWER_S, most_bytes=LIST_BYTES)
        except (Unheard, TimeoutError):
            return b""
        return body if status == 200 else b""


def of_props(body: bytes) -> tuple[int | None, int | None]:
    """Return the context of one request, and how many are served at once, by llama.cpp's `/props`."""
    try:
        props = decoded(body)
        return count(props["default_generation_settings"].get("n_ctx")), count(props.get("total_slots"))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None, None


def of_list(body: bytes) -> int | None:
    """Return the context of one request by a list of models."""
    try:
        return next((info.context_length for info in listed(body) if info.context_length), None)
    except (ValueError, RecursionError):
        return None
