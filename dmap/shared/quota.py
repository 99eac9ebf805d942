"""
The bounds of keys over all dmaps together: what each key has under way, how often it asks, who guesses keys.

The arithmetic is that of `access.quota`, in Lua, by the one clock of Redis.  A request costs one round trip,
and only with a key that has a bound.  Where Redis is away each dmap goes by its own count.
"""

import functools
import hashlib
import itertools
from asyncio import Future
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from dmap.access import Verdict
from dmap.config import Key
from dmap.shared.connection import Away, Connection, Number, in_time, shaped

BUSY_S = 25
"""
A request that nobody renews is counted no longer: its dmap was killed.

That is a promise of 30 s, less what it takes to ask; and one of two renewals may be lost.
"""
RENEWED = 100
"""Requests renewed by one command."""

_PACE = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local minute = 60000000
"""
_BEGIN = f"""{_PACE}
local per_min, parallel = tonumber(ARGV[1]), tonumber(ARGV[2])
if parallel > 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
  local latest = now + (ARGV[4] + 1) * 1000000 -- later ones are from before the clock went back
  redis.call('ZREMRANGEBYSCORE', KEYS[2], string.format('%.0f', latest), '+inf')
  local running = redis.call('ZCARD', KEYS[2])
  if running >= parallel then return {{running, 0}} end
end
if per_min > 0 then
  local even = math.min(tonumber(redis.call('GET', KEYS[1]) or '0'), now + minute)
  local wait = even - now - minute + minute / per_min
  if wait > 1 then return {{0, math.ceil(wait)}} end
  redis.call('SET', KEYS[1], string.format('%.3f', math.max(even, now) + minute / per_min), 'EX', 61)
end
if parallel > 0 then
  redis.call('ZADD', KEYS[2], now + ARGV[4] * 1000000, ARGV[3])
  redis.call('EXPIRE', KEYS[2], ARGV[4])
end
return {{0, 0}}
"""
"""Keys of pace and of what runs; bounds (0 is none), the request, seconds.  Gives who runs, or µs to wait."""
_RENEW = f"""{_PACE}
for at = 2, #ARGV do redis.call('ZADD', KEYS[1], now + ARGV[1] * 1000000, ARGV[at]) end
return redis.call('EXPIRE', KEYS[1], ARGV[1])
"""
_FORGET = """
local run, dmap = {}, ARGV[1] .. '.'
for at = 2, #ARGV do run[ARGV[at]] = true end
for _, slot in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  if string.sub(slot, 1, #dmap) == dmap and not run[slot] then redis.call('ZREM', KEYS[1], slot) end
end
"""
"""A dmap and all that runs there: what else is counted for it has ended while Redis was away."""
_GUESS = f"""{_PACE}
local even = math.min(tonumber(redis.call('GET', KEYS[1]) or '0'), now + minute)
even = math.max(even, now) + minute / ARGV[1]
redis.call('SET', KEYS[1], string.format('%.3f', even), 'EX', 121)
return math.ceil(even - now)
"""

Learn = Callable[[str, float], None]
"""Hears that all wrong keys of an address are made up for in so many seconds."""


class Quotas:
    """Counts the requests of this dmap, called *name*, over *connection*; all keys begin with *prefix*."""

    def __init__(self, connection: Connection, prefix: str, name: str) -> None:
        self._connection, self._prefix, self._name = connection, prefix, name
        self._numbers = itertools.count(1)
        self._running: dict[str, str] = {}
        self._names, self._asking = set[str](), set[str]()

    def place(self, key: Key) -> str:
        """Return what a request of *key* is counted as; `end` has to follow, whatever becomes of it."""
        slot = f"{self._name}.{next(self._numbers)}"
        if key.parallel is not None:
            self._running[slot] = key.name
            self._names.add(key.name)
        return slot

    async def begin(self, key: Key, slot: str) -> Verdict | None:
        """Return whether all dmaps together let a request of *key* begin; None if Redis is away or late."""
        pace, busy = f"{self._prefix}{{{key.name}}}:rate", self._busy(key.name)
        bounds = (key.rate_per_min or 0, key.parallel or 0)
        self._asking.add(slot)
        try:
            command = ("EVAL", _BEGIN, 2, pace, busy, *bounds, slot, BUSY_S)
            async with in_time(self._connection.within_s):
                running, wait_us = await self._connection.ask("quota", *command, shape=tuple[Number, Number])
        except Away:
            return None
        finally:
            self._asking.discard(slot)
        return Verdict(running, wait_us / 1e6)

    def end(self, slot: str) -> None:
        """Count it no more.  Idempotent."""
        name = self._running.pop(slot, None)
        if name is not None:
            self._connection.tell("quota", "ZREM", self._busy(name), slot)

    def renew(self) -> None:
        """Say of all that were let in here that they still run, and that nothing else does."""
        slots = defaultdict[str, list[str]](list)
        for slot, name in self._running.items():
            slots[name].append(slot)
        for name in self._names:
            running = slots[name]
            self._connection.tell("quota", "EVAL", _FORGET, 1, self._busy(name), self._name, *running)
            running = [slot for slot in running if slot not in self._asking]
            for at in range(0, len(running), RENEWED):
                some = running[at : at + RENEWED]
                self._connection.tell("quota", "EVAL", _RENEW, 1, self._busy(name), BUSY_S, *some)

    def guessed(self, address: str, per_min: int, learn: Learn) -> None:
        """Count a wrong key from *address* for all dmaps; *learn* hears what all of them have counted."""
        hidden = hashlib.blake2b(address.encode(), key=self._prefix.encode(), digest_size=16).hexdigest()
        try:
            key = f"{self._prefix}fail:{hidden}"
            answer = self._connection.post("guess", "EVAL", _GUESS, 1, key, per_min)
        except Away:
            return
        answer.add_done_callback(functools.partial(_heard, address, learn))

    def _busy(self, name: str) -> str:
        return f"{self._prefix}{{{name}}}:busy"


def _heard(address: str, learn: Learn, answer: "Future[Any]") -> None:
    if not answer.cancelled() and answer.exception() is None:
        with suppress(Away):
            learn(address, shaped(answer.result(), Number) / 1e6)
