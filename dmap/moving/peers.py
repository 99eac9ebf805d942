"""llama-swap's peers: servers that others run, as backends of kind `openai`, and their models."""

import re
from collections.abc import Collection, Iterator, Mapping

from dmap.moving.filters import NO_PARAMETER, forced, mapping
from dmap.moving.models import BACKEND, NO_EQUAL, NO_KEY
from dmap.moving.source import Table, variable, written
from dmap.moving.text import Block, Entry, shown


class Peers:
    """What becomes of them: *names* are those of models here, which go before theirs."""

    def __init__(self, peers: Table, names: Collection[str], environ: Mapping[str, str]) -> None:
        self.backends: list[Entry] = []
        self.models: list[Entry] = []
        self._names, self._homes = set(names), {BACKEND}
        for name, values in peers.rest():
            self._add(name, Table(values), environ)

    def _add(self, name: str, peer: Table, environ: Mapping[str, str]) -> None:
        home = self._home(name)
        parts: list[Entry | str] = [
            Entry("kind", "openai"),
            Entry("url", written(peer.text("proxy"))),
        ]
        parts += _key(home, peer.text("apiKey"))
        models, filters = dict.fromkeys(peer.texts("models")), peer.table("filters")
        parts.append("its other models are listed too; allow_models tells which may be")
        for key, value in peer.rest():
            parts.append(f"{key}: {shown(value, key)} ({NO_EQUAL.get(key, NO_KEY)})")
        settings = list(_settings(filters))
        self.backends.append(Entry(home, Block(parts)))
        for model in models:
            self._model(name, home, model, settings)

    def _model(self, name: str, home: str, model: str, settings: list[Entry | str]) -> None:
        """Write one of its models under its own name, or with the peer's in front if that is taken."""
        full = f"{name}/{model}"
        parts: list[Entry | str] = []
        own = model not in self._names
        if own and home != name:
            parts.append(Entry("aliases", [full]))
        parts.append(Entry("backend", home))
        if not own:
            parts.append(Entry("served_model_name", model))
        self._names |= {model, full}
        self.models.append(Entry(model if own else full, Block([*parts, *settings])))

    def _home(self, name: str) -> str:
        """Return a name for its backend."""
        home = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:60] or "peer"
        while home in self._homes:
            home += "-2"
        self._homes.add(home)
        return home


def _key(home: str, key: str) -> Iterator[Entry]:
    """Yield what dmap shows that server; a key in the file itself is not written again."""
    if not key:
        return
    name = variable(key)
    ours = name or re.sub(r"[^A-Z0-9]+", "_", f"{home}_API_KEY".upper())
    why = "" if name else "the key that llama-swap's file has: put it into dmap's environment"
    yield Entry("api_key", f"${{{ours}}}", why)


def _settings(filters: Table) -> Iterator[Entry | str]:
    """Yield what becomes of the parameters of each request."""
    strip = [name.strip() for name in filters.text("stripParams").split(",")]
    force, lost = forced(mapping(filters.take("setParams")))
    if force:
        yield Entry("force", force)
    if names := [name for name in dict.fromkeys(strip) if name not in ("", "model")]:
        yield Entry("strip", names)
    for name, value in lost.items():
        yield f"filters.setParams: {name}: {shown(value)} ({NO_PARAMETER})"
    for key, value in filters.rest():
        yield f"filters.{key}: {shown(value)} (llama-swap has no such key for peers)"
