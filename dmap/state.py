"""
What was set over the admin API, kept in one small file so that it survives a restart.

The file is written whole, beside the old one, and then takes its name (POSIX rename): a reader, or we after
a crash, find one or the other.  What cannot be read is put aside and told in the log; it is never a reason
not to start.
"""

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from dmap.config import Defaults, Load
from dmap.errors import NotSaved
from dmap.logfmt import logfmt

_log = logging.getLogger(__name__)

MAX_BYTES = 1024 * 1024
"""Of the file; what dmap writes takes some hundred bytes per model."""


@dataclass(frozen=True, slots=True)
class Activation:
    """What was set for one model: *defaults* of requests, and options of its *load*, in dmap's names."""

    defaults: Mapping[str, Any] = field(default_factory=dict)
    load: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Saved:
    """
    All that was set: the *active* model, whom requests without a model get, and *models* by their names.

    *drained* are the devices that serve nobody until they are resumed.
    """

    active: str | None = None
    models: Mapping[str, Activation] = field(default_factory=dict)
    drained: frozenset[str] = frozenset()


NOTHING_SAVED = Saved()


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Model(_Closed):
    defaults: Defaults = Defaults()
    load: Load = Load()


class _File(_Closed):
    """The format, *version* 1."""

    version: Literal[1]
    active: str | None = None
    models: dict[str, _Model] = {}
    drained: frozenset[str] = frozenset()


def default_path(environ: Mapping[str, str]) -> Path:
    """Return where systemd wants state (`StateDirectory=`), else where XDG's base directories have it."""
    given = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if given:
        return Path(given) / "state.json"
    home = Path(
        environ.get("XDG_STATE_HOME") or Path(environ.get("HOME") or "~").expanduser() / ".local/state"
    )
    return home / "dmap" / "state.json"


class StateFile:
    """The file at *path*; with None nothing is kept beyond this process."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._turn = asyncio.Lock()

    def read(self) -> Saved:
        """Return what was saved last; nothing if there is no file, or none that can be read."""
        if self.path is None:
            return NOTHING_SAVED
        try:
            with self.path.open("rb") as file:
                text = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return NOTHING_SAVED
        except OSError as exc:
            _log.error(logfmt("state_unreadable", {"path": self.path, "reason": exc.strerror}))
            return NOTHING_SAVED
        try:
            return _parsed(text)
        except ValueError as exc:
            self._put_aside(_reason(exc))
            return NOTHING_SAVED

    async def write(self, saved: Saved) -> None:
        """
        Save; return when it is on the disk.  One at a time, in the order of the calls.

        A caller that is cancelled does not stop it: two threads must not write at once, nor what is in effect
        be missing on the disk.  Raises `NotSaved`; the old file is as it was then.
        """
        if self.path is not None:
            await asyncio.shield(self._write(self.path, saved))

    async def _write(self, path: Path, saved: Saved) -> None:
        async with self._turn:
            try:
                await asyncio.to_thread(_replace, path, _text(saved))
            except OSError as exc:
                raise NotSaved(
                    f"it holds until the next restart only: {path} cannot be written: {exc.strerror}"
                ) from exc

    def _put_aside(self, reason: str) -> None:
        assert self.path is not None, "what was read has a place"
        aside = self.path.with_name(self.path.name + ".bad")
        try:
            self.path.replace(aside)
            now_at: Path | None = aside
        except OSError:
            now_at = None
        told = {"path": self.path, "reason": reason, "now_at": now_at}
        _log.error(logfmt("state_not_understood", told))


def _parsed(text: bytes) -> Saved:
    """Raises `ValueError`, as pydantic does, for what is no state of this version."""
    if len(text) > MAX_BYTES:
        raise ValueError(f"it is over {MAX_BYTES} bytes")
    found = _File.model_validate_json(text)
    models = {
        name: Activation(model.defaults.given(), model.load.given()) for name, model in found.models.items()
    }
    return Saved(found.active, models, found.drained)


def _reason(exc: ValueError) -> str:
    if not isinstance(exc, ValidationError):
        return str(exc)
    first = exc.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"


def _text(saved: Saved) -> bytes:
    models = {
        name: {"defaults": dict(model.defaults), "load": dict(model.load)}
        for name, model in saved.models.items()
    }
    told = {"version": 1, "active": saved.active, "models": models, "drained": sorted(saved.drained)}
    return json.dumps(told, indent=1).encode() + b"\n"


def _replace(path: Path, text: bytes) -> None:
    """Write *text* beside *path*, see it on the disk, and have it take the name."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    beside = path.with_name(path.name + ".new")
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
