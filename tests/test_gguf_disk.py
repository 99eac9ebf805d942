"""A disk that hangs: what touches it waits, and nothing else does."""

import asyncio
import contextlib
import fcntl
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from dmap.backends.gguf.backend import GGUFBackend
from dmap.backends.gguf.section import GGUFSection
from dmap.errors import BackendDown, ModelNotFound
from dmap.models import ModelInfo
from tests.gguf_headers import LLAMA, gguf
from tests.process import daemon

LIMIT_S = 20


class Held:
    """The model at *path*; until `let_go` whoever opens it waits for the end of a lease (fcntl(2))."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(gguf(*LLAMA))
        self._file = os.open(path, os.O_RDONLY)
        fcntl.fcntl(self._file, fcntl.F_SETLEASE, fcntl.F_WRLCK)

    def let_go(self) -> None:
        fcntl.fcntl(self._file, fcntl.F_SETLEASE, fcntl.F_UNLCK)

    def close(self) -> None:
        os.close(self._file)


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # by which the kernel asks for the lease
    folder = tmp_path / "models"
    folder.mkdir()
    held = Held(folder / "held.gguf")
    yield held
    held.close()
    signal.signal(signal.SIGIO, before)


def over(folder: Path, scan_s: float = LIMIT_S) -> GGUFBackend:
    section = GGUFSection(kind="gguf", device="gpu0", path=folder)
    return GGUFBackend("engine", section, scan_s=scan_s)


async def test_a_folder_that_hangs_is_down(held: Held) -> None:
    """However often it is asked, one thread waits for it; each who asks is told, and others go on."""
    engine, before = over(held.path.parent, 0.2), set(threading.enumerate())

    said = await asyncio.gather(*(engine.models() for _ in range(100)), return_exceptions=True)

    assert [thread.name for thread in set(threading.enumerate()) - before] == ["read"]
    assert {type(each) for each in said} == {BackendDown}
    assert "no answer within 0.2 s" in str(said[0])


async def test_it_comes_back(held: Held) -> None:
    """Once the disk answers, a look finds what is there."""
    engine = over(held.path.parent, 0.2)
    with pytest.raises(BackendDown):
        await engine.models()
    held.let_go()

    async with asyncio.timeout(LIMIT_S):
        (model,) = await seen(engine)

    assert model.id == "held"


async def seen(engine: GGUFBackend) -> Sequence[ModelInfo]:
    """Look until there is an answer: a busy machine may not read a folder within `scan_s`."""
    while True:
        with contextlib.suppress(BackendDown):
            return await engine.models()


async def test_a_daemon_ends_though_a_disk_hangs(held: Held, tmp_path: Path) -> None:
    """The end of the process waits for no read."""
    backends = f"backends: {{engine: {{kind: gguf, path: {held.path.parent}, device: gpu0}}}}"

    async with daemon(tmp_path, f"devices: {{gpu0: {{}}}}\n{backends}") as process:
        pass

    assert "task_left" not in "".join(process.log)


async def test_a_pipe_in_place_of_a_model(tmp_path: Path) -> None:
    """A model that has become a pipe since the last look is gone, and nobody waits for who would write it."""
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf(*LLAMA))
    engine = over(tmp_path)
    await engine.models()
    path.unlink()
    os.mkfifo(path)

    with pytest.raises(ModelNotFound):  # who would wait is given up after `CHECK_S`, without a word
        await engine.check("m")
