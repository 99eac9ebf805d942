"""
Answers for whoever asks the same again: found before a request queues, kept after an answer has ended.

It comes after every check, so nobody gets by it what he would not get without it, and before the wait for a
lease.  Whatever goes wrong with what is kept, the request is answered as if there were nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web
from multidict import CIMultiDict

from dmap.access import Client
from dmap.config import CacheSection
from dmap.errors import ClientStalled
from dmap.models import Route
from dmap.owner import own_name
from dmap.relay import Reply
from dmap.relay.copy import Copy, Room
from dmap.sections.types import is_loopback
from dmap.shared.answers import Answers
from dmap.shared.connection import Away
from dmap.web.asked import Asked
from dmap.web.beside import beside
from dmap.web.making import Making
from dmap.web.visit import Visit
from dmap.wire.headers import meaning
from dmap.wire.kept import HEAD_BYTES, Kept, directives, name_of, read, tells_failure, written
from dmap.wire.users import HEADER

Ask = Callable[[], Awaitable[web.StreamResponse]]


class Cache:
    """What is kept in *answers*, as *section* says; *making* tells what answers are made with."""

    def __init__(self, section: CacheSection, answers: Answers, making: Making) -> None:
        self._section, self._answers, self._making = section, answers, making
        self._room, self._host = Room(), own_name()

    async def answer(
        self, visit: Visit, reply: Reply, asked: Asked, routes: Sequence[Route], ask: Ask
    ) -> web.StreamResponse:
        """Answer *visit*, whose request may go to *routes*, with what was kept; else *ask*, and keep that."""
        said, made_with = directives(visit.request.headers), ""
        if asked.may_repeat and "no-store" not in said:
            made_with = self._making.of(routes)
        if not made_with:
            return await ask()
        key = await beside(
            asked.size, lambda: asked.key(made_with, self._who(visit), meaning(visit.request.headers))
        )
        kept = await self._find(visit, key) if "no-cache" not in said else None
        if kept is not None:
            return await _replayed(reply, *kept)
        visit.record.cache = visit.record.cache or "miss"
        reply.copy = copy = Copy(self._room, self._section.max_entry, made_with)
        try:
            response = await ask()
            if not visit.record.outcome:
                self._keep(key, copy)
            return response
        finally:
            copy.drop()

    async def _find(self, visit: Visit, key: bytes) -> tuple[Kept, int] | None:
        """Return what was kept for *key* and its age in seconds, and note how that went."""
        most = self._section.max_entry + HEAD_BYTES
        try:
            found = await self._answers.find(name_of(key), most)
        except Away:
            visit.record.cache = "away"
            return None
        kept = read(key, found[0]) if found is not None else None
        if found is None or kept is None or not 0 < found[1] <= kept.ttl_ms:
            return None
        age_s = (kept.ttl_ms - found[1]) / 1000
        if age_s > self._section.ttl_s:  # which was longer when it was kept
            return None
        visit.record.cache = "hit"
        return kept, int(age_s)

    def _who(self, visit: Visit) -> list[str]:
        return who(visit.client, visit.request.headers.get(HEADER, ""), self._host)

    def _keep(self, key: bytes, copy: Copy) -> None:
        """Have the answer be kept, once its client has it."""
        body, kind, ttl_ms = copy.body, copy.kind, int(self._section.ttl_s * 1000)
        if body is not None and kind is not None and not tells_failure(body):
            asyncio.get_running_loop().call_soon(self._write, key, Kept(kind, body, ttl_ms))

    def _write(self, key: bytes, kept: Kept) -> None:
        self._answers.keep(name_of(key), written(key, kept), kept.ttl_ms)


def who(client: Client, user: str, host: str) -> list[str]:
    """
    Return whose answer it is: that of *client*, and where an app asks for many people, of this *user*.

    An address that each host has for itself is a client of *host*.
    """
    is_local = client.key is None and is_loopback(client.name)
    return [client.name, user, host if is_local else ""]


async def _replayed(reply: Reply, kept: Kept, age_s: int) -> web.StreamResponse:
    """Answer with what was *kept*, under the bounds of any answer for a client that does not read."""
    headers = CIMultiDict({"Content-Type": kept.kind, "Age": str(age_s), "Dmap-Cache": "hit"})
    await reply.commit(200, headers, length=len(kept.body), sse=kept.kind.startswith("text/event-stream"))
    await reply.write(kept.body)
    try:
        await reply.drain()
    except ClientStalled as error:
        await reply.fail(error)
    return await reply.end()
