"""
Whose a model server is, over all hosts: a lease in Redis for each server that a dmap switches.

It is a guard against two dmaps that are meant for one server, not a fence: what a dmap has begun when it
loses its lease goes on.  On one host `owner` has kept the order already, so what another process of this host
has left is taken over at once.  A lease that is not renewed while somebody waits for it is of a dead one.
Two dmaps, each with a server on its own host, have two servers, even if their hosts have one name or address.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import NamedTuple

from dmap.config import ConfigProblem
from dmap.logfmt import Line
from dmap.owner import names_of, place_of
from dmap.shared.connection import Away, Connection

LEASE_S = 10
KEEP_S = 3.0
"""How often a lease is renewed."""
LOOK_S = 1.0
"""How often who waits for a lease looks whether it is renewed."""

_CLAIM = """
local free = {}
for _, key in ipairs(KEYS) do
  local said = redis.call('HMGET', key, 'owner', 'told', 'beats', 'own')
  if not said[1] or said[1] == ARGV[1] or (said[3] or '') == ARGV[5] then
    free[#free + 1] = key
  elseif said[4] ~= '1' or ARGV[4] ~= '1' then
    return {said[2] or said[1], said[3] or ''}
  end
end
for _, key in ipairs(free) do
  local beats = tonumber(redis.call('HGET', key, 'beats')) or 0 -- somebody may have written any
  redis.call('HSET', key, 'owner', ARGV[1], 'told', ARGV[2], 'own', ARGV[4], 'beats', beats % 1e9 + 1)
  redis.call('EXPIRE', key, ARGV[3])
end
return {'', ''}
"""
"""Owner, what it tells, seconds, whether the server is on its host, and `beats` of one that is dead."""
_RELEASE = """
for _, key in ipairs(KEYS) do
  if redis.call('HGET', key, 'owner') == ARGV[1] then redis.call('DEL', key) end
end
return 0
"""

_log = logging.getLogger(__name__)


class _Other(NamedTuple):
    told: str
    beats: bytes


class Leases:
    """
    The leases of *servers*, URLs by their backends, for *owner*; others learn by *told* who that is.

    *others* are the dmaps that have a lease of ours, by backends.
    """

    def __init__(
        self, connection: Connection, prefix: str, servers: Mapping[str, str], owner: str, told: str
    ) -> None:
        self.others: dict[str, str] = {}
        self._connection, self._owner, self._told = connection, owner, told
        self._own = {name: int(place_of(url)[0] == "localhost") for name, url in servers.items()}
        self._keys = {
            name: [f"{prefix}owner:{each}" for each in names_of(url)] for name, url in servers.items()
        }

    async def take(self) -> None:
        """Take all of them.  Raises `ConfigProblem` that names the other dmap where one is alive."""
        for backend in self._keys:
            # One answer that is late is no reason to check nothing.
            why = await self._why_not(backend) and await self._why_not(backend)
            if why is not None:
                _log.warning(Line("server_unchecked", {"backend": backend, "reason": str(why)}))

    async def keep(self) -> None:
        """Renew them, and notice who else has one, for ever."""
        while True:
            await asyncio.sleep(KEEP_S)
            for backend in self._keys:
                try:
                    self._note(backend, await self._claim(backend))
                except Away:
                    break

    def release(self) -> None:
        """Give them back soon, so that another host may have them at once."""
        for keys in self._keys.values():
            self._connection.tell("owner", "EVAL", _RELEASE, len(keys), *keys, self._owner)

    async def _why_not(self, backend: str) -> Away | None:
        """Take the lease of *backend*; return why nobody knows whether that may be."""
        try:
            await self._take(backend)
        except Away as error:
            return error
        return None

    async def _take(self, backend: str) -> None:
        clock, before = asyncio.get_running_loop().time, None
        until = clock() + LEASE_S
        while (other := await self._claim(backend)) is not None:
            before = before or other
            if other.beats != before.beats:
                problem = f"another dmap switches the models of this server: {other.told}; only one may"
                raise ConfigProblem([f"backends.{backend}.url: {problem}"])
            if clock() > until:  # the clock of Redis went back, or it would be over by now
                await self._claim(backend, over=other.beats)
            await asyncio.sleep(LOOK_S)

    async def _claim(self, backend: str, over: bytes = b"nobody") -> _Other | None:
        """Take or renew the lease of *backend*, also *over* one that a dead dmap has; return who has it."""
        keys = self._keys[backend]
        command = ("EVAL", _CLAIM, len(keys), *keys, self._owner, self._told, LEASE_S)
        command += (self._own[backend], over)
        said = await self._connection.ask("owner", *command, shape=tuple[bytes, bytes])
        return _Other(said[0].decode(errors="replace"), said[1]) if said[0] else None

    def _note(self, backend: str, other: _Other | None) -> None:
        if other is None:
            self.others.pop(backend, None)
        elif backend not in self.others:
            self.others[backend] = other.told
            told = {"backend": backend, "by": other.told, "then": "both unload each other's models"}
            _log.warning(Line("server_of_another", told))
