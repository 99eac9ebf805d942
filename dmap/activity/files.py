"""
The files of an activity log: lines are added at the end of the newest, and the oldest go in time.

All are in one folder, which one process at a time may hold.  They are for their owner's eyes only, from the
moment they are made.  What is in the folder and belongs to somebody else, or is no plain file, is neither
read nor written.  Everything here may block: it is for a thread.
"""

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from dmap.activity.entry import LONGEST, SUFFIX

LEAST_BYTES = 16 * LONGEST
"""What a log may be bound to at the least: a file, which is a 16th of it, has to take the longest line."""
LATE_S = 120.0
"""Lines go this long before their time, so that whoever looks for old ones less often finds none."""

_SALT = "salt"
_SALT_BYTES = 32
_NAME = f"%Y%m%dT%H%M%SZ{SUFFIX}"
_OPEN = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(frozen=True, slots=True)
class Bounds:
    """What all files together may be: *size* in bytes, and *age_s* since the first line of a file."""

    size: int
    age_s: float

    @property
    def file_bytes(self) -> int:
        """What one file may have.  The oldest goes as a whole, so this is what a full log is short of."""
        return self.size // 16

    @property
    def file_s(self) -> float:
        """How long one file is written to; 6 hours of a week."""
        return self.age_s / 28


class _File(NamedTuple):
    """A file of the log, by when it was *begun*, in whole seconds since 1970, which is its name too."""

    begun: int
    size: int

    @property
    def name(self) -> str:
        return datetime.fromtimestamp(self.begun, UTC).strftime(_NAME)


class Files:
    """
    The files in the folder *path*.

    Any method may raise `OSError`; the next call then begins anew.  `close` lets another process have it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._folder: int | None = None
        self._salt = b""

    def salt(self) -> bytes:
        """Return the secret of this log, which no line has.  It is made once, and kept beside the files."""
        if self._folder is None:
            self._folder = _held(self.path)
            try:
                self._salt = _salt(self._folder)
            except OSError:
                self.close()
                raise
        return self._salt

    def add(self, lines: Iterable[bytes], now: float, bounds: Bounds) -> None:
        """
        Write *lines*, and delete what *bounds* leave no room for; *now* is in seconds since 1970.

        Lines that are too long are left out.  If this fails, none or the first of the lines are written.
        """
        self.salt()
        assert self._folder is not None, "the salt is in the folder"
        try:
            for text in _texts(lines, bounds.file_bytes):
                self._write(self._folder, text, now, bounds)
            _delete(self._folder, now, bounds, room=0)
        except OSError:
            self.close()  # it may have been put in another place
            raise

    def close(self) -> None:
        """Let go of the folder.  Idempotent."""
        if self._folder is not None:
            os.close(self._folder)
            self._folder = None

    def _write(self, folder: int, text: bytes, now: float, bounds: Bounds) -> None:
        files = _delete(folder, now, bounds, room=len(text))
        newest = files[-1] if files else _File(-1, bounds.file_bytes)
        if newest.size + len(text) <= bounds.file_bytes and now - newest.begun <= bounds.file_s:
            to = os.open(newest.name, os.O_RDWR | _OPEN, dir_fd=folder)
        else:  # a clock that was put back must not change the order
            to = _made(folder, _File(max(int(now), newest.begun + 1), 0).name)
        try:
            _append(to, text)
        finally:
            os.close(to)


def _texts(lines: Iterable[bytes], most: int) -> Iterator[bytes]:
    """Put *lines* together to texts of *most* bytes; with room for an end that a torn line lacks."""
    text = bytearray()
    for line in lines:
        if len(line) >= LONGEST:
            continue
        if len(text) + len(line) >= most:
            yield bytes(text)
            text.clear()
        text += line
    if text:
        yield bytes(text)


def _held(path: Path) -> int:
    """Make the folder *path* if need be, and hold it."""
    for each in (path.parent, path):  # the state file will be beside it
        each.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _OPEN)
    try:
        about = os.fstat(folder)
        if about.st_uid != os.geteuid() or about.st_mode & 0o022:
            raise PermissionError(0, "the folder is another user's, or others may write there")
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        os.close(folder)
        raise BlockingIOError(0, "another dmap writes there") from exc
    except OSError:
        os.close(folder)
        raise
    return folder


def _salt(folder: int) -> bytes:
    """Return what is in the file of the salt; make it anew if that cannot be a salt."""
    with contextlib.suppress(FileNotFoundError):
        file = os.open(_SALT, os.O_RDONLY | _OPEN, dir_fd=folder)
        try:
            salt = os.read(file, _SALT_BYTES + 1)
            if _is_ours(os.fstat(file)) and len(salt) == _SALT_BYTES:
                return salt
        finally:
            os.close(file)
    salt, beside = secrets.token_bytes(_SALT_BYTES), f"{_SALT}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(beside, dir_fd=folder)
    with open(_made(folder, beside), "wb") as made:
        made.write(salt)
    os.replace(beside, _SALT, src_dir_fd=folder, dst_dir_fd=folder)
    return salt


def _made(folder: int, name: str) -> int:
    return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | _OPEN, 0o600, dir_fd=folder)


def _is_ours(about: os.stat_result) -> bool:
    """Tell whether it is a plain file of this user."""
    return stat.S_ISREG(about.st_mode) and about.st_uid == os.geteuid()


def _files(folder: int) -> list[_File]:
    """Return the files of the log, the oldest first."""
    files = []
    for name in os.listdir(folder):
        with contextlib.suppress(ValueError, FileNotFoundError):
            begun = int(datetime.strptime(name, _NAME).replace(tzinfo=UTC).timestamp())
            about = os.stat(name, dir_fd=folder, follow_symlinks=False)
            file = _File(begun, about.st_size)
            if _is_ours(about) and file.name == name:
                files.append(file)
    return sorted(files)


def _delete(folder: int, now: float, bounds: Bounds, *, room: int) -> list[_File]:
    """Delete what is too old, and the oldest files until there is *room*; return those that are left."""
    files = _files(folder)
    size = sum(file.size for file in files) + room + 1
    while files and (size > bounds.size or files[0].begun + bounds.age_s - LATE_S <= now):
        os.unlink(files[0].name, dir_fd=folder)
        size -= files.pop(0).size
    return files


def _append(to: int, text: bytes) -> None:
    """Add all of *text* to the file, or nothing."""
    about = os.fstat(to)
    if not _is_ours(about):
        raise PermissionError(0, "a file of the log is not dmap's own")
    size = about.st_size
    if size and os.pread(to, 1, size - 1) != b"\n":  # torn when a dmap was killed
        text = b"\n" + text
    written = 0
    try:
        while written < len(text):
            written += os.pwrite(to, text[written:], size + written)
    except OSError:
        os.ftruncate(to, size)
        raise
