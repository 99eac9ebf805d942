"""
Which engine is installed, and which devices it would use: asked in a child, for a driver may hang or abort.

The counterpart is `engine`, the program of that child.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from dmap.backends.gguf import engine
from dmap.backends.gguf.section import GGUFSection
from dmap.backends.kind import Engine, EngineUnusable
from dmap.process import Log, run_once

LOOK_S = 30.0
"""How long drivers may take: those of several NVIDIA cards without persistence take some seconds each."""


class _Said(Log):
    """What an engine says; a driver that is told to explain itself writes more than a server's last lines."""

    LINES = 4000


async def look(section: GGUFSection, within_s: float = LOOK_S) -> Engine:
    """Ask the engine as *section* would run it.  Raises `EngineUnusable` with what to do."""
    log = _Said()
    status = await run_once((sys.executable, "-P", engine.__file__), section.environment(), log, within_s)
    return judged(status, log.since(0), within_s)


def judged(status: int | None, lines: Sequence[str], within_s: float) -> Engine:
    """Return what a look has found that wrote *lines*; *status* is None if it was not over in time."""
    names = _after(engine.ENGINE, lines)
    rest = [line for line in lines if not line.startswith((engine.ENGINE, engine.DEVICE))]
    ended = f"ended with status {status}" if status is not None else f"gave no answer within {within_s:g} s"
    if status == engine.UNUSABLE and rest:
        raise EngineUnusable(rest[-1].removeprefix("dmap.engine: "))
    said = f" ({rest[-1]})" if rest else ""
    if not names:
        raise EngineUnusable(f"the engine cannot be started: it {ended}{said}; see docs/gpu.md")
    if status != engine.ENDED:
        return Engine(names[0], trouble=f"its devices cannot be told: it {ended}{said}; see docs/gpu.md")
    devices = used([json.loads(device) for device in _after(engine.DEVICE, lines)])
    on_gpu = any(device["type"] != "CPU" for device in devices)
    hint = rest[-1] if rest and not on_gpu else None
    return Engine(names[0], tuple(map(_written, devices)), on_gpu, hint)


def used(devices: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Return those that llama.cpp would use: all cards, else what shares the memory of the CPU, else that."""
    for kind in ("GPU", "IGPU"):
        if found := [device for device in devices if device["type"] == kind]:
            return found
    return [device for device in devices if device["type"] == "CPU"]


def _written(device: Mapping[str, Any]) -> str:
    return f"{device['name']} ({device['what']}, {device['bytes'] / 2**30:.1f} GiB)"


def _after(word: str, lines: Sequence[str]) -> list[str]:
    return [line.removeprefix(word).strip() for line in lines if line.startswith(f"{word} ")]
