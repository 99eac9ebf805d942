"""What a dmap does with Redis: it beats, and its parts share what they share."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping

from dmap import tasks
from dmap.config import CacheSection, RedisSection
from dmap.events import Bus
from dmap.owner import here, own_name, told_of
from dmap.shared.answers import Answers
from dmap.shared.connection import Away, Connection, Number
from dmap.shared.leases import Leases
from dmap.shared.quota import Quotas
from dmap.shared.settings import VERSION, SharedSettings
from dmap.shared.stream import EventStream

BEAT_S = 0.5
"""How often each dmap says that it is there; also how soon Redis is noticed to be gone or back."""
RENEW_S = 10.0
"""How often each says what runs there."""
GONE_S = 6
"""A dmap that has not been heard of for so long is not counted any more."""

_BEAT = f"""{VERSION}
local now = tonumber(redis.call('TIME')[1])
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZREMRANGEBYSCORE', KEYS[1], now + ARGV[2] + 1, '+inf') -- the clock went back
redis.call('EXPIRE', KEYS[1], ARGV[2] * 2)
return {{redis.call('ZCARD', KEYS[1]), version_of(KEYS[2])}}
"""


class Shared:
    """
    What is shared through the Redis of *section*, as long as this is `running`.

    *dmaps* is how many there were when Redis was last heard of, this one among them.  *quotas* are the
    bounds of keys over all of them, *settings* what was set for all, and *leases* those of *servers*, URLs by
    the backends that dmap switches.  *owner* is what this dmap is called there.  By *stream* the
    events of *bus* are told to the readers of all.
    """

    def __init__(
        self,
        section: RedisSection,
        observe: Callable[[float, str], None],
        servers: Mapping[str, str],
        bus: Bus,
        owner: str | None = None,
    ) -> None:
        self.dmaps = 1
        self.connection = Connection(section, observe)
        self._name = secrets.token_hex(8)
        self._prefix, self._within_s = section.prefix, section.timeout_ms / 1000
        self.quotas = Quotas(self.connection, section.prefix, self._name)
        self.leases = Leases(self.connection, section.prefix, servers, owner or own_name(), told_of())
        self.settings = SharedSettings(self.connection, f"{section.prefix}saved")
        self.stream = EventStream(self.connection, f"{section.prefix}events", here(), self._name, bus)
        self._renewed_at = 0.0

    @property
    def is_up(self) -> bool:
        """Whether Redis answers."""
        return self.connection.is_up

    def answers(self, section: CacheSection) -> Answers:
        """Return the answers that *section* lets be kept."""
        return Answers(self.connection, self._prefix, section, self._within_s)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """
        Share as long as the context is open; the start waits for the first answer, or for none, twice.

        Raises `ConfigProblem` where another dmap has one of the servers.
        """
        try:
            async with tasks.running(self.connection.run, "redis"):
                if not await self._beat():  # one that is late is no reason to begin without the others
                    await self._beat()
                await self.leases.take()
                async with (
                    tasks.running(self._keep_beating, "beat of redis"),
                    tasks.running(self.leases.keep, "leases of servers"),
                    tasks.running(self.stream.run, "events of all dmaps"),
                ):
                    yield
                self.leases.release()
                await self._said()
        finally:
            await self.connection.close()

    async def _said(self) -> None:
        """Wait until what was told last has been sent."""
        with contextlib.suppress(Away):
            await self.connection.ask("beat", "PING")

    async def _keep_beating(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            await self._beat()

    async def _beat(self) -> bool:
        """
        Say that this dmap is there, and what runs there; count all of them, and follow what they set.

        Return whether Redis has answered all that.
        """
        was_up, now = self.is_up, asyncio.get_running_loop().time()
        with contextlib.suppress(Away):
            keys = (f"{self._prefix}dmaps", self.settings.key)
            command = ("EVAL", _BEAT, len(keys), *keys, self._name, GONE_S)
            dmaps, version = await self.connection.probe("beat", *command, shape=tuple[Number, Number])
            self.dmaps = max(1, dmaps)
            if not was_up or now - self._renewed_at >= RENEW_S:
                self._renewed_at = now
                self.quotas.renew()
            await self.settings.follow(version)
            return True
        return False
