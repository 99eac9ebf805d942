"""How much of a file is in the system's memory, by a real file."""

import os
from pathlib import Path

import pytest

from dmap.backends.gguf.folder import Folder
from dmap.backends.gguf.pages import share_in_memory

SIZE = 8 * 1024 * 1024


def on_disk(path: Path, size: int = SIZE) -> Path:
    """Write a file, and have the system forget what is in it; without that there is nothing to test."""
    path.write_bytes(os.urandom(size))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if share_in_memory(path):
        pytest.skip("this file system keeps its files in memory")
    return path


def test_what_is_on_disk_only_is_not_in_memory(tmp_path: Path) -> None:
    """And that was not changed by looking."""
    path = on_disk(tmp_path / "file")

    assert (share_in_memory(path), share_in_memory(path)) == (0, 0)


def test_what_was_read_is_in_memory(tmp_path: Path) -> None:
    """All of it, or about as much as was read."""
    path = on_disk(tmp_path / "file")
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        file.read(SIZE // 2)
        half = share_in_memory(path)
        file.read()

    assert half == pytest.approx(0.5, abs=0.15)
    assert share_in_memory(path) == 1


@pytest.mark.parametrize("name", ["empty", "missing", "."])
def test_what_cannot_be_told(tmp_path: Path, name: str) -> None:
    """No file, nothing in it, or no file at all: nothing is in memory."""
    (tmp_path / "empty").touch()

    assert share_in_memory(tmp_path / name) == 0


def test_a_model_is_cached_if_all_its_parts_are(tmp_path: Path) -> None:
    """A load would wait for the part that is not."""
    parts = [on_disk(tmp_path / f"m-0000{number}-of-00002.gguf") for number in (1, 2)]
    parts[0].read_bytes()
    assert not Folder(tmp_path).scan().models["m"].cached

    parts[1].read_bytes()

    assert Folder(tmp_path).scan().models["m"].cached
