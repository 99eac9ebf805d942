"""
Whose a model server is, over all hosts: a lease in Redis for each server that a dmap switches.

It is a guard against two dmaps that are meant for one server, not a fence: what a dmap has begun when it
loses its lease goes on.  On one host `owner` has kept the order already, so what another process of this host
has left is taken over at once.  A lease that is not renewed while somebody waits for it is of a dead one.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import NamedTuple

from dmap.config import ConfigProblem
from dmap.logfmt import Line
from dmap.owner import names_of
from dmap.shared.connection import Away, Connection

LEASE_S = 10
KEEP_S = 3.0
"""How often a lease is renewed."""
LOOK_S = 1.0
"""How often who waits for a lease looks whether it is renewed."""

_CLAIM = """
for _, key in ipairs(KEYS) do
  local owner = redis.call('HGET', key, 'owner')
  if owner and owner ~= ARGV[1] then return redis.call('HMGET', key, 'told', 'beats') end
end
for _, key in ipairs(KEYS) do
  redis.call('HSET', key, 'owner', ARGV[1], 'told', ARGV[2])
  redis.call('HINCRBY', key, 'beats', 1)
  redis.call('EXPIRE', key, ARGV[3])
end
return {}
"""
_RELEASE = """
for _, key in ipairs(KEYS) do
  if redis.call('HGET', key, 'owner') == ARGV[1] then redis.call('DEL', key) end
end
return 0
"""

_log = logging.getLogger(__name__)


class _Other(NamedTuple):
    told: str
    beats: int


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
        self._keys = {
            name: [f"{prefix}owner:{each}" for each in names_of(url)] for name, url in servers.items()
        }

    async def take(self) -> None:
        """Take all of them.  Raises `ConfigProblem` that names the other dmap where one is alive."""
        for backend in self._keys:
            try:
                await self._take(backend)
            except Away as error:
                told = {"backend": backend, "reason": str(error)}
                _log.warning(Line("server_unchecked", told))

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

    async def _take(self, backend: str) -> None:
        clock, before = asyncio.get_running_loop().time, None
        until = clock() + LEASE_S
        while (other := await self._claim(backend)) is not None:
            is_alive = before is not None and other.beats > before.beats
            if is_alive or clock() > until:
                problem = f"another dmap switches the models of this server: {other.told}; only one may"
                raise ConfigProblem([f"backends.{backend}.url: {problem}"])
            before = before or other
            await asyncio.sleep(LOOK_S)

    async def _claim(self, backend: str) -> _Other | None:
        """Take or renew the lease of *backend*; return who has it instead."""
        keys = self._keys[backend]
        command = ("EVAL", _CLAIM, len(keys), *keys, self._owner, self._told, LEASE_S)
        said = await self._connection.ask("owner", *command)
        return _Other(said[0].decode(errors="replace"), int(said[1])) if said else None

    def _note(self, backend: str, other: _Other | None) -> None:
        if other is None:
            self.others.pop(backend, None)
        elif backend not in self.others:
            self.others[backend] = other.told
            told = {"backend": backend, "by": other.told, "then": "both unload each other's models"}
            _log.warning(Line("server_of_another", told))
