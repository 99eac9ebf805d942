"""From what is known to an answer: resolve, list, refuse."""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from dmap.access import Client
from dmap.catalog.entries import known_models, routes_of, variants_of
from dmap.catalog.lists import Shown
from dmap.catalog.names import Entry, NameIndex
from dmap.catalog.unknown import Silence, is_heard_of, meant_by
from dmap.config import Config
from dmap.errors import BackendDown, BadRequest, ModelNotFound
from dmap.models import ModelInfo, ModelKey, Route
from dmap.state import NOTHING_SAVED, Saved

_SHOWN = 256
"""So many characters of a name that a client made up are said back to it."""
_NAMED = 3
"""So many models are named to a client that names none."""
_ACTIVE_GONE = (
    "the request names no model, and the active one is gone, or is not for this client: "
    "name one that GET /v1/models lists, or have one activated by POST /admin/models/activate"
)


class Catalog:
    """
    The models of all backends under the names that clients use.

    A backend is silent until it has said what it has; whoever asks for a model that it may have learns why.
    *differing* are the models that have the name of one on a backend before theirs, and are no copies of it.
    """

    def __init__(self, config: Config) -> None:
        self._silence = {name: Silence(f"the backend {name!r} has not answered") for name in config.backends}
        self._sort(config, {}, NOTHING_SAVED)

    def configure(self, config: Config) -> None:
        """Go by another *config* of the same backends."""
        self._sort(config, self._reports, self._saved)

    def update(self, backend: str, models: Sequence[ModelInfo]) -> None:
        """Take what *backend* says it has."""
        if models != self._reports.get(backend):
            self._sort(self._config, {**self._reports, backend: models}, self._saved)
        self._silence.pop(backend, None)

    def silent(self, backend: str, reason: str, *, is_gone: bool = False) -> None:
        """
        Take note why *backend* does not answer; what it last said stays.

        One that *is_gone* is not waited for: nobody is told to come back for what it may have.
        """
        self._silence[backend] = Silence(reason, is_gone)

    def choose(self, saved: Saved) -> None:
        """Take what was set over the admin API, in place of what was before."""
        self._sort(self._config, self._reports, saved)

    @property
    def active(self) -> str | None:
        """The model of requests that name none, by its own name, or as it was set if it is gone."""
        active, entry = self._saved.active, self._active()
        if active is None or entry is None:
            return active
        return entry.name if self._is_whole(active, entry) else str(entry.key)

    def resolve(self, model: str | None, client: Client, *, or_fallback: bool = False) -> tuple[Route, ...]:
        """
        Return the candidates for a request for *model*, or for the active one when it names none.

        There is at least one: a route for each copy of the model, in the order of the file.  With
        *or_fallback* a name that nobody knows goes to the model that the file has for such, if the client may
        use that.

        Raises `BadRequest` when none is active either, `ModelNotFound`, or `BackendDown` when a backend that
        may have the model has not answered yet.  A *client* cannot tell a model that it may not use from one
        that does not exist.
        """
        if model is not None:
            return self._candidates(model, client, or_fallback)
        if self._saved.active is None:
            raise BadRequest(self._advice(client), param="model")
        try:
            return self._candidates(self._saved.active, client)
        except ModelNotFound:
            raise ModelNotFound(_ACTIVE_GONE, param="model") from None

    def places(self, entry: Entry) -> tuple[Route, ...]:
        """Return the routes of all copies of a model that `shown` has."""
        return tuple(self._served[copy] for copy in self._names.copies(entry))

    def key_of(self, name: str) -> ModelKey | None:
        """Return which model *name* means, whoever may use it; None if there is no such model."""
        entry = self._names.find(name)
        return entry.key if entry is not None else None

    def keys_of(self, name: str) -> set[ModelKey]:
        """Return all copies of the model that *name* means, whoever may use them; none if there is none."""
        return {entry.key for entry in self._names.places(name)}

    def place_of(self, name: str, key: ModelKey) -> Route | None:
        """Return the route by which *name* means the model *key*; None if it does not, or not any more."""
        places = self._names.places(name)
        return next((self._served[entry] for entry in places if entry.key == key), None)

    def kept_as(self, name: str) -> tuple[str, str]:
        """
        Return under which names what is set for the model *name* is kept: for its requests, for its load.

        They differ for a variant, whose model is what is loaded.  A name is short where that is clear; the
        address of one of several copies is not, because the short name means all of them.
        Raises `LookupError` if there is no such model.
        """
        entry = self._names.find(name)
        if entry is None:
            raise LookupError(name)
        if not self._is_whole(name, entry):
            return str(entry.key), str(entry.key)
        return self._clear(entry), self._clear(entry.of or entry)

    def route_of(self, key: ModelKey) -> Route | None:
        """Return the route of the model *key*, whatever its names; None if no backend has told of it."""
        return self._routes.get(key)

    def preloads(self, device: str) -> dict[ModelKey, Route]:
        """Return what is to be there on *device* before anybody asks, in order, as far as it is known."""
        named = map(self._names.places, self._config.devices[device].preload)
        routes = {entry.key: self._routes[entry.key] for entries in named for entry in entries}
        return {key: route for key, route in routes.items() if route.device == device}

    def counted(self, backend: str) -> int:
        """Count the models of *backend*."""
        return sum(key.backend == backend for key in self._routes)

    def allows(self, client: Client, key: ModelKey) -> bool:
        """
        Tell whether *client* may know of the model *key*; one that no list has goes by its key alone.

        Who may use a variant of it may not for that reason.
        """
        listed = (entry.names for entry in self._names.known if entry.key == key)
        return client.may_use(*next(listed, (str(key),)))

    def shown(self, client: Client, residents: Iterable[ModelKey]) -> list[Shown]:
        """Return the models that *client* may use, each under its name and its aliases."""
        loaded = set(residents)
        return [
            self._shown(name, entry, client, loaded)
            for name, entry in self._names.listed()
            if client.may_use(*entry.names)
        ]

    def show(self, name: str, client: Client, residents: Iterable[ModelKey]) -> Shown:
        """
        Return the model that a request for *name* would get, under the name that the list has for it.

        Raises `ModelNotFound` or `BackendDown` as `resolve` does.
        """
        entry, *_ = self._find(name, client, or_fallback=True)
        own = (name,) if name in entry.names else ()
        names = (*own, entry.name, str(entry.key), name)
        chosen = next(each for each in names if self._names.find(each) is entry)
        return self._shown(chosen, entry, client, set(residents))

    def _candidates(self, name: str, client: Client, or_fallback: bool = False) -> tuple[Route, ...]:
        return tuple(map(self._served.__getitem__, self._find(name, client, or_fallback)))

    def _find(self, name: str, client: Client, or_fallback: bool = False) -> tuple[Entry, ...]:
        """
        Find all copies of the model called *name*, for *client*.

        A model that is not for it is one that nobody knows.
        """
        places = self._names.places(name)
        if places and client.may_use(*places[0].names):
            return places
        known = (each for each, one in self._names.spellings() if client.may_use(*one.names))
        meant = meant_by(name, known)
        may_have = [each for each in self._silence if client.may_use(name) and self._may_have(each, name)]
        for backend in may_have:
            if self._may_come(backend, name, is_typo=meant is not None):
                reason = self._silence[backend].reason
                raise BackendDown(f"{name[:_SHOWN]!r} is not known yet: {reason}", retry_after_s=5)
        fallback = self._names.fallback if or_fallback else None
        if fallback is not None and client.may_use(*fallback.names):
            return self._names.copies(fallback)
        raise self._not_found(name, meant, may_have)

    def _may_come(self, backend: str, name: str, *, is_typo: bool) -> bool:
        """Tell whether *backend*, which does not answer, may have *name* once it does."""
        if backend in self._reports:
            return False
        is_new = not is_typo and not self._silence[backend].is_gone
        return is_new or is_heard_of(self._config, self._saved, backend, name)

    def _not_found(self, name: str, meant: str | None, may_have: Sequence[str]) -> ModelNotFound:
        """Return the error for *name*, which a silent backend *may_have* all the same, if it is new there."""
        guess = f"did you mean {meant[:_SHOWN]!r}? " if meant is not None else ""
        silent = ", ".join(f"the backend {each!r}" for each in may_have)
        unasked = f"; {silent} cannot be asked: there is no answer from it" if silent else ""
        return ModelNotFound(
            f"the model {name[:_SHOWN]!r} does not exist, or is not for this client; "
            f"{guess}GET /v1/models lists those that are{unasked}",
            param="model",
        )

    def _is_whole(self, name: str, entry: Entry) -> bool:
        """Tell whether *name*, which means *entry*, means all copies of its model."""
        return len(self._names.places(name)) == len(self._names.copies(entry))

    def _shown(self, name: str, entry: Entry, client: Client, loaded: set[ModelKey]) -> Shown:
        own = (each for each in (entry.name, *entry.info.names) if self._names.find(each) is entry)
        # On a device the arbiter knows; elsewhere the backend's own word has to do.
        route, base = self._served[entry], entry.of
        residents = frozenset(
            copy.key
            for copy in self._names.copies(entry)
            if (copy.key in loaded if self._served[copy].device is not None else copy.info.resident)
        )
        is_known = base is not None and base in self._names.known and client.may_use(*base.names)
        variant_of = self._clear(base) if base is not None and is_known else None
        return Shown(name, entry, route, residents, entry is self._active(), frozenset(own), variant_of)

    def _clear(self, entry: Entry) -> str:
        """Return the name that means *entry* and nothing else: short where that is clear."""
        found = self._names.find(entry.name)
        is_clear = found is entry or (found is not None and found.of is None and found.key == entry.key)
        return entry.name if is_clear else str(entry.key)

    def _active(self) -> Entry | None:
        return self._names.find(self._saved.active) if self._saved.active is not None else None

    def _sort(self, config: Config, reports: Mapping[str, Sequence[ModelInfo]], saved: Saved) -> None:
        """Go by these three from now on.  A bug on the way changes nothing, so the next report mends it."""
        models = NameIndex(known_models(config, reports))
        variants = [each for each in variants_of(config, models) if _may_list(config, each.name)]
        allowed = [each for each in models.known if _may_list(config, each.name)]
        is_whole = not variants and len(allowed) == len(models.known)
        names = models if is_whole else NameIndex(allowed, variants)
        served = routes_of(config, names, saved.models)
        self._routes = {entry.key: route for entry, route in served.items() if entry.of is None}
        self._served, self.differing = served, models.differing
        self._names, self._config, self._reports, self._saved = names, config, reports, saved

    def _advice(self, client: Client) -> str:
        """Tell a *client* that names no model, while none is active, what can be done about it."""
        allowed = [name for name, entry in self._names.entries.items() if client.may_use(*entry.names)]
        few = ", ".join(repr(name[:_SHOWN]) for name in allowed[:_NAMED])
        return (
            "the request names no model, and none is active: set 'model' to one that GET /v1/models lists"
            + (f" ({few}{', ...' if len(allowed) > _NAMED else ''})" if few else "")
            + ", or have one activated by POST /admin/models/activate"
        )

    def _may_have(self, backend: str, name: str) -> bool:
        """Tell whether a backend that has not answered may have a model of this name, alias or address."""
        aliased = (model for model, settings in self._config.models.items() if name in settings.aliases)
        names = (name, name.removeprefix(f"{backend}/"), *aliased)
        return any(_may_list(self._config, each) for each in names)


def _may_list(config: Config, name: str) -> bool:
    return any(fnmatchcase(name, glob) for glob in config.allow_models)
