"""
The active model and what was set for models over the admin API, for all dmaps: one hash in Redis.

It is written by comparing versions, so of two orders at the same time one is done anew over the other.  Each
dmap keeps the last copy, also on its disk, and hears of a new version with its next beat.  A Redis that has
lost its data, or is new, gets the newest copy that a dmap has.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from dmap.errors import NotShared
from dmap.logfmt import Line
from dmap.shared.connection import Away, Connection, Number
from dmap.state import Saved, saved_of, text_of

TRIES = 5
"""So often an order is done anew because another one came in between."""

VERSION = """
local function version_of(key)
  local text = redis.call('HGET', key, 'version') or ''
  return #text < 16 and tonumber(string.match(text, '^%d+$')) or 0
end
"""
"""What is no version, because somebody else has written it, counts as none."""
_WRITE = f"""{VERSION}
local version = version_of(KEYS[1])
if version ~= tonumber(ARGV[1]) then return {{0, version}} end
redis.call('HSET', KEYS[1], 'version', ARGV[2], 'json', ARGV[3])
return {{1, tonumber(ARGV[2])}}
"""
_DOWN = "Redis does not answer, so the other dmaps could not learn it; nothing was set"

_log = logging.getLogger(__name__)


class SharedSettings:
    """
    What all dmaps have set, in the hash *key*; *mine* returns the copy that is in effect here.

    *adopt* has a newer copy take effect here.
    """

    def __init__(self, connection: Connection, key: str) -> None:
        self.mine: Callable[[], Saved] = Saved
        self.adopt: Callable[[Saved], None] = lambda saved: None
        self.key = key
        self._connection = connection
        self._turn = asyncio.Lock()

    def check(self) -> None:
        """Raise `NotShared` if nothing can be set now."""
        if not self._connection.is_up:
            raise NotShared(_DOWN, retry_after_s=5)

    async def change(self, change: Callable[[Saved], Saved]) -> Saved:
        """
        Have *change* of what all have set hold for all; return it, with its version.

        Raises `NotShared`; then nothing has changed.
        """
        try:
            async with self._turn:
                for _ in range(TRIES):
                    now = self.mine()
                    new = replace(change(now), shared_version=now.shared_version + 1)
                    if await self._write(now.shared_version, new):
                        return new
                    await self._read()
        except Away as error:
            raise NotShared(_DOWN, retry_after_s=5) from error
        raise NotShared("other orders came in between again and again; try again", retry_after_s=1)

    async def follow(self, version: int) -> None:
        """Heed that the copy in Redis has *version*, 0 if there is none; raises `Away`."""
        mine = self.mine()
        if version > mine.shared_version:
            async with self._turn:
                await self._read()
        elif version < mine.shared_version:
            await self._write(version, mine)
        elif version == 0 and (mine.active or mine.models):
            first = replace(mine, shared_version=1)
            if await self._write(0, first):
                self.adopt(first)

    async def _write(self, over: int, saved: Saved) -> bool:
        """Write *saved* over the version *over*; return False if there is another one by now."""
        text = text_of(Saved(saved.active, saved.models))
        command = ("EVAL", _WRITE, 1, self.key, over, saved.shared_version, text)
        is_written, _ = await self._connection.ask("saved", *command, shape=tuple[Number, Number])
        return bool(is_written)

    async def _read(self) -> None:
        """Have the copy in Redis hold here, if it is newer."""
        command, shape = ("HMGET", self.key, "version", "json"), tuple[bytes | None, bytes | None]
        version, text = await self._connection.ask("saved", *command, shape=shape)
        mine = self.mine()
        if version is None or not version.isdigit() or int(version) <= mine.shared_version:
            return
        try:
            theirs = saved_of(text or b"")
        except ValueError as exc:
            _log.error(Line("shared_settings_not_understood", {"reason": str(exc).partition("\n")[0]}))
            theirs = mine
        self.adopt(replace(mine, active=theirs.active, models=theirs.models, shared_version=int(version)))
