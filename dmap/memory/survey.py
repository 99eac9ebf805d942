"""The GPUs of a configuration, read once without a daemon: whether they are there, and what they have."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from dmap.config import Config
from dmap.memory.balance import Balance, Reckoned, balance
from dmap.memory.gpus import reader_of
from dmap.memory.usage import GPUs, Unreadable
from dmap.memory.whose import name_of
from dmap.reads import Reads
from dmap.sections.types import size_text

LOOK_S = 10.0
"""How long drivers may take: those of several NVIDIA cards without persistence take some seconds each."""


class Finding(NamedTuple):
    """The GPUs of a device by their *names*, and who has their memory; or their *trouble*."""

    names: tuple[str, ...] = ()
    balance: Balance | None = None
    trouble: str | None = None


async def look_at(config: Config, within_s: float = LOOK_S) -> dict[str, Finding]:
    """Look at the GPUs of all devices at once, *within_s*; `check` has found what asks them installed."""
    devices = {name: device for name, device in config.devices.items() if device.gpus}
    looks = (_look(reader_of(device.gpus), within_s) for device in devices.values())
    return dict(zip(devices, await asyncio.gather(*looks), strict=True))


async def _look(gpus: GPUs, within_s: float) -> Finding:
    try:
        async with asyncio.timeout(within_s):
            return await Reads().read(lambda: _found(gpus))
    except TimeoutError:
        return Finding(trouble=f"their driver has not answered within {within_s:g} s")
    except Unreadable as exc:
        return Finding(trouble=str(exc))


def _found(gpus: GPUs) -> Finding:
    names, usage = tuple(gpus.names()), gpus.read()
    known = {pid: name_of(pid) for pid in usage.processes or ()}
    return Finding(names, balance(usage, (), known, Reckoned()))


def said(found: Finding) -> str:
    """Say what *found* has, for its owner."""
    if found.balance is None:
        return "the memory of its GPUs is not known"
    total, used = size_text(found.balance.total), size_text(found.balance.used)
    who = ", ".join(f"{each} {size_text(each.bytes)}" for each in found.balance.foreign)
    return f"GPU {' and '.join(found.names)}: {total}, {used} used now" + (f", by {who}" if who else "")


def warnings_of(config: Config, found: Mapping[str, Finding]) -> Iterator[str]:
    """Find GPUs that are not there, and devices that are told to use more than there is."""
    for name, each in found.items():
        device = config.devices[name]
        if each.balance is None:
            yield f"devices.{name}.gpus: {each.trouble}"
        elif device.memory is None and device.max_models > 1:
            total = size_text(each.balance.total)
            yield f"devices.{name}: its GPUs have {total}; set memory to what of that models may take"
        elif device.memory is not None and device.memory > each.balance.total:
            yield f"devices.{name}.memory: more than the {size_text(each.balance.total)} that its GPUs have"
