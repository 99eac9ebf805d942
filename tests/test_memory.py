"""The memory of GPUs as drivers tell it: NVIDIA's binding over a stand-in for the library, AMD's files."""

import asyncio
import ctypes.util
import functools
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pynvml
import pytest

from dmap.cli import main
from dmap.config import ConfigProblem, parse
from dmap.memory import GPUs, Meter, Reckoned, Unreadable, Usage, check, look_at, reader_of
from dmap.memory.amd import Amd
from dmap.memory.nvml import Nvml
from dmap.memory.whose import name_of, own_of
from dmap.process import Child
from dmap.remote.pages import report
from tests.fakes import HERE_S, chat
from tests.nvml import NOT_SUPPORTED, Library, described, gpu
from tests.process import Process, daemon

GIB = 2**30
DRIVER_NOT_LOADED, GPU_IS_LOST = 9, 15
ASIDE = 2**20
"""What an engine may take or give back between two questions to the driver."""
World = Callable[..., object]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Put a stand-in below the binding; what is called describes its GPUs anew, each time as a whole."""
    describe = functools.partial(described, tmp_path)
    describe(gpu())
    monkeypatch.setattr(pynvml, "nvmlLib", Library(tmp_path / "nvml.json"))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    return describe


class TestNvidia:
    def test_what_is_used(self, world: World) -> None:
        """What the driver has reserved for itself is nobody's: it is neither in the total nor used."""
        world(gpu(5 * GIB, reserved=GIB, processes={"7": 3 * GIB, "8": GIB}))

        assert Nvml([0]).read() == Usage(23 * GIB, 5 * GIB, {7: 3 * GIB, 8: GIB})
        assert Nvml([0]).names() == ["0 NVIDIA Test"]

    def test_a_driver_before_the_second_version(self, world: World) -> None:
        """An older driver does not tell apart what it has reserved; then it counts as used."""
        world(gpu(5 * GIB, reserved=GIB), lacks=["nvmlDeviceGetMemoryInfo_v2"])

        assert Nvml([0]).read() == Usage(24 * GIB, 6 * GIB, {})

    def test_one_process_on_two_lists(self, world: World) -> None:
        """A process that computes and draws is on both lists with all that it has; it counts once."""
        world(gpu(5, processes={"7": 3}, graphics={"7": 3, "9": 1}))

        assert Nvml([0]).read().processes == {7: 3, 9: 1}

    def test_several(self, world: World) -> None:
        """The GPUs of a device, by number or UUID, are one memory."""
        other = gpu(2, processes={"7": 2}) | {"uuid": "GPU-other"}
        world(gpu(5, processes={"7": 3}), other, gpu(99) | {"uuid": "GPU-third"})

        assert Nvml([0, "GPU-other"]).read() == Usage(48 * GIB, 7, {7: 5})

    def test_processes_without_memory(self, world: World) -> None:
        """Where the driver lists processes but not what they have, as under WSL, they are not told."""
        world(gpu(5, processes={"7": 3, "8": None}))

        assert Nvml([0]).read() == Usage(24 * GIB, 5)

    @pytest.mark.parametrize(
        "without",
        [
            {"lacks": ["nvmlDeviceGetComputeRunningProcesses_v3"]},
            {"fails": {"nvmlDeviceGetComputeRunningProcesses_v3": NOT_SUPPORTED}},
        ],
    )
    def test_no_processes(self, world: World, without: dict[str, Any]) -> None:
        """Where the driver cannot list processes, the memory is known all the same."""
        world(gpu(5), **without)

        assert Nvml([0]).read() == Usage(24 * GIB, 5)

    def test_nobody_draws(self, world: World) -> None:
        """A card that cannot draw has processes that compute."""
        world(gpu(5, processes={"7": 3}), fails={"nvmlDeviceGetGraphicsRunningProcesses_v3": NOT_SUPPORTED})

        assert Nvml([0]).read().processes == {7: 3}

    @pytest.mark.parametrize(
        ("gpus", "fails", "told"),
        [
            ([7], {}, r"there is no GPU 7; there are: 0 \(NVIDIA Test\)"),
            (["GPU-nobody"], {}, "there is no GPU GPU-nobody; there are: 0"),
            ([0], {"nvmlInitWithFlags": DRIVER_NOT_LOADED}, "NVIDIA's driver is not loaded"),
            ([0], {"nvmlInitWithFlags": 18}, "restart the host"),
            ([0], {"nvmlInitWithFlags": 4}, "this user may not ask"),
            ([0], {"nvmlDeviceGetMemoryInfo_v2": GPU_IS_LOST}, "NVML says: GPU is lost"),
            ([0], {"nvmlDeviceGetMemoryInfo_v2": NOT_SUPPORTED}, "GPU 0 does not tell its memory"),
            ([0], {"nvmlDeviceGetComputeRunningProcesses_v3": 999}, "NVML says: Unknown Error"),
            ([0], {"nvmlDeviceGetMemoryInfo_v2": 77}, "NVML says: Error 77"),
        ],
    )
    def test_why_not(self, world: World, gpus: list[Any], fails: dict[str, int], told: str) -> None:
        """Whatever fails is told in a line for the owner."""
        world(gpu(), fails=fails)

        with pytest.raises(Unreadable, match=told) as raised:
            Nvml(gpus).read()

        assert "\n" not in str(raised.value)

    def test_a_driver_that_comes_back(self, world: World) -> None:
        """After an error the library is opened anew; it is as often closed as opened."""
        gpus = Nvml([0])
        assert gpus.read().used == 0
        world(gpu(5), fails={"nvmlDeviceGetMemoryInfo_v2": GPU_IS_LOST})
        with pytest.raises(Unreadable):
            gpus.read()
        assert pynvml.nvmlLib._opened == 0
        world(gpu(6))

        assert gpus.read().used == 6
        assert pynvml.nvmlLib._opened == 1


class TestAmd:
    @pytest.fixture
    def drm(self, tmp_path: Path) -> Path:
        for card, used in (("card0", 5), ("card1", 6)):
            folder = tmp_path / card / "device"
            folder.mkdir(parents=True)
            (folder / "mem_info_vram_total").write_text("24\n")
            (folder / "mem_info_vram_used").write_text(f"{used}\n")
        return tmp_path

    def test_what_is_used(self, drm: Path) -> None:
        """The files of all cards are added up; processes are not told."""
        assert Amd(["card0", "card1"], drm).read() == Usage(48, 11)
        assert Amd(["card1"], drm).names() == ["card1"]

    def test_a_card_that_is_not_there(self, drm: Path) -> None:
        """One that nobody has, or that is another driver's, is told with those that are there."""
        with pytest.raises(Unreadable, match=r"card7 is no card of amdgpu's .*there are: card0, card1"):
            Amd(["card7"], drm).read()

    def test_a_file_without_a_number(self, drm: Path) -> None:
        """A driver that says something else is told of, too."""
        (drm / "card0" / "device" / "mem_info_vram_used").write_text("")

        with pytest.raises(Unreadable, match="card0 does not tell its memory"):
            Amd(["card0"], drm).read()

    def test_beside_nvidias(self, drm: Path, world: World) -> None:
        """Cards of both makers may be one device; processes are not told then."""
        world(gpu(7, processes={"9": 7}))

        both = reader_of(["card0", 0], drm)

        assert both.read() == Usage(24 + 24 * GIB, 12)
        assert both.names() == ["card0", "0 NVIDIA Test"]


async def test_whose_processes_are() -> None:
    """A child of dmap is known by its id, also one that another has started; a stranger has a name."""
    child = Child((sys.executable, "-c", GRANDCHILD), {}, lambda: None)
    grandchild = int(await child.first_line())
    stranger = await asyncio.create_subprocess_exec("sleep", "60")
    try:
        pids = [child.pid or 0, grandchild, stranger.pid, 2**22]

        assert own_of(pids) == {child.pid, grandchild}
        assert name_of(stranger.pid) == "sleep"
        assert name_of(2**22) == ""
    finally:
        stranger.kill()
        await stranger.wait()
        await child.end()


GRANDCHILD = """
import subprocess, sys
print(subprocess.Popen(["sleep", "60"], start_new_session=True).pid, flush=True)
sys.stdin.read()
"""


def threads() -> set[threading.Thread]:
    """Return the reads under way."""
    return {thread for thread in threading.enumerate() if thread.name == "read"}


def meter(gpus: GPUs, *, ids_are_ours: bool = True, within_s: float = 20) -> Meter:
    return Meter("gpu0", gpus, ids_are_ours=lambda: ids_are_ours, within_s=within_s)


async def until_known(measured: Meter) -> None:
    """Look until there is something to see."""
    async with asyncio.timeout(HERE_S):
        while await measured.look() is None:
            await asyncio.sleep(0.01)


class TestMeter:
    async def test_who_has_it(self, world: World) -> None:
        """A look tells who has the memory; it goes by what the gate reckons when it is read."""
        world(gpu(9, processes={"1": 8}))
        measured = meter(Nvml([0]))
        measured.reckon = lambda: Reckoned(elsewhere=5)

        found = await measured.look()

        assert found is not None and found is measured.balance
        assert found.kinds == {"total": 24 * GIB, "used": 9, "models": 5, "others": 3, "unaccounted": 1}
        assert [each.pid for each in found.foreign] == [1]

    async def test_in_a_container(self, world: World) -> None:
        """Where ids are of another namespace nobody is told from them, and others are not known."""
        world(gpu(9, processes={"1": 8}))
        measured = meter(Nvml([0]), ids_are_ours=False)
        measured.reckon = lambda: Reckoned(elsewhere=5)

        found = await measured.look()

        assert found is not None
        assert found.kinds == {"total": 24 * GIB, "used": 9, "models": 5, "unaccounted": 4}
        assert found.foreign == ()

    async def test_what_is_not_known_any_more(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        """An error takes away what was known; the log has a line when that begins, and one when it ends."""
        measured = meter(Nvml([0]))
        await measured.look()
        world(gpu(), fails={"nvmlDeviceGetMemoryInfo_v2": GPU_IS_LOST})

        assert await measured.look() is None
        assert await measured.look() is None
        assert measured.balance is None
        world(gpu(5))
        found = await measured.look()

        assert found is not None and found.used == 5
        assert [record.getMessage() for record in caplog.records] == [
            'memory_unknown device=gpu0 reason="NVML says: GPU is lost"',
            "memory_known device=gpu0",
        ]

    async def test_a_driver_that_hangs(self, world: World) -> None:
        """It holds one thread, and who looks later does not wait; once it answers all is as before."""
        world(gpu(5), hangs=["nvmlDeviceGetMemoryInfo_v2"])
        loop, measured, before = asyncio.get_running_loop(), meter(Nvml([0]), within_s=0.2), threads()
        assert await measured.look() is None
        began = loop.time()

        found = [await measured.look() for _ in range(100)]

        assert loop.time() - began < 10  # and 20 s if each of them waited
        assert found == [None] * 100
        assert len(threads() - before) == 1
        world(gpu(5))
        await until_known(measured)

    async def test_a_bug_is_heard(self, caplog: pytest.LogCaptureFixture) -> None:
        """Whatever else is raised stops nothing, and is logged once with its traceback."""

        class Broken:
            def names(self) -> list[str]:
                return []

            def read(self) -> Usage:
                raise KeyError("a bug")

        measured = meter(Broken())

        assert await measured.look() is None
        assert await measured.look() is None

        assert caplog.text.count("Traceback") == 1


class TestCheck:
    CONFIG = (
        "devices: {{gpu0: {{gpus: {gpus}, {more}}}}}\nbackends: {{a: {{kind: gguf, path: ., device: gpu0}}}}"
    )

    @pytest.fixture
    def checked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> Callable[..., tuple[int, str, str]]:
        """Have `check-config` judge a device; return the exit code and what it wrote."""
        monkeypatch.chdir(tmp_path)

        def run(gpus: str, more: str = "") -> tuple[int, str, str]:
            (tmp_path / "c.yaml").write_text(self.CONFIG.format(gpus=gpus, more=more))
            code = main(["check-config", "c.yaml"])
            wrote = capsys.readouterr()
            return code, wrote.out, wrote.err

        return run

    def test_what_is_there(self, world: World, checked: Callable[..., tuple[int, str, str]]) -> None:
        """It says which GPUs these are, what they have, and who has it now."""
        world(gpu(5 * GIB, processes={"4194304": 3 * GIB}))

        code, out, err = checked("[0]", "memory: 20GiB")

        assert code == 0
        assert "devices.gpu0: GPU 0 NVIDIA Test: 24 GiB, 5 GiB used now, by pid 4194304 3 GiB" in out
        assert "gpu0.gpus" not in err and "gpu0.memory" not in err

    @pytest.mark.parametrize(
        ("gpus", "more", "warning"),
        [
            ("[7]", "", "devices.gpu0.gpus: there is no GPU 7; there are: 0 (NVIDIA Test)"),
            ("[0]", "memory: 25GiB", "devices.gpu0.memory: more than the 24 GiB that its GPUs have"),
            ("[0]", "max_models: 2", "devices.gpu0: its GPUs have 24 GiB; set memory to what of that"),
            ("card77", "", "devices.gpu0.gpus: card77 is no card of amdgpu's"),
        ],
    )
    def test_what_is_not(
        self,
        world: World,
        checked: Callable[..., tuple[int, str, str]],
        gpus: str,
        more: str,
        warning: str,
    ) -> None:
        """A GPU that nobody has, or more memory than there is, is a warning at its line."""
        code, _, err = checked(gpus, more)

        assert code == 0
        assert "c.yaml:2:" in err and warning in err

    async def test_a_driver_that_hangs(self, world: World) -> None:
        """It is waited for within a bound."""
        world(gpu(), hangs=["nvmlInitWithFlags"])

        found = await look_at(parse(self.CONFIG.format(gpus="[0]", more=""), {}), 0.1)
        world(gpu())

        assert found["gpu0"].trouble == "their driver has not answered within 0.1 s"

    @pytest.mark.skipif(bool(ctypes.util.find_library("nvidia-ml")), reason="NVIDIA's driver is here")
    def test_no_driver(self, checked: Callable[..., tuple[int, str, str]]) -> None:
        """The real binding on a host without NVIDIA's driver: a line, and no crash."""
        code, out, err = checked("[0]")

        assert code == 0
        assert "devices.gpu0.gpus: NVIDIA's driver is not here: no libnvidia-ml.so.1" in err
        assert "devices.gpu0: the memory of its GPUs is not known" in out
        assert "Traceback" not in err

    def test_without_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whoever lacks the binding is told in a sentence how to install it; AMD's cards need none."""
        monkeypatch.delitem(sys.modules, "dmap.memory.nvml", raising=False)
        monkeypatch.setitem(sys.modules, "pynvml", None)
        text = self.CONFIG.format(gpus="[0]", more="")

        with pytest.raises(ConfigProblem) as raised:
            check(parse(text, {}))

        (problem,) = raised.value.problems
        assert problem.startswith("devices.gpu0.gpus: pynvml is missing; run: ")
        assert "pip install -e '.[nvml]'" in problem
        check(parse(self.CONFIG.format(gpus="card0", more=""), {}))


def test_nothing_is_imported_when_off() -> None:
    """A daemon that measures nothing, or AMD's cards, imports nothing of NVIDIA's."""
    program = "import dmap.daemon, sys; from dmap.memory import reader_of; reader_of(['card0'])"

    ended = subprocess.run([sys.executable, "-c", f"{program}; sys.exit('pynvml' in sys.modules)"])

    assert ended.returncode == 0


ENGINES = """
devices: {{gpu0: {{max_models: 1, gpus: [0]}}}}
backends: {{engine: {{kind: gguf, path: {models}, device: gpu0, parallel: 1, threads: 1}}}}
"""


async def page(process: Process, path: str) -> Any:
    async with aiohttp.ClientSession(process.url) as session, session.get(path) as answer:
        return await answer.json()


async def asked(process: Process) -> int:
    """Ask for a short answer; return the status."""
    body = chat(model="tiny-sea", stream=False, max_tokens=3)
    async with (
        aiohttp.ClientSession(process.url) as session,
        session.post("/v1/chat/completions", json=body) as answer,
    ):
        return answer.status


async def until_models(process: Process) -> dict[str, int]:
    """Wait until models have memory; return all kinds, as the metrics have them."""
    async with asyncio.timeout(HERE_S):
        while True:
            told = (await page(process, "/debug/metrics"))["dmap_device_memory_bytes"]
            kinds = {each["kind"]: each["value"] for each in told}
            if kinds.get("models"):
                return kinds
            await asyncio.sleep(0.1)


async def test_a_daemon_tells_whose_memory_it_is(models: Path, tmp_path: Path) -> None:
    """Real engines on a GPU are measured by their ids; metrics, status and the start's lines have it."""
    variables = described(tmp_path, gpu(3 * GIB, processes={"4194304": GIB}, children=1))
    async with daemon(tmp_path, ENGINES.format(models=models), **variables) as process:
        assert await asked(process) == 200
        kinds = await until_models(process)
        device = (await page(process, "/debug/status"))["devices"]["gpu0"]

        assert kinds["total"] == 24 * GIB
        assert kinds["models"] > 10 * 2**20
        assert kinds["models"] == pytest.approx(kinds["used"] - 3 * GIB, abs=ASIDE)
        assert (kinds["others"], kinds["unaccounted"]) == (GIB, pytest.approx(2 * GIB, abs=ASIDE))
        assert device["gpu_memory"]["processes"] == [{"pid": 4194304, "name": "", "bytes": GIB}]
        assert device["residents"][0]["took_bytes"] > 10 * 2**20
        text = report(process.url, await page(process, "/debug/status"), 80)
        assert re.search(r"^ +3\.\d+ of 24 GiB used .* 1 GiB by others$", text, re.MULTILINE)
    assert any("device name=gpu0" in line and "gpus=0" in line for line in process.log)


async def test_a_daemon_whose_driver_hangs(models: Path, tmp_path: Path) -> None:
    """It starts, serves, tells that the memory is not known, and ends."""
    variables = described(tmp_path, gpu(), hangs=["nvmlInitWithFlags"])
    async with daemon(tmp_path, ENGINES.format(models=models), **variables) as process:
        assert await asked(process) == 200

        assert "dmap_device_memory_bytes" not in await page(process, "/debug/metrics")
        assert (await page(process, "/debug/status"))["devices"]["gpu0"]["gpu_memory"] is None
    assert 'memory_unknown device=gpu0 reason="its driver does not answer"' in "".join(process.log)
    assert "task_left" not in "".join(process.log)
