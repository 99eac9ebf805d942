"""A look at the installed engine: in a child of its own, whatever its driver does."""

import os

import pytest

from dmap.backends.gguf.look import judged, look, used
from dmap.backends.gguf.section import GGUFSection
from dmap.backends.kind import Engine, EngineUnusable

AS_INSTALLED = """
import os, sys, time
sys.path.remove(os.path.dirname(__file__))
del sys.modules["xllamacpp"]
import xllamacpp
"""
"""Becomes the engine that is installed; what follows gives it a driver that does something else."""
CPU = 'DEVICE {"name": "CPU", "what": "Some CPU", "bytes": 34359738368, "type": "CPU"}'
GPU = 'DEVICE {"name": "CUDA0", "what": "Some card", "bytes": 25769803776, "type": "GPU"}'


@pytest.fixture
def with_driver(tmp_path):
    """Make a section whose engine has a driver that does what *code* says."""

    def make(code: str) -> GGUFSection:
        (tmp_path / "xllamacpp.py").write_text(AS_INSTALLED + code)
        return GGUFSection(kind="gguf", device="gpu0", path=tmp_path, env={"PYTHONPATH": str(tmp_path)})

    return make


async def test_the_installed_engine(tmp_path):
    """The engine from pip's own index computes on the CPU, and says so."""
    engine = await look(GGUFSection(kind="gguf", device="gpu0", path=tmp_path))

    (device,) = engine.devices
    assert engine.name.startswith("xllamacpp 202")
    assert device.startswith("CPU (") and device.endswith(" GiB)")
    assert (engine.on_gpu, engine.trouble) == (False, None)


async def test_the_environment_of_the_section(with_driver):
    """The look has the variables that the backend's engines will have."""
    section = with_driver("print('seen', os.environ['PYTHONPATH'], flush=True); os._exit(5)")

    with pytest.raises(EngineUnusable) as caught:
        await look(section)

    assert f"seen {section.env['PYTHONPATH']}" in str(caught.value)


async def test_a_driver_that_aborts(with_driver):
    """A driver that takes the process with it is trouble with the devices; the engine is known still."""
    engine = await look(with_driver("xllamacpp.get_device_info = os.abort"))

    assert engine.name.startswith("xllamacpp 202") and engine.devices == ()
    assert engine.trouble == "its devices cannot be told: it ended with status -6; see docs/gpu.md"


async def test_a_driver_that_hangs(with_driver):
    """A driver that does not answer is given up, and nothing of it is left."""
    section = with_driver("xllamacpp.get_device_info = lambda: time.sleep(600)")

    engine = await look(section, within_s=3)

    assert engine.trouble == "its devices cannot be told: it gave no answer within 3 s; see docs/gpu.md"
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


async def test_a_driver_that_talks(with_driver):
    """However much a driver writes, and whatever its device is called, the engine is found."""
    talks = """
found, name = xllamacpp.get_device_info(), chr(34) + 300 * chr(233)
def told():
    os.write(2, b"loader: looking\\n" * 1500)
    return [device | {"description": name} for device in found]
xllamacpp.get_device_info = told
"""

    engine = await look(with_driver(talks))

    assert engine.name.startswith("xllamacpp 202") and engine.trouble is None
    assert engine.devices[0].startswith('CPU ("\u00e9')


def test_a_driver_that_ends_it_without_a_word():
    """A driver may end the process with whatever status, and say nothing."""
    with pytest.raises(EngineUnusable, match="the engine cannot be started: it ended with status 3; see"):
        judged(3, [], 30)


def test_a_gpu():
    """Where there is a GPU it is named with its memory, and the CPU is not."""
    engine = judged(0, ["ENGINE xllamacpp 1", "ggml_cuda_init: found 1 devices", CPU, GPU], 30)

    assert engine == Engine("xllamacpp 1", ("CUDA0 (Some card, 24.0 GiB)",), on_gpu=True)


def test_why_there_is_no_gpu():
    """What a driver writes is the best hint where no GPU is found; with a GPU it is noise."""
    said = "ggml_cuda_init: failed to initialize CUDA: CUDA driver version is insufficient"

    without = judged(0, [said, "ENGINE xllamacpp 1", CPU], 30)
    with_one = judged(0, [said, "ENGINE xllamacpp 1", GPU, CPU], 30)

    assert (without.on_gpu, without.hint) == (False, said)
    assert (with_one.on_gpu, with_one.hint) == (True, None)


def test_no_engine_at_all():
    """An engine that the processor cannot run, as its signal says, cannot be used."""
    with pytest.raises(EngineUnusable, match="the engine cannot be started: it ended with status -4; see"):
        judged(-4, [], 30)


@pytest.mark.parametrize(
    ("types", "chosen"),
    [(["CPU", "IGPU", "GPU"], ["GPU"]), (["IGPU", "CPU"], ["IGPU"]), (["ACCEL", "CPU"], ["CPU"])],
)
def test_what_is_used(types, chosen):
    """All cards are used, else what shares the CPU's memory, else the CPU, as llama.cpp has it."""
    assert [device["type"] for device in used([{"type": each} for each in types])] == chosen
