"""Several residents by an owner's lists, and models that are there before anybody asks: a real daemon."""

import asyncio
import signal
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from tests.fakes import HERE_S, soon
from tests.ports import free_port
from tests.process import Process, daemon

ROOT = Path(__file__).parent.parent
PORTS = 8
"""More than models, for the server of one may have ended a moment ago."""
CONFIG = """
devices: {{gpu0: {{cooldown_s: 0, patience_s: 1, residency: 0, {device}}}}}
backends:
  box: {{kind: process, device: gpu0, ports: {first}-{last}, parallel: 2, stop_s: 5, load_s: 600}}
macros:
  llama: '{python} -m tests.llama_serve --port {{port}} -c {{context_length}} -np {{parallel}}'
models:
  chat:
    {{backend: box, aliases: [gpt], cmd: '{{llama}} {models}/tiny-sea.gguf', env: {{PYTHONPATH: '{root}'}}}}
  embed: {{backend: box, cmd: '{{llama}} {models}/tiny-kitchen.gguf', env: {{PYTHONPATH: '{root}'}}}}
  coder: {{backend: box, cmd: '{{llama}} {models}/tiny-sea.gguf', env: {{PYTHONPATH: '{root}'}}}}
  vision: {{backend: box, cmd: '{{llama}} {models}/tiny-kitchen.gguf', env: {{PYTHONPATH: '{root}'}}}}
  broken: {{backend: box, cmd: '{python} -c "print(1/0)"'}}
"""
LISTS = "together: [[gpt, embed], [coder, vision]]"


@dataclass
class Box:
    """A running daemon, and what asks it."""

    process: Process
    session: aiohttp.ClientSession
    file: Path
    text: Callable[[str], str]

    async def ask(self, *models: str) -> None:
        """Ask each of *models*, one after the other, for a few words."""
        for model in models:
            body = {"model": model, "max_tokens": 2, "messages": [{"role": "user", "content": "Hello"}]}
            async with self.session.post("/v1/chat/completions", json=body) as answer:
                assert answer.status == 200, await answer.text()

    async def order(self, path: str, **order: Any) -> None:
        """Give an order."""
        async with self.session.post(path, json=order) as answer:
            assert answer.status == 200, await answer.text()

    async def device(self) -> dict[str, Any]:
        """Return how the device is, by `/ready`."""
        async with self.session.get("/ready") as answer:
            return (await answer.json())["devices"]["gpu0"]

    async def residents(self) -> set[str]:
        """Return the names of what is resident."""
        return {model.removeprefix("box/") for model in (await self.device())["residents"]}

    async def until(self, *models: str) -> None:
        """Wait until just *models* are resident, and nothing is under way."""
        async with asyncio.timeout(5 * HERE_S):
            while await self.residents() != {*models} or (await self.device())["switch"] is not None:
                await asyncio.sleep(0.02)

    def switches(self) -> list[str]:
        """Return what the log says of each switch that is over: why, what came and what went."""
        words = ([word.split("=", 1) for word in line.split() if "=" in word] for line in self.process.log)
        over = [each for each in map(dict, words) if {"drain_s", "outcome"} <= each.keys()]
        gone = [",".join(sorted(each["unload"].strip('"').split(","))) for each in over]
        return [f"{each['reason']} {each['load']} {went}" for each, went in zip(over, gone, strict=True)]

    async def reload(self, device: str) -> None:
        """Have other settings of the device read."""
        self.file.write_text("listen: {port: 0}\n" + self.text(device))
        self.process.child.send_signal(signal.SIGHUP)
        await soon(lambda: any(" reloaded" in line for line in self.process.log), HERE_S)


@asynccontextmanager
async def running(models: Path, folder: Path, device: str) -> AsyncGenerator[Box]:
    first = free_port(PORTS)
    places = {"models": models, "root": ROOT, "python": sys.executable}

    def config(device: str) -> str:
        return CONFIG.format(device=device, first=first, last=first + PORTS - 1, **places)

    async with (
        daemon(folder, config(device)) as process,
        aiohttp.ClientSession(process.url) as session,
    ):
        yield Box(process, session, folder / "config.yaml", config)


async def test_what_is_on_one_list_is_resident_together(models: Path, tmp_path: Path) -> None:
    """By the list alone, for nobody knows what these models take; and the other list comes as a pair."""
    async with running(models, tmp_path, LISTS) as box:
        await box.ask("chat", "embed", "chat")
        first = await box.residents()
        await box.ask("coder", "vision", "coder")
        second = await box.residents()
        servers = len(box.process.engines)

    assert (first, second, servers) == ({"chat", "embed"}, {"coder", "vision"}, 2)
    assert box.switches() == [
        "room box/chat -",
        "room box/embed -",
        "idle box/coder box/chat,box/embed",
        "room box/vision -",
    ]


async def test_other_lists_while_models_are_resident(models: Path, tmp_path: Path) -> None:
    """A reload takes nobody out; what comes next goes by the new lists."""
    async with running(models, tmp_path, LISTS) as box:
        await box.ask("chat", "embed")
        await box.reload("together: [[embed, coder], [chat, vision]]")
        before = await box.residents()
        await box.ask("chat", "embed", "coder")
        after = await box.residents()

    assert (before, after) == ({"chat", "embed"}, {"embed", "coder"})


async def test_what_is_there_from_the_start(models: Path, tmp_path: Path) -> None:
    """In order, as far as they fit; one that fails is told once, and keeps nothing from being ready."""
    async with running(models, tmp_path, LISTS + ", preload: [chat, coder, broken, embed]") as box:
        await box.until("chat", "embed")
        states = (await box.device())["preload"]
        await box.ask("embed", "gpt")

    resident = {"box/chat": "resident", "box/embed": "resident"}
    assert states == resident | {"box/coder": "away", "box/broken": "away"}
    assert box.switches() == ["preload box/chat -", "preload box/embed -"]


async def test_one_that_fails_from_the_start(models: Path, tmp_path: Path) -> None:
    """It is told once why; the others are loaded, and requests are served."""
    lists = "together: [[broken, chat]], preload: [broken, chat, nobody]"
    async with running(models, tmp_path, lists) as box:
        await box.until("chat")
        await box.ask("chat")

    failed = [line for line in box.process.log if "outcome=failed" in line]
    assert len(failed) == 1
    assert "reason=preload" in failed[0]
    assert "ended with status 1" in failed[0]
    assert any("preload_unknown" in line and "model=nobody" in line for line in box.process.log)


async def test_the_default_comes_back_after_idling(models: Path, tmp_path: Path) -> None:
    """Both of its list; what others used meanwhile goes."""
    preloaded = LISTS + ", preload: [chat, embed]"
    async with running(models, tmp_path, preloaded + ", return_s: 600") as box:
        await box.until("chat", "embed")
        await box.ask("coder", "vision")
        await box.reload(preloaded + ", return_s: 0.5")
        await box.until("chat", "embed")

    assert box.switches()[-2:] == ["return box/chat box/coder,box/vision", "return box/embed -"]


async def test_what_was_unloaded_by_hand_stays_away(models: Path, tmp_path: Path) -> None:
    """Until somebody uses the device; then it comes back after idling."""
    async with running(models, tmp_path, LISTS + ", preload: [chat, embed], return_s: 0.3") as box:
        await box.until("chat", "embed")
        await box.order("/admin/models/unload", modelKey="chat")
        await asyncio.sleep(1)
        states = (await box.device())["preload"]
        await box.ask("embed")
        await box.until("chat", "embed")

    assert states == {"box/chat": "unloaded", "box/embed": "resident"}
    assert box.switches()[-2:] == ["asked - box/chat", "return box/chat -"]


async def test_one_that_is_killed_comes_back(models: Path, tmp_path: Path) -> None:
    """A crash is nobody's order."""
    device = LISTS + ", preload: [chat], return_s: 0.1"
    async with running(models, tmp_path, device) as box:
        await box.until("chat")
        await box.ask("chat")
        (server,) = box.process.engines
        psutil.Process(server).kill()
        await soon(lambda: len(box.switches()) == 2, HERE_S)
        (other,) = box.process.engines

    assert other != server
    assert box.switches() == ["preload box/chat -", "return box/chat -"]
