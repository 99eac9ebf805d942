"""Files that cannot be loaded: it shows before anybody is unloaded for them, and it costs little."""

import os
import random
import resource
import struct
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dmap.backends.gguf.file import ModelFile, Part
from dmap.backends.gguf.header import UNREADABLE
from dmap.backends.gguf.soundness import Soundness, fault_in
from tests.gguf_headers import LLAMA, gguf, number, string
from tests.test_retries import answered, told

CHAT = {"messages": [{"role": "user", "content": "what is new"}]}


def tensor(name: str, *shape: int, kind: int = 0, offset: int = 0) -> bytes:
    said = struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
    return string(name) + said


def fault(file: Path, content: bytes) -> str | None:
    file.write_bytes(content)
    return fault_in(file, len(content))


@pytest.fixture
def file(tmp_path):
    return tmp_path / "m.gguf"


@pytest.mark.parametrize("name", ["tiny-sea", "tiny-kitchen", "tiny-embed"])
def test_a_real_model_is_sound(models, name):
    """What the engine loads has no fault."""
    path = models / f"{name}.gguf"

    assert fault_in(path, path.stat().st_size) is None


def test_a_cut_file_is_told(models, file):
    """Wherever a download stops, the file is known to be cut off; one byte is enough."""
    whole = (models / "tiny-sea.gguf").read_bytes()

    for size in (10, 1000, 3000, len(whole) // 2, len(whole) - 1):
        assert "m.gguf is cut off" in (fault(file, whole[:size]) or "")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is cut off: it ends within its header, after 0 bytes"),
        (b"GG", "is cut off: it ends within its header, after 2 bytes"),
        (b"<html>not found</html>", "begins with b'<htm'"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "GGUF version 1"),
        (b"GGUF" + struct.pack("<IQQ", 4, 0, 0), "GGUF version 4"),
        (gguf(*LLAMA, count=6), "within its header"),
        (gguf(*LLAMA, tensors=1), "within its header"),
    ],
)
def test_what_no_engine_reads_is_told(file, content, says):
    """A fault says what was found."""
    assert says in (fault(file, content) or "")


@pytest.mark.parametrize(("kind", "size"), [(0, 1024), (1, 512), (12, 144), (8, 272)])
def test_the_tensors_have_to_be_there(file, kind, size):
    """The last tensor ends where the file does, or before; how long it is goes by its type."""
    head = gguf(*LLAMA, tensors=1) + tensor("output.weight", 256, kind=kind, offset=64)
    start = -(-len(head) // 32) * 32

    whole = head.ljust(start + 64 + size, b"\0")
    assert fault(file, whole) is None
    assert fault(file, whole[:-1]) == (
        f"m.gguf is cut off: it has {len(whole) - 1:,} bytes, and its tensors need {len(whole):,}"
    )


def test_tensors_may_be_aligned_otherwise(file):
    """A file says itself how its tensors are aligned."""
    head = gguf(*LLAMA, number("general.alignment", 4096), tensors=1) + tensor("t", 4)

    assert fault(file, head.ljust(4096 + 16, b"\0")) is None
    assert fault(file, head.ljust(4096 + 15, b"\0")) is not None


@pytest.mark.parametrize(
    "content",
    [
        gguf(count=2**60),
        gguf(string("key") + struct.pack("<I", 77) + bytes(99)),
        gguf(string("key") + struct.pack("<IIQ", 9, 9, 1) + bytes(99)),
        gguf(*LLAMA, number("general.alignment", 0), tensors=1) + tensor("t", 2**40),
        gguf(*LLAMA, tensors=2**60) + tensor("t", 2**40),
        gguf(*LLAMA, tensors=1) + tensor("t", *[1] * 9),
        gguf(*LLAMA, tensors=1) + tensor("t", 2**62, kind=99),
    ],
)
def test_what_is_unknown_is_left_to_the_engine(file, content):
    """A form that this reader does not know may be one of a later engine."""
    assert fault(file, content.ljust(8192, b"\0")) is None


def test_huge_numbers_are_no_trouble(file):
    """A tensor of more bytes than there are in the world is cut off like any other."""
    content = gguf(*LLAMA, tensors=1) + tensor("t", *[2**64 - 1] * 4, offset=2**64 - 1)

    assert "its tensors need" in (fault(file, content) or "")


def test_no_damage_raises_or_takes_long(models, file):
    """Whatever bytes of a real file are wrong, the look ends soon and quietly, in little memory."""
    whole = (models / "tiny-sea.gguf").read_bytes()[:60_000]
    dice = random.Random(1)
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    for _ in range(300):
        damaged = bytearray(whole[: dice.randrange(len(whole))])
        for _ in range(min(8, len(damaged))):
            damaged[dice.randrange(min(len(damaged), 4000))] = dice.choice((0, 255, dice.randrange(256)))
        fault(file, bytes(damaged))

    assert time.process_time() - began < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 128 * 1024


MANY_TEXTS = gguf(string("k") + struct.pack("<IIQ", 9, 8, 4_000_000))


@pytest.mark.parametrize("head", [MANY_TEXTS, gguf(count=10_000)])
def test_a_hole_of_many_gigabytes_is_not_read(file, head):
    """A sparse file looks like millions of empty texts; the look at it is bounded."""
    file.write_bytes(head)
    os.truncate(file, 10 * 2**30)
    began = time.process_time()

    fault_in(file, 10 * 2**30)

    assert time.process_time() - began < 20


def test_a_file_is_read_once_per_version(file):
    """What was seen of a file holds until it changes."""
    soundness = Soundness()
    file.write_bytes(b"none")
    model = ModelFile("m", (), (Part.of(file),), UNREADABLE)
    assert "is no model" in (soundness.fault_of(model) or "")

    file.write_bytes(gguf(*LLAMA))
    assert soundness.fault_of(model) is None
    file.unlink()
    with pytest.raises(FileNotFoundError):
        soundness.fault_of(model)


async def test_a_corrupt_file_throws_nobody_out(start: Any, models: Path, tmp_path: Path) -> None:
    """Who asks for it is told at once, and the stream of the resident goes on; once mended, it is served."""
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "slow.gguf").symlink_to(models / "slow.gguf")
    whole = (models / "tiny-sea.gguf").read_bytes()
    (folder / "tiny-sea.gguf").write_bytes(whole[:-1000])
    engine = await start(
        f"""
        devices: {{gpu0: {{cooldown_s: 0}}}}
        backends: {{engine: {{kind: gguf, path: {folder}, device: gpu0, threads: 1}}}}
        """
    )
    async with aiohttp.ClientSession(engine.url) as session:
        stream = {**CHAT, "model": "slow", "max_tokens": 150, "stream": True}
        async with session.post("/v1/chat/completions", json=stream) as answer:
            await answer.content.readline()
            before = engine.proxy.devices["gpu0"].residents
            status, refusal = await asked(session, "tiny-sea")
            missing, gone = await removed_and_asked(session, folder / "tiny-sea.gguf")

            assert engine.proxy.devices["gpu0"].snapshot().leases == 1
            assert (status, refusal["code"]) == (502, "model_load_failed")
            assert "tiny-sea.gguf is cut off" in refusal["message"]
            assert (missing, gone["code"]) == (404, "model_not_found")
            assert engine.proxy.devices["gpu0"].residents == before
            assert (await answer.text()).endswith("data: [DONE]\n\n")
        assert len(told(engine, "switch.started")) == 1

        (folder / "tiny-sea.gguf").write_bytes(whole)
        assert (await answered(session, "tiny-sea"))[0] == 200


async def asked(session: aiohttp.ClientSession, model: str) -> tuple[int, dict[str, Any]]:
    """Return status and error of a chat with *model*; it has to come before the stream has ended."""
    async with session.post("/v1/chat/completions", json={**CHAT, "model": model}) as answer:
        assert answer.headers["x-should-retry"] == "false"
        return answer.status, (await answer.json())["error"]


async def removed_and_asked(session: aiohttp.ClientSession, file: Path) -> tuple[int, dict[str, Any]]:
    """Ask for a model whose file is gone since it was listed."""
    file.unlink()
    async with session.post("/v1/chat/completions", json={**CHAT, "model": file.stem}) as answer:
        return answer.status, (await answer.json())["error"]
