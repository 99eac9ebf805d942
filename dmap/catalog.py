"""
Which models there are, and where a request for one goes: (model name, client) to `Route` or refusal.

It knows the configuration and what the backends last said they have (`update`); it asks nobody.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from dmap.access import Client
from dmap.config import SWITCHING, Config, LMStudioBackend, Model
from dmap.errors import AccessDenied, BackendDown, BadRequest, ModelNotFound
from dmap.trip import ModelInfo, ModelKey, Route

__all__ = ["Catalog"]


@dataclass(frozen=True, slots=True)
class _Entry:
    """One model as the file and its backend describe it together."""

    name: str
    key: ModelKey
    info: ModelInfo
    settings: Model
    route: Route

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.settings.aliases)


class Catalog:
    """
    The models of all backends under the names that clients use.

    It takes what the backends said from the catalog that was there *before*, if there was one.
    """

    def __init__(self, config: Config, before: "Catalog | None" = None) -> None:
        self._config = config
        self._inventory: dict[str, Sequence[ModelInfo] | None] = dict.fromkeys(config.backends)
        if before is not None:
            self._inventory |= before._inventory
        self._entries: dict[str, _Entry] = {}
        self._names: dict[str, _Entry] = {}
        self._folded: dict[str, _Entry] = {}
        self._rebuild()

    def update(self, backend: str, models: Sequence[ModelInfo] | None) -> None:
        """Take what *backend* says it has; None, that it does not answer, leaves what it last said."""
        if models is not None and models != self._inventory[backend]:
            self._inventory[backend] = models
            self._rebuild()

    def resolve(self, model: str | None, client: Client) -> Route:
        """
        Return the route of a request for *model*.

        Raises `BadRequest` when it names none, `ModelNotFound`, `AccessDenied`, or `BackendDown` when a
        backend that may have the model has not answered yet.
        """
        if model is None:
            raise BadRequest("the request names no model; set 'model'", param="model")
        entry = self._find(model)
        if entry is None:
            raise self._unknown(model)
        if not client.may_use(*entry.names):
            raise AccessDenied(f"the model {model!r} is not allowed for {client.name!r}; see access.keys")
        return entry.route

    def has(self, key: ModelKey) -> bool:
        """Tell whether requests still lead to *key*."""
        return any(entry.key == key for entry in self._names.values())

    def listing(self, client: Client, residents: Iterable[ModelKey]) -> list[dict[str, Any]]:
        """Return the models that *client* may use, as OpenAI lists them; those of *residents* marked."""
        loaded = set(residents)
        return [
            _listed(name, entry, resident=self._is_resident(entry, loaded))
            for entry in self._entries.values()
            if client.may_use(*entry.names)
            for name in entry.names
            if self._names[name] is entry
        ]

    def _find(self, name: str) -> _Entry | None:
        """Find a model by its name, else in other letters, else without its `@quant`: LM Studio's rules."""
        folded = name.casefold()
        return self._names.get(name) or self._folded.get(folded) or self._folded.get(folded.partition("@")[0])

    def _is_resident(self, entry: _Entry, loaded: set[ModelKey]) -> bool:
        """On a device the arbiter knows; elsewhere the backend's own word has to do."""
        return entry.key in loaded if entry.route.device is not None else entry.info.resident

    def _device(self, name: str) -> str | None:
        backend = self._config.backends[name]
        return backend.device if isinstance(backend, SWITCHING) else None

    def _unknown(self, model: str) -> ModelNotFound | BackendDown:
        silent = [name for name, models in self._inventory.items() if models is None]
        silent = [name for name in silent if self._may_have(name, model)]
        if silent:
            return BackendDown(
                f"{model!r} is not known yet: the backend {silent[0]!r} has not answered", retry_after_s=5
            )
        return ModelNotFound(
            f"the model {model[:256]!r} does not exist; GET /v1/models lists them", param="model"
        )

    def _may_have(self, backend: str, name: str) -> bool:
        """Tell whether a backend that has not answered may have a model of this name, alias or address."""
        aliased = (model for model, settings in self._config.models.items() if name in settings.aliases)
        return any(map(self._may_list, (name, name.removeprefix(f"{backend}/"), *aliased)))

    def _may_list(self, name: str) -> bool:
        return any(fnmatchcase(name, glob) for glob in self._config.allow_models)

    def _rebuild(self) -> None:
        """Sort names out: the file's aliases go before models, and plain names before backend/model."""
        known = [entry for entry in self._known() if self._may_list(entry.name)]
        self._entries = {}
        for entry in known:
            self._entries.setdefault(entry.name, entry)
        self._names = {alias: entry for entry in self._entries.values() for alias in entry.settings.aliases}
        for name, entry in (*self._entries.items(), *((str(entry.key), entry) for entry in known)):
            self._names.setdefault(name, entry)
        for entry in known:
            for name in entry.info.names:
                self._names.setdefault(name, entry)
        self._folded = {name.casefold(): entry for name, entry in reversed(self._names.items())}

    def _known(self) -> Iterator[_Entry]:
        """Yield every model of every backend, in the order of the file: the first of a name wins."""
        for name, settings in self._config.models.items():
            if settings.backend is not None and not isinstance(
                self._config.backends[settings.backend], SWITCHING
            ):
                # A server that cannot switch need not list a model to answer for it.
                yield self._entry(settings.backend, ModelInfo(name, resident=True), settings)
        for backend, models in self._inventory.items():
            for info in models or ():
                settings = self._settings(info.id)
                if settings.backend in (None, backend):
                    yield self._entry(backend, info, settings)

    def _settings(self, model: str) -> Model:
        """Find what the file says of *model*, in whatever letters it names it."""
        models = self._config.models
        folded = (settings for name, settings in models.items() if name.casefold() == model.casefold())
        return models[model] if model in models else next(folded, Model())

    def _parallel(self, backend: str, info: ModelInfo, settings: Model) -> int | None:
        """Take the least that anyone says: what is over it would wait in the engine, where nobody sees it."""
        chosen = self._config.backends[backend]
        asked = chosen.parallel if isinstance(chosen, LMStudioBackend) else None
        return min((each for each in (settings.parallel, asked, info.parallel) if each), default=None)

    def _entry(self, backend: str, info: ModelInfo, settings: Model) -> _Entry:
        key = ModelKey(backend, info.id)
        return _Entry(info.id, key, info, settings, self._route(key, info, settings))

    def _route(self, key: ModelKey, info: ModelInfo, settings: Model) -> Route:
        return Route(
            key=key,
            device=self._device(key.backend),
            embedding=info.embedding,
            size_bytes=settings.memory or info.size_bytes,
            size_given=settings.memory is not None,
            parallel=self._parallel(key.backend, info, settings),
            pin=settings.pin,
            ttl_s=settings.ttl_s,
            load=settings.load.given(),
            defaults={**self._config.defaults.given(), **settings.defaults.given()},
            permit=frozenset(settings.permit),
        )


def _listed(name: str, entry: _Entry, *, resident: bool) -> dict[str, Any]:
    """Describe one model; beyond OpenAI's four members: where it is, what it takes, what it stands for."""
    listed: dict[str, Any] = {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": entry.key.backend,
        "resident": resident,
        "context_length": entry.info.context_length,
        "embedding": entry.info.embedding,
    }
    if name != entry.name:
        listed["alias_of"] = entry.name
    return listed
