"""
The engines of this installation: whether they run here, and on which devices they would compute.

Each is asked once, at the start and by `check-config`, in a child of its own.  What a load really used is in
what the load gave (`backends.base.Loaded`).
"""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

from dmap.backends import Engine, EngineUnusable
from dmap.config import Config, ConfigProblem

_WANTS_GPU = frozenset(("gpu_layers", "gpu", "offload_kv_cache_to_gpu"))


async def look_at(config: Config) -> dict[str, Engine]:
    """
    Ask the engines of *config*, all at once; return what they say by their backends, of those that have one.

    Raises `ConfigProblem` for all that cannot run here.
    """
    looks = {name: look for name in config.backends if (look := config.kind_of(name).look) is not None}
    asked = (look(config.backends[name]) for name, look in looks.items())
    found = dict(zip(looks, await asyncio.gather(*asked, return_exceptions=True), strict=True))
    problems = [f"backends.{name}: {exc}" for name, exc in found.items() if isinstance(exc, EngineUnusable)]
    if problems:
        raise ConfigProblem(problems)
    return {name: _whole(engine) for name, engine in found.items()}


def _whole(found: Engine | BaseException) -> Engine:
    if isinstance(found, BaseException):
        raise found
    return found


def said(engine: Engine) -> str:
    """Say what *engine* is and where it would compute."""
    told = f"{engine.name}, device: {', '.join(engine.devices) or 'unknown'}"
    if engine.on_gpu or engine.trouble:
        return told
    hint = f"{engine.hint}; " if engine.hint else ""
    return f"{told}; it sees no GPU ({hint}docs/gpu.md)"


def warnings_of(config: Config, engines: Mapping[str, Engine]) -> Iterator[str]:
    """Find engines that tell no devices, and models for a GPU that their engine does not see."""
    for name, engine in engines.items():
        if engine.trouble:
            yield f"backends.{name}: {engine.name}: {engine.trouble}"
    for model, section in config.models.items():
        home = engines.get(section.backend or _only(config))
        wanted = sorted(name for name, value in section.load.given().items() if _wants_gpu(name, value))
        if wanted and home is not None and not (home.on_gpu or home.trouble):
            yield (
                f"models.{model}.load.{wanted[0]}: has no effect, for {home.name} sees no GPU here "
                f"and computes on {', '.join(home.devices)}; see docs/gpu.md"
            )


def _only(config: Config) -> str:
    """Return the name of the only backend, nothing if there are several."""
    return next(iter(config.backends)) if len(config.backends) == 1 else ""


def _wants_gpu(option: str, value: Any) -> bool:
    return option in _WANTS_GPU and value not in (0, "off", False)
