"""What `gpus` of a device means: which driver is asked for them, and whether what asks it is installed."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from dmap.config import Config, ConfigProblem
from dmap.extras import how
from dmap.memory.amd import DRM, Amd
from dmap.memory.usage import GPUs, Usage, summed


class _Both:
    """GPUs of several drivers."""

    def __init__(self, parts: Sequence[GPUs]) -> None:
        self._parts = parts

    def names(self) -> list[str]:
        return list(chain.from_iterable(part.names() for part in self._parts))

    def read(self) -> Usage:
        return summed(part.read() for part in self._parts)


def reader_of(gpus: Sequence[int | str], drm: Path = DRM) -> GPUs:
    """
    Return what reads *gpus*: numbers and UUIDs are NVIDIA's, `card0` and the like AMD's.

    Raises `ImportError` where what asks NVIDIA's driver is not installed.
    """
    cards = [gpu for gpu in gpus if isinstance(gpu, str) and gpu.startswith("card")]
    rest = [gpu for gpu in gpus if gpu not in cards]
    parts: list[GPUs] = [Amd(cards, drm)] if cards else []
    if rest:
        from dmap.memory.nvml import Nvml

        parts.append(Nvml(rest))
    return parts[0] if len(parts) == 1 else _Both(parts)


def check(config: Config) -> None:
    """Raise `ConfigProblem` if GPUs are to be measured and what asks their driver is not installed."""
    problems = []
    for name, device in config.devices.items():
        try:
            if device.gpus:
                reader_of(device.gpus)
        except ImportError as exc:
            problems.append(f"devices.{name}.gpus: {exc.name} is missing; {how('nvml')}")
    if problems:
        raise ConfigProblem(problems)
