"""One backend on several devices: what the file means by it, what its children see, and real engines."""

import asyncio

import aiohttp
import pytest

from dmap.config import ConfigProblem, parse
from tests.test_retries import answered, children

DEVICES = "devices: {gpu0: {gpus: [0]}, gpu1: {gpus: [1]}}\n"
BOTH = DEVICES + "backends: {engine: {kind: gguf, path: ., devices: [gpu0, gpu1]}}\n"
COMMANDS = DEVICES + "backends: {run: {kind: process, devices: [gpu0, gpu1]}}\n"


def problems(text):
    """What is wrong with a configuration."""
    with pytest.raises(ConfigProblem) as caught:
        parse(text, {})
    return caught.value.problems


class TestConfig:
    def test_there_is_one_backend_for_each_device(self):
        """Each is called by the name of the section and that of its device, and nothing knows of the list."""
        config = parse(BOTH, {})

        placed = {name: section.placed_on for name, section in config.backends.items()}

        assert placed == {"engine@gpu0": "gpu0", "engine@gpu1": "gpu1"}

    def test_a_list_of_one_is_a_device(self):
        """Then the backend has its own name."""
        config = parse(BOTH.replace("[gpu0, gpu1]", "[gpu1]"), {})

        assert {name: section.placed_on for name, section in config.backends.items()} == {"engine": "gpu1"}

    def test_models_name_the_section(self):
        """`backend: engine` and a pin mean each of its devices."""
        text = BOTH + "models: {m: {backend: engine, pin: true}}"

        config = parse(text, {})

        assert config.devices_of(config.models["m"]) == {"gpu0", "gpu1"}

    def test_a_child_sees_the_gpus_of_its_device(self):
        """In the words of CUDA, HIP and Vulkan, and in the order that NVML counts in."""
        first, second = parse(BOTH, {}).backends.values()

        assert second.visible == {
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "CUDA_VISIBLE_DEVICES": "1",
            "HIP_VISIBLE_DEVICES": "1",
            "GGML_VK_VISIBLE_DEVICES": "1",
        }
        assert first.environment()["CUDA_VISIBLE_DEVICES"] == "0"

    def test_a_single_device_tells_its_gpus_too(self):
        """So does one that stands there as `device`; without `gpus` nothing is said."""
        (one,) = parse(BOTH.replace("devices: [gpu0, gpu1]", "device: gpu1"), {}).backends.values()
        (none,) = parse(
            "devices: {a: {}}\nbackends: {e: {kind: gguf, path: ., device: a}}", {}
        ).backends.values()

        assert one.environment()["CUDA_VISIBLE_DEVICES"] == "1"
        assert none.visible == {}

    def test_the_owner_has_the_last_word(self):
        """What `env` says holds."""
        text = BOTH.replace("path: .,", "path: ., env: {CUDA_VISIBLE_DEVICES: '7'},")

        assert parse(text, {}).backends["engine@gpu1"].environment()["CUDA_VISIBLE_DEVICES"] == "7"

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            (BOTH.replace("[gpu0, gpu1]", "[gpu0, gpu0]"), "a device is named twice"),
            (BOTH.replace("devices: [gpu0, gpu1]}", "devices: [gpu0, gpu1], device: gpu0}"), "not both"),
            (BOTH.replace("[gpu0, gpu1]", "[gpu0, gpu2]"), "there is no device 'gpu2'"),
            (BOTH.replace("[gpu0, gpu1]", "[]"), "backends.engine"),
            (BOTH.replace("gguf, path: .", "lmstudio, url: 'http://a'"), "one server cannot be told"),
            (
                COMMANDS + "models: {m: {backend: run, cmd: serve, url: 'http://127.0.0.1:9'}}",
                "the same server for each device",
            ),
        ],
    )
    def test_mistakes_are_told(self, text, said):
        """Once, where they stand in the file."""
        told = [problem for problem in problems(text) if said in problem]

        assert len(told) == 1
        assert "@" not in told[0]


async def test_two_real_engines_share_the_work(start, models):
    """Each device has its own engine; one whose engine dies goes on with the other, and with a new one."""
    proxy = await start(
        f"""
        devices: {{one: {{cooldown_s: 0}}, two: {{cooldown_s: 0}}}}
        backends: {{engine: {{kind: gguf, path: {models}, devices: [one, two], threads: 1, parallel: 1}}}}
        """
    )
    async with aiohttp.ClientSession(proxy.url) as session:
        async with session.get("/v1/models") as listed:
            ids = [each["id"] for each in (await listed.json())["data"]]
        for device in ("one", "two"):
            assert (await answered(session, f"engine@{device}/tiny-sea"))[0] == 200
        found = await asyncio.gather(*(answered(session, "tiny-sea") for _ in range(8)))

        assert len(ids) == len(set(ids))
        assert [status for status, *_ in found] == [200] * 8
        assert len(children()) == 2

        children()[0].kill()
        found = await asyncio.gather(*(answered(session, "tiny-sea") for _ in range(8)))

        assert [status for status, *_ in found] == [200] * 8
