"""The files of the activity log: for their owner alone, within their bounds, whatever happens to them."""

import contextlib
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmap.activity import Entries
from dmap.activity.files import LEAST_BYTES, Bounds, Files

NOON = 1_795_262_400.0
"""2026-11-21T12:00:00Z"""
DAY = 86_400.0
WEEK = Bounds(64 * 2**20, 7 * DAY)
SMALL = Bounds(LEAST_BYTES, 7 * DAY)
LINE = b"x" * 99 + b"\n"
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "deep" / "activity")


def texts(files: Files) -> dict[str, bytes]:
    """Return what each file of the log has, by its name."""
    return {path.name: path.read_bytes() for path in sorted(files.path.glob("*.jsonl"))}


def names(files: Files) -> list[str]:
    return list(texts(files))


def size_after(files: Files, lines: list[bytes], now: float) -> int:
    """Write *lines*, and return how much there is then."""
    files.add(lines, now, SMALL)
    return sum(map(len, texts(files).values()))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextlib.contextmanager
def masked(umask: int) -> Iterator[None]:
    """Have another umask inside the context."""
    before = os.umask(umask)
    try:
        yield
    finally:
        os.umask(before)


class TestOwner:
    @pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
    def test_nobody_else_may_look(self, files: Files, umask: int) -> None:
        """The folder, the one around it and all within are for their owner alone, whatever the umask."""
        with masked(umask):
            files.add([LINE], NOON, WEEK)

        assert (mode(files.path), mode(files.path.parent)) == (0o700, 0o700)
        assert {path.name: mode(path) for path in files.path.iterdir()} == {
            "20261121T120000Z.jsonl": 0o600,
            "salt": 0o600,
        }

    def test_not_for_a_moment(self, files: Files) -> None:
        """They are so from the moment they are made: no mode is ever changed."""
        code = (
            "import os, sys; from pathlib import Path; from dmap.activity.files import *\n"
            "sys.addaudithook(lambda event, _: print(event) if event == 'os.chmod' else None)\n"
            f"os.umask(0); Files(Path({str(files.path)!r})).add([{LINE!r}], {NOON}, Bounds(2**20, 1e6))\n"
        )

        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

        assert done.stdout == ""
        assert {mode(path) for path in files.path.iterdir()} == {0o600}

    def test_a_folder_that_others_may_write_to(self, files: Files) -> None:
        """In a folder where others may put files nothing is written."""
        files.path.mkdir(parents=True)
        files.path.chmod(0o770)

        with pytest.raises(PermissionError, match="others may write"):
            files.add([LINE], NOON, WEEK)

        assert list(files.path.iterdir()) == []

    @AS_ROOT
    def test_a_folder_of_another(self, files: Files) -> None:
        """In a folder that is another user's nothing is written."""
        files.path.mkdir(parents=True, mode=0o700)
        os.chown(files.path, 12_345, 12_345)

        with pytest.raises(PermissionError, match="another user"):
            files.add([LINE], NOON, WEEK)

    def test_a_link_for_a_folder(self, files: Files, tmp_path: Path) -> None:
        """A link is not followed."""
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        files.path.parent.mkdir()
        files.path.symlink_to(tmp_path / "elsewhere")

        with pytest.raises(OSError, match="Not a directory"):
            files.add([LINE], NOON, WEEK)

        assert list((tmp_path / "elsewhere").iterdir()) == []

    @pytest.mark.parametrize("name", ["20261121T120000Z.jsonl", "salt"])
    def test_a_link_for_a_file(self, files: Files, tmp_path: Path, name: str) -> None:
        """A link in the place of a file is not followed: nothing is written through it, and this is told."""
        target = tmp_path / "target"
        target.write_bytes(b"precious")
        files.path.mkdir(parents=True, mode=0o700)
        (files.path / name).symlink_to(target)

        with pytest.raises(OSError, match="File exists|symbolic links"):
            files.add([LINE], NOON, WEEK)

        assert target.read_bytes() == b"precious"

    @AS_ROOT
    def test_a_file_of_another(self, files: Files) -> None:
        """A file that belongs to another is neither written nor deleted; the log goes on beside it."""
        files.add([LINE], NOON - 8 * DAY, WEEK)
        theirs = files.path / names(files)[0]
        os.chown(theirs, 12_345, 12_345)

        files.add([LINE], NOON, WEEK)

        assert texts(files) == {"20261113T120000Z.jsonl": LINE, "20261121T120000Z.jsonl": LINE}

    def test_a_pipe(self, files: Files) -> None:
        """A pipe that has the name of a file holds nobody up."""
        files.path.mkdir(parents=True, mode=0o700)
        os.mkfifo(files.path / "20261121T120000Z.jsonl", 0o600)

        with pytest.raises(FileExistsError):
            files.add([LINE], NOON, WEEK)
        files.add([LINE], NOON + 1, WEEK)

        assert (files.path / "20261121T120001Z.jsonl").read_bytes() == LINE


class TestBounds:
    def test_one_file_for_a_while(self, files: Files) -> None:
        """Lines go into the newest file, for a 28th of the time that they are kept."""
        files.add([LINE, LINE], NOON, WEEK)
        files.add([LINE], NOON + 6 * 3600, WEEK)
        files.add([LINE], NOON + 6 * 3600 + 1, WEEK)

        assert texts(files) == {"20261121T120000Z.jsonl": 3 * LINE, "20261121T180001Z.jsonl": LINE}

    def test_never_more_than_the_size(self, files: Files) -> None:
        """After each write all files together are within the size, and lack little of it."""
        sizes = [size_after(files, [LINE] * 50, NOON + second) for second in range(400)]

        assert max(sizes) <= SMALL.size
        assert min(sizes[300:]) >= SMALL.size - 2 * SMALL.file_bytes
        assert names(files) == sorted(names(files))

    def test_never_more_in_between(self, files: Files) -> None:
        """One write of more than all that is kept is done in parts; only the last of it stays."""
        lines = [b"%099d\n" % number for number in range(20_000)]

        files.add(lines, NOON, SMALL)

        kept = b"".join(texts(files).values())
        assert kept == b"".join(lines)[-len(kept) :]
        assert SMALL.size - 2 * SMALL.file_bytes <= len(kept) <= SMALL.size

    def test_a_size_that_shrinks(self, files: Files) -> None:
        """With a smaller bound the oldest files go at once, even with nothing to write."""
        files.add([LINE] * 80_000, NOON, WEEK)
        files.add([LINE] * 5, NOON + DAY, WEEK)

        files.add([], NOON + DAY + 1, SMALL)

        assert texts(files) == {"20261122T120000Z.jsonl": 5 * LINE}

    def test_nothing_older(self, files: Files) -> None:
        """A line is gone before it is 7 days old, also where nothing new is written."""
        files.add([LINE], NOON, WEEK)
        files.add([LINE], NOON + DAY, WEEK)

        files.add([], NOON + 7 * DAY - 121, WEEK)
        assert len(names(files)) == 2
        files.add([], NOON + 7 * DAY - 120, WEEK)
        assert names(files) == ["20261122T120000Z.jsonl"]
        files.add([], NOON + 8 * DAY, WEEK)
        assert names(files) == []

    def test_a_clock_that_goes_back(self, files: Files) -> None:
        """A clock that is put back loses nothing and does not change the order of the lines."""
        files.add([b"1\n"], NOON, WEEK)
        files.add([b"2\n"], NOON - 30 * DAY, WEEK)
        files.add([b"3\n"] * 50_000, NOON - 40 * DAY, SMALL)
        files.add([b"4\n"], NOON + 60, WEEK)

        text = b"".join(texts(files).values())
        assert text.index(b"1") < text.index(b"2") < text.index(b"3") < text.index(b"4")
        assert text.count(b"\n") == 50_003

    @pytest.mark.parametrize("now", [0.0, 1.5])
    def test_a_clock_without_a_battery(self, files: Files, now: float) -> None:
        """A machine that starts in 1970 keeps what it has."""
        files.add([b"1\n"], NOON, WEEK)
        files.add([b"2\n"], now, WEEK)

        assert b"".join(texts(files).values()) == b"1\n2\n"

    def test_other_files(self, files: Files) -> None:
        """What else lies in the folder is not touched and does not count."""
        files.path.mkdir(parents=True, mode=0o700)
        (files.path / "notes.jsonl").write_bytes(b"x" * 2**21)
        (files.path / "2026112T000000Z.jsonl").write_bytes(b"x" * 2**21)

        files.add([LINE], NOON, SMALL)

        assert len(names(files)) == 3

    def test_a_line_that_is_too_long(self, files: Files) -> None:
        """A line that no reader would take is left out."""
        files.add([LINE, b"x" * 65_535 + b"\n", LINE], NOON, SMALL)

        assert texts(files) == {"20261121T120000Z.jsonl": 2 * LINE}


class TestHolding:
    def test_by_one_at_a_time(self, files: Files) -> None:
        """A second one on the same folder writes nothing until the first has let go of it."""
        second = Files(files.path)
        files.add([LINE], NOON, WEEK)

        with pytest.raises(BlockingIOError, match="another dmap"):
            second.add([b"2\n"], NOON, WEEK)
        files.close()
        second.add([b"2\n"], NOON, WEEK)

        assert texts(files) == {"20261121T120000Z.jsonl": LINE + b"2\n"}

    def test_a_folder_that_was_deleted(self, files: Files) -> None:
        """Where the folder was deleted under way, one write fails, and the next begins anew."""
        files.add([LINE], NOON, WEEK)
        subprocess.run(["rm", "-r", str(files.path)], check=True)

        with pytest.raises(FileNotFoundError):
            files.add([LINE], NOON, WEEK)
        files.add([b"2\n"], NOON, WEEK)

        assert texts(files) == {"20261121T120000Z.jsonl": b"2\n"}

    def test_a_file_that_was_deleted(self, files: Files) -> None:
        """A file that its owner deletes is begun anew."""
        files.add([LINE], NOON, WEEK)
        (files.path / names(files)[0]).unlink()

        files.add([b"2\n"], NOON + 1, WEEK)

        assert texts(files) == {"20261121T120001Z.jsonl": b"2\n"}

    def test_the_lock_is_not_inherited(self, files: Files) -> None:
        """A program that dmap starts does not hold the folder after dmap's end."""
        files.add([LINE], NOON, WEEK)
        with subprocess.Popen(["sleep", "60"], close_fds=False) as child:
            files.close()

            Files(files.path).add([b"2\n"], NOON, WEEK)
            child.terminate()

    def test_while_another_has_a_look(self, files: Files) -> None:
        """Who only reads needs no hold."""
        files.add([LINE], NOON, WEEK)

        log = Entries(files.path)

        assert (list(log), log.skipped) == ([], 1)


class TestSalt:
    def test_it_stays(self, files: Files) -> None:
        """The salt survives a restart."""
        salt = files.salt()
        files.close()

        assert Files(files.path).salt() == salt
        assert len(salt) == 32

    def test_each_log_has_its_own(self, tmp_path: Path) -> None:
        """Two logs have different salts."""
        assert Files(tmp_path / "a").salt() != Files(tmp_path / "b").salt()

    @pytest.mark.parametrize("torn", [b"", b"\0" * 31, b"\0" * 33])
    def test_one_that_is_none(self, files: Files, torn: bytes) -> None:
        """What cannot be a salt is replaced, and a half-made one of a dmap that was killed is no obstacle."""
        files.path.mkdir(parents=True, mode=0o700)
        (files.path / "salt").write_bytes(torn)
        (files.path / "salt.new").write_bytes(torn)

        salt = files.salt()

        assert (files.path / "salt").read_bytes() == salt
        assert mode(files.path / "salt") == 0o600
        assert not (files.path / "salt.new").exists()


class TestTornEnds:
    @pytest.mark.parametrize("end", [b'{"kind":"requ', b"\0" * 512])
    def test_it_is_ended(self, files: Files, end: bytes) -> None:
        """What follows a torn line begins on a line of its own."""
        files.add([LINE], NOON, WEEK)
        path = files.path / names(files)[0]
        path.write_bytes(LINE + end)

        files.add([LINE], NOON + 1, WEEK)

        assert path.read_bytes() == LINE + end + b"\n" + LINE

    def test_an_empty_file(self, files: Files) -> None:
        """A file that was made and never written to is used."""
        files.path.mkdir(parents=True, mode=0o700)
        (files.path / "20261121T120000Z.jsonl").touch(0o600)

        files.add([LINE], NOON, WEEK)

        assert texts(files) == {"20261121T120000Z.jsonl": LINE}

    def test_a_disk_that_fills_up(self, files: Files) -> None:
        """Where only a part can be written nothing of it stays, and what was there before is whole."""
        code = (
            "import resource; from pathlib import Path; from dmap.activity.files import *\n"
            f"files = Files(Path({str(files.path)!r})); bounds = Bounds({WEEK.size}, {WEEK.age_s})\n"
            f"files.add([{LINE!r}] * 10, {NOON}, bounds)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))\n"
            "try:\n"
            f"    files.add([{LINE!r}] * 10, {NOON}, bounds)\n"
            "except OSError as exc: print(exc.strerror)\n"
        )

        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

        assert done.stdout == "File too large\n"
        assert texts(files) == {"20261121T120000Z.jsonl": 10 * LINE}
