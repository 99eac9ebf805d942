"""
What the backends of a configuration have, asked once without a daemon, and what of the file fits none of it.

Nothing is loaded, started or changed: each backend is asked for its list, as the daemon does at its start.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import cast

from dmap.backends import Switcher
from dmap.catalog.entries import known_models
from dmap.catalog.names import NameIndex
from dmap.config import BACKEND, BY_URL, Config, model_of
from dmap.errors import DmapError
from dmap.models import ModelInfo
from dmap.sections.models import ON, is_glob
from dmap.sections.near import meant

ANSWER_S = 3.0
"""So long all backends together may take to say what they have."""


@dataclass(frozen=True, slots=True)
class Survey:
    """
    What backends have said they have, by their names; and why the others are *silent*.

    *unsound* has, by backend and model, why a model that is there cannot be loaded.
    """

    reports: Mapping[str, Sequence[ModelInfo]] = field(default_factory=dict)
    silent: Mapping[str, str] = field(default_factory=dict)
    unsound: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


async def survey(config: Config, backends: Iterable[str], within_s: float = ANSWER_S) -> Survey:
    """Ask those *backends* of *config*, all at once; takes *within_s* at most."""
    asked = list(backends)
    answers = await asyncio.gather(*(_ask(config, name, within_s) for name in asked), return_exceptions=True)
    reports, silent = dict[str, Sequence[ModelInfo]](), dict[str, str]()
    unsound = dict[str, Mapping[str, str]]()
    for name, answer in zip(asked, answers, strict=True):
        if isinstance(answer, TimeoutError | DmapError | OSError):
            silent[name] = str(answer) or f"the backend {name!r} does not answer within {within_s:g} s"
        elif isinstance(answer, BaseException):
            raise answer
        else:
            reports[name], unsound[name] = answer
    return Survey(reports, silent, unsound)


async def kind_of_server(config_of: Callable[[str], Config], within_s: float = ANSWER_S) -> str | None:
    """
    Return the first kind with whose configuration the backend answers; None if it does with none.

    It is asked for that one last, when it is known to be up, and each answer may take *within_s*.  One that
    is late tells nothing: an LM Studio must not be taken for a server whose models nobody switches.
    """
    found = None
    for kind in reversed(BY_URL):
        try:
            await _ask(config_of(kind), BACKEND, within_s)
        except TimeoutError:
            return None
        except (DmapError, OSError):
            continue
        found = kind
    return found


async def _ask(config: Config, name: str, within_s: float) -> tuple[Sequence[ModelInfo], Mapping[str, str]]:
    """Return what a backend has, and of what cannot be loaded the reasons."""
    section = config.backends[name]
    backend = config.kind_of(name).make(name, section, config.server.connect_s)
    try:
        if section.placed_on is None:
            return await asyncio.wait_for(backend.models(), within_s), {}
        switcher = cast(Switcher, backend)
        switcher.commands = config.commands_of(name)
        infos = await asyncio.wait_for(switcher.models(), within_s)
        return infos, await _unsound(switcher, infos, within_s)
    finally:
        await backend.close()


async def _unsound(switcher: Switcher, infos: Iterable[ModelInfo], within_s: float) -> Mapping[str, str]:
    """Return why models cannot be loaded for certain, of as many as can be looked at in that time."""
    found = dict[str, str]()
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            for info in infos:
                try:
                    await switcher.check(info.id)
                except DmapError as exc:
                    found[info.id] = str(exc)
    return found


def warnings_of_models(config: Config, found: Survey) -> Iterator[str]:
    """Yield what the file says of models that nobody has, each line with its path in the file."""
    for name, reason in found.silent.items():
        yield f"{config.where(name)}: could not be asked what models it has: {reason}"
    named = {model.backend for model in config.models.values()}
    for name in config.backends:
        if name in found.reports and not found.reports[name] and not named & {name, name.partition(ON)[0]}:
            yield f"{config.where(name)}: no model found there"
    for name, reasons in found.unsound.items():
        for model, reason in reasons.items():
            yield f"{f'models.{model}' if model in config.models else config.where(name)}: {reason}"
    yield from _unlisted(config, found)
    if not found.silent:
        yield from _unfitting(config, found)


def _unlisted(config: Config, found: Survey) -> Iterator[str]:
    """Find models that no backend has; a server that keeps no list may have any."""
    listed = {id(info) for infos in found.reports.values() for info in infos}
    there = {id(each.settings) for each in known_models(config, found.reports) if id(each.info) in listed}
    for name, model in config.settings.named.items():
        homes = [home for home in config.backends if model.lives_on(home)]
        if id(model) not in there and all(_has_list(config, found, home) for home in homes):
            ids = [info.id for home in homes for info in found.reports[home]]
            whose = f"the backend {model.backend!r} does not list" if model.backend else "no backend lists"
            yield f"models.{name}: {whose} this model{meant(name, ids)}"
    yield from _without_models(config, found)


def _has_list(config: Config, found: Survey, name: str) -> bool:
    """Tell whether all models of a backend are known; a server that lists none may have any."""
    return config.backends[name].runs_commands or bool(found.reports.get(name))


def _without_models(config: Config, found: Survey) -> Iterator[str]:
    """Find variants, globs and names at devices for which there is no model."""
    if not all(_has_list(config, found, name) for name in config.backends):
        return
    index = NameIndex(known_models(config, found.reports))
    for name, variant in config.settings.variants.items():
        if variant.of is not None and index.find(variant.of) is None:
            yield f"models.{name}.of: no backend lists this model{meant(variant.of, index.entries)}"
    yield from _unplaced(config, index)
    for glob in filter(is_glob, config.models):
        if not any(fnmatchcase(each.casefold(), glob.casefold()) for each in index.entries):
            yield f"models.{glob}: fits no model that there is{meant(glob, index.entries)}"


def _unplaced(config: Config, index: NameIndex) -> Iterator[str]:
    """Find names at devices that mean no model there; `warnings_of` has told what the file alone shows."""
    for place, device in config.devices.items():
        if all(home.runs_commands for home in config.backends.values() if home.placed_on == place):
            continue
        there = [each for each in index.known if config.backends[each.key.backend].placed_on == place]
        known = [name for each in there for name in each.names]
        lists = {f"together[{at}]": names for at, names in enumerate(device.together)}
        for path, names in {**lists, "preload": device.preload}.items():
            for name in (each for each in names if model_of(config, each) is None):
                if index.find(name) not in there:
                    yield f"devices.{place}.{path}: no model here is called {name!r}{meant(name, known)}"


def _unfitting(config: Config, found: Survey) -> Iterator[str]:
    """Find globs that fit no name that anybody could ask for."""
    names = [name for entry in known_models(config, found.reports) for name in entry.names]
    for name, variant in config.settings.variants.items():
        names += [name, *variant.aliases]
    lists = {"allow_models": config.allow_models}
    lists |= {f"access.keys[{at}].models": key.models for at, key in enumerate(config.access.keys)}
    for path, globs in lists.items():
        for at, glob in enumerate(globs):
            if names and not any(fnmatchcase(name, glob) for name in names):
                yield f"{path}[{at}]: fits no model that there is{meant(glob, names)}"
