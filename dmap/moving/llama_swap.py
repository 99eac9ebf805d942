"""
A configuration of llama-swap as one of dmap.

It takes every key out of the source, and says of what is left that it is; so nothing is dropped in silence.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from dmap.config import ConfigProblem, parse
from dmap.moving.command import Commands
from dmap.moving.macros import Expansion, listed
from dmap.moving.models import BACKEND, File, Model, Moved
from dmap.moving.peers import Peers
from dmap.moving.sets import Sets, of_groups, of_matrix
from dmap.moving.settings import noted, of_access, of_log, ports
from dmap.moving.source import Table, read
from dmap.moving.text import Block, Entry, document, shown

DEVICE = "gpu0"
_LEAST_LOAD_S = 15


def imported(text: str, environ: Mapping[str, str], name: str) -> str:
    """
    Return dmap's configuration for what llama-swap makes of *text*, a file called *name*.

    *environ* is the environment, for keys and numbers that are there.  Raises `ConfigProblem` for what is no
    configuration at all.
    """
    return _Import(read(text), environ).document(name)


def problems_of(text: str, environ: Mapping[str, str]) -> list[str]:
    """
    Return what dmap will not take of *text*, which `imported` has made.

    Variables that *environ* lacks may be in that of the service, and hold what is wanted there.
    """
    names = re.findall(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", text)
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in names}
    first, *others = (
        _refused(text, {**unset, **environ})
        for unset in (digests, dict.fromkeys(names, "1"), dict.fromkeys(names, "http://h"))
    )
    return [each for each in first if all(each in other for other in others)]


def _refused(text: str, environ: Mapping[str, str]) -> list[str]:
    try:
        parse(text, environ)
    except ConfigProblem as exc:
        return exc.problems
    return []


class _Import:
    def __init__(self, values: Mapping[str, Any], environ: Mapping[str, str]) -> None:
        self._environ = environ
        expansion, raw = Expansion(), Table(values)
        shared, models = listed(raw.take("macros")), raw.take("models", {})
        self._raw = Table(expansion.of(dict(raw.rest()), shared))
        self._commands = Commands(shared, expansion)
        named = models if isinstance(models, dict) else {}
        self._models = {
            key: Model(key, each, self._commands, expansion, shared) for key, each in named.items()
        }
        self._notes: list[str] = []

    def document(self, name: str) -> str:
        """Return the whole file."""
        access = of_access(self._raw, self._environ)
        together = self._sets()
        moved = self._moved(together)
        there = [key for key, each in moved.items() if isinstance(each.entry, Entry)]
        preload = self._preload(there)
        load_s = self._raw.number("healthCheckTimeout", self._environ)
        box = self._box([each for each in moved.values() if isinstance(each.entry, Entry)], load_s)
        names = {name for each in moved.values() for name in each.names}
        peers = Peers(self._raw.table("peers"), names, self._environ)
        entries = [*(part for each in moved.values() for part in (each.entry, *each.variants)), *peers.models]
        sections = [
            *access,
            *([Entry("devices", Block([_device(together, there, preload)]))] if there else []),
            Entry("backends", Block([*([box] if there else []), *peers.backends])),
            Entry("macros", Block([Entry(key, text) for key, text in self._commands.macros.items()])),
            Entry("models", Block(entries)),
            *of_log(self._raw),
        ]
        if lost := self._commands.lost:
            self._notes.insert(
                0,
                f"macros that are put in where they stood: {', '.join(lost)}",
            )
        notes = [*self._notes, *noted(self._raw)]
        return document(_head(name), [*filter(_says_something, sections), *([Block(notes)] if notes else [])])

    def _moved(self, together: Sets) -> dict[str, Moved]:
        file = File(self._models, self._raw.number("globalTTL", self._environ) or 0, self._environ)
        more = self._selected()
        return {
            key: model.moved(more.get(key, []), file, pin=key in together.pinned)
            for key, model in self._models.items()
        }

    def _sets(self) -> Sets:
        routing = self._raw.table("routing")
        router, scheduler = routing.table("router"), routing.table("scheduler")
        settings, fifo = router.table("settings"), scheduler.table("settings").table("fifo")
        use, scheduler_use = router.text("use"), scheduler.text("use")
        groups, matrix = self._raw.take("groups"), self._raw.take("matrix")
        unused = settings.take("groups") if use == "matrix" else settings.take("matrix")
        if use == "matrix":
            matrix = matrix or settings.take("matrix")
        else:
            groups = groups or settings.take("groups")
        if unused:
            self._notes.append(
                f"routing.router.settings: {shown(unused)} (not in use, as routing.router.use says)"
            )
        if priority := fifo.take("priority"):
            self._notes.append(
                f"routing.scheduler: priority: {shown(priority)} (dmap has one for keys, none for models)"
            )
        if scheduler_use not in ("", "fifo"):
            self._notes.append(f"routing.scheduler.use: {scheduler_use} (llama-swap has no such scheduler)")
        for path, table in (
            ("router", router),
            ("router.settings", settings),
            ("scheduler", scheduler),
            ("", routing),
        ):
            self._notes += [
                f"routing.{path}.{key}: {shown(value)} (llama-swap has no such key)"
                for key, value in table.rest()
            ]
        return of_matrix(matrix, self._models) if matrix else of_groups(groups, list(self._models))

    def _selected(self) -> dict[str, list[str]]:
        """Return the names of selectors by the model that each of them means here."""
        real = {name: key for key, model in self._models.items() for name in (*model.other_names, key)}
        chosen: dict[str, list[str]] = {}
        selectors = self._raw.take("selectors", {})
        for name, values in selectors.items() if isinstance(selectors, dict) else ():
            selector = Table(values)
            strategy, targets = selector.text("strategy"), selector.texts("targets")
            target = real.get(targets[0]) if targets else None
            means = f"here it always means {target}" if target else "its first target is no model here"
            if target:
                chosen.setdefault(target, []).append(name)
            if strategy != "pin" or not target:
                self._notes.append(f"selectors.{name}: {strategy} of {', '.join(targets)} ({means})")
            for key, value in selector.rest():
                self._notes.append(f"selectors.{name}.{key}: {shown(value)} (dmap's list shows none)")
        return chosen

    def _preload(self, there: Sequence[str]) -> list[str]:
        hooks = self._raw.table("hooks")
        startup = hooks.table("on_startup")
        names = [name.strip() for name in startup.texts("preload") if name.strip()]
        real = {name: key for key in there for name in (*self._models[key].other_names, key)}
        lost = [name for name in names if name not in real]
        self._notes += [f"hooks.on_startup.preload: there is no model {name!r}" for name in lost]
        for path, table in (("hooks", hooks), ("hooks.on_startup", startup)):
            self._notes += [
                f"{path}.{key}: {shown(value)} (llama-swap has no such key)" for key, value in table.rest()
            ]
        return list(dict.fromkeys(real[name] for name in names if name in real))

    def _box(self, moved: Sequence[Moved], load_s: int | None) -> Entry:
        """Return the backend of the commands."""
        parts: list[Entry | str] = [Entry("kind", "process"), Entry("device", DEVICE)]
        first = self._raw.number("startPort", self._environ)
        fixed = {each.fixed for each in moved if each.fixed is not None}
        parts.append(Entry("ports", *ports(first, len(moved), fixed)))
        shared_s = self._raw.number("unloadTimeout", self._environ) or 0
        stops = [each.unload_s or shared_s for each in moved]
        if any(stops):
            why = "the longest unloadTimeout of all models" if len(set(stops)) > 1 else ""
            parts.append(Entry("stop_s", max(each or 10 for each in stops), why))
        if load_s is not None:
            parts.append(Entry("load_s", max(load_s, _LEAST_LOAD_S), "healthCheckTimeout"))
        return Entry(BACKEND, Block(parts))


def _device(together: Sets, there: Sequence[str], preload: Sequence[str]) -> Entry:
    """Return the device of all commands."""
    lists = [kept for each in together.lists if len(kept := [name for name in each if name in there]) > 1]
    pinned = [name for name in together.pinned if name in there]
    parts: list[Entry | str] = list(together.notes)
    if lists:
        parts.append("which models may be loaded at once; any part of a list may be, too")
        parts.append(Entry("together", lists))
    else:
        parts.append("one model at a time; with `memory` here and at the models, dmap has as many as fit")
        parts.append(Entry("max_models", max(1, len(pinned))))
    if preload:
        parts.append(Entry("preload", preload))
    return Entry(DEVICE, Block(parts))


def _says_something(section: Entry | str | Block) -> bool:
    return not (isinstance(section, Entry) and isinstance(section.value, Block) and not section.value.parts)


def _head(name: str) -> list[str]:
    return [
        f"dmap's configuration, made from {name} by `dmap import llama-swap`.  Read it through, then: "
        "dmap check-config FILE.  What has no equal stands as a comment where it was; docs/moving.md tells "
        "what else is different.",
        "",
        "A command gets a short environment (PATH, HOME, CUDA's cache and the like) and its own `env`, not "
        "all that llama-swap was started with: name there what it needs, such as HF_HOME.",
    ]
