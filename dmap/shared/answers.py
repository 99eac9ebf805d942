"""
Answers that are kept in Redis: found within a bound, kept in the background, and lost without harm.

They share the connection with what requests wait for, so little of them is under way at a time: of answers
that are looked for `ROUND_BYTES`, of those to be kept one after the other.
"""

import asyncio
from collections import deque
from typing import Any

from dmap.config import CacheSection
from dmap.shared.connection import Away, Connection, in_time

ROUND_BYTES = 4 * 2**20
"""What round trips may bring of answers: 35 ms at 1 Gbit/s, of the 50 that an answer of Redis may take."""
WAITING, WAITING_BYTES = 4096, 32 * 2**20
"""So many answers wait to be kept, of so many bytes; what comes then is not."""

_FIND = """
if redis.call('STRLEN', KEYS[1]) > tonumber(ARGV[1]) then return {false, 0} end
return {redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1])}
"""


class Answers:
    """
    The answers that *section* lets be kept over *connection*, whose keys begin with *prefix*.

    Looking for one takes *within_s* at the most.  Of those that wait to be kept there are *waiting_bytes*.
    """

    def __init__(self, connection: Connection, prefix: str, section: CacheSection, within_s: float) -> None:
        self._connection, self._prefix, self._within_s = connection, f"{prefix}cache:", within_s
        self._turns = asyncio.Semaphore(ROUND_BYTES // section.max_entry)
        self._waiting = deque[tuple[Any, ...]]()
        self.waiting_bytes = 0
        self._under_way: asyncio.Future[Any] | None = None

    async def find(self, name: str, most: int) -> tuple[bytes, int] | None:
        """
        Return what is kept under *name*, and the milliseconds for which it is kept on.

        None if there is nothing, or something of over *most* bytes.  Raises `Away`.
        """
        command = ("EVAL", _FIND, 1, self._prefix + name, most)
        async with in_time(self._within_s), self._turns:
            shape = tuple[bytes | None, int]
            data, left_ms = await self._connection.ask("cache", *command, shape=shape)
        return None if data is None else (data, left_ms)

    def keep(self, name: str, data: bytes, ttl_ms: int) -> None:
        """Have *data* be kept under *name* for *ttl_ms*, soon, if there is room."""
        if len(self._waiting) >= WAITING or self.waiting_bytes + len(data) > WAITING_BYTES:
            return
        self._waiting.append(("SET", self._prefix + name, data, "PX", ttl_ms))
        self.waiting_bytes += len(data)
        if self._under_way is None:
            self._next()

    def _next(self) -> None:
        """Send the next one, or forget all where Redis is away."""
        self._under_way = None
        if not self._waiting:
            return
        command = self._waiting.popleft()
        self.waiting_bytes -= len(command[2])
        try:
            self._under_way = self._connection.post("cache", *command)
            self._under_way.add_done_callback(self._sent)
        except Away:
            self._waiting.clear()
            self.waiting_bytes = 0

    def _sent(self, answer: "asyncio.Future[Any]") -> None:
        answer.cancelled() or answer.exception()  # nobody waits for it
        self._next()
