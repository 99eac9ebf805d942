"""
What was set over the admin API, and what was learnt, kept in one small file so that it survives a restart.

The file is written whole, beside the old one, and then takes its name (POSIX rename).  So a reader, or dmap
after a crash, finds one or the other.  A file that cannot be understood is put aside and logged.  It never
keeps dmap from starting.
"""

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    GetPydanticSchema,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic.dataclasses import dataclass

from dmap.errors import NotSaved
from dmap.logfmt import Line
from dmap.sections import Defaults, Load

_log = logging.getLogger(__name__)

MAX_BYTES = 1024 * 1024
"""Of the file; what dmap writes takes some hundred bytes per model."""

LONGEST_S = 3600.0
"""No load or answer counts for longer."""
MOST_PER_S = 1e15
"""No load reads more bytes in a second."""
MODELS, DEVICES, NAME = 64, 6, 600
"""So much is kept of what was learnt, of names so long in JSON: that leaves room for what was set."""


def _options(section: type[Defaults | Load]) -> GetPydanticSchema:
    """Have pydantic check a mapping as *section* checks it, and keep what is given there."""
    return GetPydanticSchema(lambda _, handler: handler(Annotated[section, AfterValidator(section.given)]))


_CLOSED = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True, config=_CLOSED)
class Activation:
    """What was set for one model: *defaults* of requests, and options of its *load*, in dmap's names."""

    defaults: Annotated[Mapping[str, Any], _options(Defaults)] = field(default_factory=dict)
    load: Annotated[Mapping[str, Any], _options(Load)] = field(default_factory=dict)


def later(before: Mapping[str, Activation], more: Mapping[str, Activation]) -> dict[str, Activation]:
    """Return *more* after what was set *before*: of two names that mean one model, what is set last wins."""
    return {name: each for name, each in before.items() if name not in more} | dict(more)


_Name = Annotated[str, Field(max_length=NAME)]
_Seconds = Annotated[float, Field(gt=0, le=LONGEST_S, allow_inf_nan=False)]
_Rate = Annotated[float, Field(gt=0, le=MOST_PER_S, allow_inf_nan=False)]
_ByModel = Annotated[Mapping[_Name, _Seconds], Field(max_length=MODELS)]


@dataclass(frozen=True, slots=True, config=_CLOSED)
class Durations:
    """What a device has taught: seconds of loads and answers, by `backend/id`, and what loads read."""

    loads_s: _ByModel = field(default_factory=dict)
    answers_s: _ByModel = field(default_factory=dict)
    bytes_per_s: _Rate | None = None
    cached_loads_s: _ByModel = field(default_factory=dict)
    cached_bytes_per_s: _Rate | None = None


def _lenient(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    """Go on without what was learnt if that cannot be understood: it is learnt again."""
    try:
        return read(value)
    except ValidationError as exc:
        _log.warning(Line("durations_not_understood", {"reason": _reason(exc)}))
        return {}


@dataclass(frozen=True, slots=True, config=_CLOSED)
class Saved:
    """
    All that was set: the *active* model, which answers requests without a model, and *models* by their names.

    Those two are what several dmaps may share; *shared_version* is that of the last copy, 0 before the first.

    *drained* are the devices that serve nobody until they are resumed.  *durations* are by device: nobody has
    set them, dmap has learnt them.
    """

    active: str | None = None
    models: Mapping[str, Activation] = field(default_factory=dict)
    drained: frozenset[str] = frozenset()
    durations: Annotated[Mapping[str, Durations], Field(max_length=DEVICES), WrapValidator(_lenient)] = field(
        default_factory=dict
    )
    shared_version: int = 0

    def sharing(self, others: "Saved") -> "Saved":
        """Return this with what several dmaps share taken from *others*."""
        version = others.shared_version
        return replace(self, active=others.active, models=others.models, shared_version=version)

    @model_validator(mode="before")
    @classmethod
    def _of_version(cls, values: Any) -> Any:
        """Read the format, version 1; what is no mapping is not from the file."""
        if isinstance(values, dict) and values.pop("version", None) != 1:
            raise ValueError("version: dmap knows version 1 only")
        return values


_FILE = TypeAdapter(Saved)
NOTHING_SAVED = Saved()


def default_path(environ: Mapping[str, str]) -> Path:
    """Return the path in systemd's `StateDirectory=`, else in the state directory of XDG."""
    if given := environ.get("STATE_DIRECTORY"):
        return Path(given.partition(":")[0]) / "state.json"
    home = environ.get("XDG_STATE_HOME") or Path(environ.get("HOME") or "~").expanduser() / ".local/state"
    return Path(home) / "dmap" / "state.json"


class StateFile:
    """The file at *path*.  With None nothing outlives this process."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._turn = asyncio.Lock()

    def read(self) -> Saved:
        """Return what was saved last, or nothing if there is no file that can be read."""
        if self.path is not None:
            try:
                return _read(self.path)
            except FileNotFoundError:
                pass
            except OSError as exc:
                _log.error(Line("state_unreadable", {"path": self.path, "reason": exc.strerror}))
            except ValueError as exc:  # as pydantic's are
                _put_aside(self.path, _reason(exc))
        return NOTHING_SAVED

    async def write(self, saved: Saved) -> None:
        """
        Save *saved*, and return when it is on the disk.  Saves happen one by one, in the order of the calls.

        Cancelling the caller does not stop the save: two threads must not write at once, and what is in
        effect must not be missing on the disk.  Raises `NotSaved`; then the old file is unchanged.
        """
        if self.path is not None:
            await asyncio.shield(self._write(self.path, text_of(saved, indent=1) + "\n"))

    async def _write(self, path: Path, text: str) -> None:
        async with self._turn:
            try:
                await asyncio.to_thread(_replace, path, text.encode())
            except OSError as exc:
                raise NotSaved(
                    f"it holds until the next restart only: {path} cannot be written: {exc.strerror}"
                ) from exc


def text_of(saved: Saved, indent: int | None = None) -> str:
    """Write *saved* as JSON; a version of what is shared is there only where something is."""
    fields = {"version": 1} | asdict(saved)
    if not saved.shared_version:
        del fields["shared_version"]
    return json.dumps(fields, default=sorted, indent=indent)


def saved_of(text: bytes) -> Saved:
    """Read what `text_of` has written; raises `ValueError`."""
    if len(text) > MAX_BYTES:
        raise ValueError(f"it is over {MAX_BYTES} bytes")
    return _FILE.validate_json(text)


def _read(path: Path) -> Saved:
    with path.open("rb") as file:
        return saved_of(file.read(MAX_BYTES + 1))


def _put_aside(path: Path, reason: str) -> None:
    now_at = None
    with contextlib.suppress(OSError):
        now_at = path.replace(path.with_name(path.name + ".bad"))
    _log.error(Line("state_not_understood", {"path": path, "reason": reason, "now_at": now_at}))


def _reason(exc: ValueError) -> str:
    if not isinstance(exc, ValidationError):
        return str(exc)
    first = exc.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"


def _replace(path: Path, text: bytes) -> None:
    """Write *text* beside *path*, wait until it is on the disk, and give it the name."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    beside = path.with_name(path.name + ".new")
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
