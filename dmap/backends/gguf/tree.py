"""
Which GGUF files lie in a folder, at any depth.  It blocks.

A folder that has not changed is not listed again: its time of change tells, so that a look at a large tree
asks for each folder once, and not for each file.  Links are followed, no folder is looked at twice, and
everything is bounded.

Hugging Face's cache is known by its form (huggingface_hub, "Understand caching"): `models--ORG--NAME` has
`snapshots/REVISION` with links into `blobs`, and `refs/main` names the revision that counts.
"""

import os
import stat
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

DEEPEST = 8
"""So many folders below the first; LM Studio's files are two deep, Hugging Face's at most five."""
MOST_FOLDERS = 10_000
MOST_ENTRIES = 200_000
"""So many names are read in all; a tree with more is no folder of models."""
MOST_FILES = 4096
"""Each is a model or a part of one, and every look asks for each whether it has changed."""

SUFFIX = ".gguf"
REPOSITORY = "models--"
REVISION_BYTES = 128
MOST_REVISIONS = 256

_SETTLED_NS = 2 * 10**9
"""A folder that has changed within the last seconds may change again without another time."""


class Bounds(NamedTuple):
    """How much one look takes in, at most."""

    folders: int = MOST_FOLDERS
    entries: int = MOST_ENTRIES
    files: int = MOST_FILES


BOUNDS = Bounds()


@dataclass(frozen=True, slots=True)
class File:
    """A file *name* at *path*; *place* are the folders that its model is known by."""

    place: tuple[str, ...]
    name: str
    path: Path


@dataclass(slots=True)
class Found:
    """The *files*, in order, and why anything was left out, by its path."""

    files: list[File] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Listing:
    """What a folder holds: *links* may be any of both."""

    changed_ns: int
    settled: bool
    entries: int
    folders: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    links: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Spot:
    """A folder to look at; *depth* counts from the first."""

    path: str
    place: tuple[str, ...] = ()
    depth: int = 0

    def below(self, name: str) -> "_Spot":
        return _Spot(os.path.join(self.path, name), (*self.place, *_known_by(name)), self.depth + 1)


class Tree:
    """The GGUF files below *root*; what does not change is remembered from one look to the next."""

    def __init__(self, root: Path, bounds: Bounds = BOUNDS) -> None:
        self._root = os.fspath(root)
        self._bounds = bounds
        self._listings: Mapping[tuple[int, int], _Listing] = {}

    def look(self) -> Found:
        """Return what is there.  Raises OSError when the first folder cannot be read."""
        walk = _Walk(self._listings, self._bounds)
        walk.visit(_Spot(self._root))
        while (bound := walk.bound()) is None and walk.left:
            walk.go_on()
        if bound is not None:
            walk.found.skipped[self._root] = f"has {bound} or more; the rest is left out"
        self._listings = walk.listings
        return walk.found


class _Walk:
    """One look: folders before deeper ones, and all of them before links to folders."""

    def __init__(self, before: Mapping[tuple[int, int], _Listing], most: Bounds) -> None:
        self.found = Found()
        self.listings: dict[tuple[int, int], _Listing] = {}
        self._before = before
        self._most = most
        self._entries = 0
        self._folders: deque[_Spot] = deque()
        self._links: deque[_Spot] = deque()

    @property
    def left(self) -> bool:
        return bool(self._folders or self._links)

    def bound(self) -> str | None:
        """Name the bound that is reached, if one is."""
        folders, entries, files = self._most
        if len(self.listings) >= folders:
            return f"{folders} folders"
        if self._entries >= entries:
            return f"{entries} entries"
        return f"{files} GGUF files" if len(self.found.files) >= files else None

    def go_on(self) -> None:
        """Visit the next folder; one that cannot be read is skipped."""
        spot = self._folders.popleft() if self._folders else self._links.popleft()
        try:
            self.visit(spot)
        except OSError as exc:
            self.found.skipped[spot.path] = f"cannot be read: {exc.strerror}"

    def visit(self, spot: _Spot) -> None:
        """Take the files of one folder, and note its folders."""
        status = os.stat(spot.path)
        identity = (status.st_dev, status.st_ino)
        if identity in self.listings:
            return
        listing = self._before.get(identity)
        if listing is None or not listing.settled or listing.changed_ns != status.st_mtime_ns:
            listing = _list(spot.path, status.st_mtime_ns, self._most.entries - self._entries)
        self.listings[identity] = listing
        self._entries += listing.entries
        revision = _revision(spot.path, listing.folders)
        if revision is not None:
            self._folders.append(_Spot(revision, spot.place, spot.depth + 2))
            return
        for name in listing.files:
            self._take(spot, name)
        if spot.depth < DEEPEST:
            self._folders.extend(spot.below(name) for name in listing.folders)
        self._follow(spot, listing.links)

    def _follow(self, spot: _Spot, links: tuple[str, ...]) -> None:
        for name in links:
            below = spot.below(name)
            try:
                mode = os.stat(below.path).st_mode
            except OSError:
                continue  # it leads nowhere, or in a circle
            if stat.S_ISDIR(mode) and spot.depth < DEEPEST:
                self._links.append(below)
            elif stat.S_ISREG(mode) and _is_gguf(name):
                self._take(spot, name)

    def _take(self, spot: _Spot, name: str) -> None:
        if len(self.found.files) < self._most.files:
            self.found.files.append(File(spot.place, name, Path(spot.path, name)))


def _list(path: str, changed_ns: int, most: int) -> _Listing:
    """Read the names in the folder *path*, but for hidden ones; *most* of them at most."""
    folders, files, links, count = [], [], [], 0
    with os.scandir(path) as entries:
        for entry in islice(entries, most):
            count += 1
            if entry.name.startswith("."):
                continue
            if entry.is_symlink():
                links.append(entry.name)
            elif entry.is_dir():
                folders.append(entry.name)
            elif _is_gguf(entry.name) and entry.is_file():
                files.append(entry.name)
    settled = count < most and time.time_ns() - changed_ns > _SETTLED_NS
    return _Listing(changed_ns, settled, count, *(tuple(sorted(names)) for names in (folders, files, links)))


def _is_gguf(name: str) -> bool:
    return name.lower().endswith(SUFFIX)


def _known_by(name: str) -> tuple[str, ...]:
    """Return the place of a folder: its name, or both parts of that of a repository of Hugging Face."""
    return tuple(name.split("--")[1:]) if name.startswith(REPOSITORY) else (name,)


def _revision(path: str, folders: tuple[str, ...]) -> str | None:
    """Return the snapshot that counts if *path* is a repository in Hugging Face's cache, else None."""
    if "snapshots" not in folders or {"blobs", "refs"}.isdisjoint(folders):
        return None
    snapshots = os.path.join(path, "snapshots")
    with os.scandir(snapshots) as entries:
        few = islice(entries, MOST_REVISIONS)
        known = {entry.name: entry.stat().st_mtime_ns for entry in few if entry.is_dir()}
    named = _main(path)
    if named not in known:  # the newest, then
        by_age = sorted(known, key=lambda name: (known[name], name))
        named = by_age[-1] if by_age else ""
    return os.path.join(snapshots, named) if named else None


def _at_once(path: str, flags: int) -> int:
    """Open a file, also a pipe that nobody writes to."""
    return os.open(path, flags | os.O_NONBLOCK)


def _main(path: str) -> str:
    """Return what `refs/main` says, if anything; it is only ever compared."""
    try:
        with open(os.path.join(path, "refs", "main"), "rb", opener=_at_once) as file:
            return file.read(REVISION_BYTES).decode(errors="replace").strip()
    except OSError:
        return ""
