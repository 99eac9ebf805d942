"""One model of llama-swap as dmap's file has it."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dmap.moving import words as forms
from dmap.moving.command import Commands
from dmap.moving.filters import NO_PARAMETER, forced, mapping
from dmap.moving.macros import MODEL, PORT, Expansion, Macro, listed, of_model, unknown
from dmap.moving.source import Table, anything, go_text, variable, written
from dmap.moving.text import Block, Entry, shown
from dmap.sections import ModelSection

BACKEND = "box"
READY = "/health"
NO_KEY = "llama-swap has no such key"

_URL = re.compile(r"https?://(?:localhost|127\.0\.0\.1):\uf8f2/*")
"""Where dmap looks for a server anyhow."""

NO_EQUAL = {
    "name": "dmap's list shows no name beside the model's own",
    "description": "dmap's list shows none",
    "metadata": "dmap's list shows none",
    "capabilities": "dmap's list shows what a server says of its model; what it cannot do, its answers tell",
    "unlisted": "dmap lists every model that a client may use; the `models` of a key say which those are",
    "sendLoadingState": "a stream that waits gets comments with its place in the queue (server.heartbeat_s)",
    "timeouts": "dmap has one set for all servers: server.connect_s, server.first_byte_s, server.idle_s",
    "compat": "dmap passes no websockets on",
    "unloadTimeout": "stop_s of the backend holds for all its models, and is the longest of theirs",
    "healthCheckTimeout": "llama-swap does not read it here either; load_s of the backend holds for all",
}


@dataclass
class Moved:
    """
    What became of one model: its *entry*, or a comment why there is none, and its *variants*.

    *unload_s* is its own `unloadTimeout`, *fixed* the port that its command listens on if dmap does not
    choose one.
    """

    entry: Entry | str
    variants: list[Entry] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    unload_s: int | None = None
    fixed: int | None = None


@dataclass(frozen=True, slots=True)
class File:
    """What a model has from its file: *names* of all models, and the *ttl_s* of those without one."""

    names: Collection[str]
    ttl_s: int
    environ: Mapping[str, str]


class Model:
    """Makes dmap's entry of what llama-swap says of the model *name*."""

    def __init__(
        self, name: str, values: Any, commands: Commands, expansion: Expansion, shared: Sequence[Macro]
    ) -> None:
        raw = Table(values)
        self._name = name
        self._macros = of_model(name, shared, listed(raw.take("macros")))
        self._commands = commands
        self._cmd, self._stop = raw.text("cmd"), raw.text("cmdStop")
        rest = expansion.of(dict(raw.rest()), self._macros)
        rest = expansion.of(rest, [Macro("PORT", PORT)])
        self._undefined = unknown(rest)
        self._raw = Table(rest)
        self._parts: list[Entry | str] = []

    @property
    def other_names(self) -> list[str]:
        """Its aliases, and the names under which its parameters are others."""
        filters = self._raw.peek("filters")
        by_id = filters.get("setParamsByID") if isinstance(filters, dict) else None
        aliases = self._raw.peek("aliases")
        return [
            *(each for each in aliases or () if isinstance(each, str)),
            *(self._keyed(key) for key in mapping(by_id)),
        ]

    def moved(self, more: Sequence[str], file: File, *, pin: bool) -> Moved:
        """Return what becomes of it; *more* are further names for it."""
        if problem := self._problem():
            return Moved(f"{forms.placed(self._name)}: left out, for {problem}")
        aliases, filters = [*self._raw.texts("aliases"), *more], self._raw.table("filters")
        by_id = {self._keyed(key): value for key, value in mapping(filters.take("setParamsByID")).items()}
        variants = list(self._variants({key: value for key, value in by_id.items() if key != self._name}))
        plain = [key for key in by_id if key != self._name and key not in {each.key for each in variants}]
        taken = {*file.names, *(each.key for each in variants)}
        aliases = self._kept(dict.fromkeys((*aliases, *plain)), file, taken)
        self._describe()
        self._set("aliases", aliases or None)
        self._parts.append(Entry("backend", BACKEND))
        fixed = self._command()
        self._set("served_model_name", self._raw.text("useModelName") or None)
        self._environment()
        limit = self._raw.number("concurrencyLimit", file.environ) or 0
        self._set(
            "parallel",
            limit if limit > 0 else None,
            "further requests wait; with llama-swap it was 429",
        )
        own_s = self._raw.number("ttl", file.environ)
        ttl_s = file.ttl_s if own_s is None or own_s < 0 else own_s
        self._set("ttl_s", ttl_s or None)
        self._force({**mapping(filters.take("setParams")), **mapping(by_id.get(self._name))})
        if by_id.get(self._name) and (aliases or variants):
            self._say("filters.setParamsByID of the model itself holds here for its other names, too")
        self._strip(filters)
        if pin:
            self._set("pin", True)
        unload_s = self._raw.number("unloadTimeout", file.environ)
        self._rest()
        return Moved(
            Entry(self._name, Block(self._parts)), variants, [self._name, *aliases, *by_id], unload_s, fixed
        )

    def _kept(self, aliases: Collection[str], file: File, taken: Collection[str]) -> list[str]:
        """Return those *aliases* that may be, and say why not of the others."""
        for name in sorted({*aliases} & {*file.names} - {self._name}):
            self._say(f"aliases: {shown(name)} (a model has this name, and goes before in llama-swap, too)")
        for name in (each for each in aliases if not self._fits("aliases", [each])):
            self._say(f"aliases: {shown(name)} (no request is for such a name in dmap)")
        if "*" in aliases:
            self._say('aliases: "*" (here it would take every name that nobody knows)')
        return [each for each in aliases if each not in (*taken, "*") and self._fits("aliases", [each])]

    def _problem(self) -> str | None:
        """Tell why it cannot be taken over at all."""
        if re.search(r"[*?\[]", self._name):
            return "a name with *, ? or [ stands for several models in dmap"
        words = self._commands.words(self._cmd, self._macros)
        if not words or not words[0]:
            return "it has no cmd"
        stop = self._commands.words(self._stop.replace("${PID}", ""), self._macros)
        if (name := unknown(words) or unknown(stop) or self._undefined) is not None:
            return f"nobody has defined its macro {name}"
        try:
            self._commands.fit(words)
        except ValueError as exc:
            return f"dmap cannot run its command ({_reason(exc)})"
        return None

    def _keyed(self, key: str) -> str:
        for macro in reversed((*self._macros, Macro("PORT", PORT))):
            key = key.replace(f"${{{macro.name}}}", go_text(macro.value))
        return key.replace(MODEL, self._name)

    def _describe(self) -> None:
        """Say above the rest what is for people."""
        for key in ("name", "description"):
            if text := self._raw.text(key):
                self._say(f"{key}: {shown(self._seen(text))} ({NO_EQUAL[key]})")

    def _command(self) -> int | None:
        """Write what starts and stops it, and where it answers; return its port if it chooses that itself."""
        words = self._commands.words(self._cmd, self._macros)
        for word in words:
            if word.partition("=")[0] in ("--api-key", "--api-key-file"):
                self._say(
                    "dmap shows no key to a command: take --api-key out, and have it listen on loopback"
                )
        self._parts.append(Entry("cmd", self._commands.start(self._cmd, self._macros)))
        stop = self._commands.stop(self._stop, self._macros) if self._stop.strip() else None
        if self._stop.strip() and stop is None:
            self._say("cmdStop: a SIGTERM, which every command gets that has no `stop`")
        self._set("stop", stop)
        proxy, told = self._raw.text("proxy"), any(PORT in word for word in words)
        if not told and (not proxy or PORT in proxy):
            self._say("its command is not told ${PORT}, so nobody finds its server; llama-swap refuses it")
        if proxy and not _URL.fullmatch(proxy):
            self._set("url", proxy)
        self._check()
        found = re.search(r":([0-9]{1,5})(?:/|$)", proxy)
        return int(found[1]) if found else None

    def _check(self) -> None:
        path = self._raw.text("checkEndpoint").strip() or READY
        if path == "none":
            self._set("ready", "port", "llama-swap waits for nothing; dmap, until it takes connections")
        elif path != READY:
            self._set("ready", path if path.startswith("/") else f"/{path}")

    def _environment(self) -> None:
        variables: dict[str, str] = {}
        for each in self._raw.texts("env"):
            name, is_set, value = each.partition("=")
            if not is_set:
                self._say(f"env: {shown(self._seen(name))} has no value, so it changes nothing")
            elif self._fits("env", {name: self._placed(value)}):
                variables[name] = written(self._placed(value))
            else:
                self._say(f"env: {shown(self._seen(name))} cannot be written here")
        if variables:
            self._parts.append(Entry("env", Block([Entry(name, value) for name, value in variables.items()])))

    def _force(self, params: Mapping[str, Any]) -> None:
        force, lost = forced(params)
        if force:
            self._parts.append(Entry("force", self._written(force)))
        for name, value in lost.items():
            self._say(f"filters.setParams: {name}: {shown(self._seen(value))} ({NO_PARAMETER})")

    def _variants(self, by_id: Mapping[str, Any]) -> Iterator[Entry]:
        """Yield the names under which the same model is asked with other parameters."""
        for key, params in by_id.items():
            force, lost = forced(mapping(params))
            said = ((name, shown(self._seen(value))) for name, value in lost.items())
            notes = [f"{name}: {value} ({NO_PARAMETER})" for name, value in said]
            if force:
                parts: list[Entry | str] = [
                    *notes,
                    Entry("of", self._name),
                    Entry("force", self._written(force)),
                ]
                yield Entry(key, Block(parts))
            else:
                for note in notes or [shown(self._seen(params))]:
                    self._say(f"filters.setParamsByID: {self._seen(key)}: {note}; here only another name")

    def _strip(self, filters: Table) -> None:
        text = filters.text("stripParams") or filters.text("strip_params")
        names = [name for name in dict.fromkeys(map(str.strip, text.split(","))) if name not in ("", "model")]
        plain = [name for name in names if "." not in name and self._fits("strip", [name])]
        self._set("strip", plain or None)
        for name in names:
            if name not in plain:
                self._say(f"filters.stripParams: {shown(self._seen(name))} (only outermost fields can be)")
        for key, value in filters.rest():
            self._say(f"filters.{self._seen(key)}: {shown(self._seen(value), key)} ({NO_KEY})")

    def _rest(self) -> None:
        for key, value in self._raw.rest():
            if value not in (False, {}, [], ""):
                why = NO_EQUAL.get(key, NO_KEY)
                self._say(f"{self._seen(key)}: {shown(self._seen(value), key)} ({why})")

    def _set(self, key: str, value: Any, why: str = "") -> None:
        """Write *key*, or say that it cannot be."""
        if value is None:
            return
        value = self._named(self._placed(value) if isinstance(value, str) and key == "url" else value)
        if self._fits(key, value):
            self._parts.append(Entry(key, self._written(value), why))
        else:
            self._say(f"{key}: {shown(self._seen(value))} (dmap does not take this here)")

    def _fits(self, key: str, value: Any) -> bool:
        """Tell whether dmap's file takes *value*, whatever the variables hold for which it has marks."""
        if isinstance(value, str) and variable(value):
            return True
        if not forms.is_writable(go_text(value)) or re.search(r"\$\{(?![A-Za-z_]\w*\})", go_text(value)):
            return False
        try:
            ModelSection.model_validate({key: _changed(value, anything)})
        except ValueError:
            return False
        return True

    def _placed(self, text: str) -> str:
        return forms.placed(forms.braced(text))

    def _named(self, value: Any) -> Any:
        """Return *value* with what it means where there are no places."""
        return _changed(value, lambda text: text.replace(MODEL, self._name).replace(PORT, "${PORT}"))

    def _written(self, value: Any) -> Any:
        """Return *value* with its marks as dmap's file has them, where there are no places."""
        return _changed(self._named(value), written)

    _seen = _written

    def _say(self, text: str) -> None:
        self._parts.append(text)


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    """Return *value* with all its texts changed."""
    match value:
        case str():
            return change(value)
        case dict():
            return {change(key): _changed(each, change) for key, each in value.items()}
        case list() | tuple():
            return [_changed(each, change) for each in value]
    return value


def _reason(exc: ValueError) -> str:
    errors: list[dict[str, Any]] = getattr(exc, "errors", list)()
    return str(errors[0]["msg"]).removeprefix("Value error, ") if errors else "it is no command"
