"""What the models are: the file, what each backend said of it, and what was set for it, put together."""

from collections.abc import Iterator, Mapping, Sequence

from dmap.arbiter import Needs
from dmap.catalog.names import Entry, NameIndex
from dmap.config import Config
from dmap.models import ModelInfo, ModelKey, Route
from dmap.sections import ModelSection
from dmap.state import Activation

_UNSET = Activation()


def known_models(config: Config, reports: Mapping[str, Sequence[ModelInfo]]) -> Iterator[Entry]:
    """
    Yield every model of every backend, in the order of the file: the first of a name wins.

    *reports* has what each backend last said it has; one that has said nothing is not there.
    """
    listed = {ModelKey(name, info.id): info for name, infos in reports.items() for info in infos}
    for name, settings in config.models.items():
        if settings.backend is not None and config.backends[settings.backend].placed_on is None:
            # A server that cannot switch need not list a model to answer for it.
            key = ModelKey(settings.backend, name)
            yield Entry(key, listed.get(key) or ModelInfo(name, resident=True), settings)
    for backend in config.backends:
        for info in reports.get(backend, ()):
            settings = _settings(config, info)
            if settings.backend in (None, backend):
                yield Entry(ModelKey(backend, info.id), info, settings)


def routes_of(
    config: Config, names: NameIndex, activations: Mapping[str, Activation]
) -> dict[ModelKey, Route]:
    """
    Return the routes of all models of *names*.

    The *activations* hold for the models that they name, by whatever name; what is set last wins.
    """
    laid: dict[ModelKey, Activation] = {}
    for name, later in activations.items():
        entry = names.find(name)
        if entry is not None:
            before = laid.get(entry.key, _UNSET)
            laid[entry.key] = Activation({**before.defaults, **later.defaults}, {**before.load, **later.load})
    return {
        entry.key: _route(config, entry, laid.get(entry.key, _UNSET), _lists_of(config, names, entry))
        for entry in reversed(names.known)  # the first of a model wins
    }


def _settings(config: Config, info: ModelInfo) -> ModelSection:
    """Find what the file says of a model, in whatever letters it names it, or one of its `key@quant`."""
    if info.id in config.models:
        return config.models[info.id]
    folded = {name.casefold(): settings for name, settings in reversed(config.models.items())}
    names = (info.id, *(name for name in info.names if "@" in name))
    return next((folded[name.casefold()] for name in names if name.casefold() in folded), ModelSection())


def _lists_of(config: Config, names: NameIndex, entry: Entry) -> frozenset[str]:
    """Return the lists of its device on which the model of *entry* is, by any of its names."""

    def is_meant(name: str) -> bool:
        found = names.find(name)
        return found is not None and found.key == entry.key

    device = config.devices.get(config.backends[entry.key.backend].placed_on or "")
    return device.lists_of(is_meant) if device is not None else frozenset()


def _route(config: Config, entry: Entry, activation: Activation, lists: frozenset[str]) -> Route:
    """Return where requests for the model of *entry* go; it is on these *lists* of its device."""
    info, settings, backend = entry.info, entry.settings, config.backends[entry.key.backend]
    load = {**settings.load.given(), **activation.load}
    refused = backend.refuses(load) if backend.placed_on is not None else {}
    load = {option: value for option, value in load.items() if option not in refused}
    defaults = {**config.defaults.given(), **settings.defaults.given(), **activation.defaults}
    return Route(
        key=entry.key,
        device=backend.placed_on,
        needs=Needs(
            settings.memory or info.size_bytes,
            _least(settings.parallel, backend.parallel, info.parallel),
            info.embedding,
            settings.pin,
            settings.ttl_s,
            lists,
        ),
        size_given=settings.memory is not None,
        load=load,
        context_length=load.get("context_length") or info.context_length,
        vision=info.vision,
        defaults=defaults,
        force=settings.force.given(),
        strip=frozenset(settings.strip),
        permit=frozenset(settings.permit),
        served_model_name=settings.served_model_name,
    )


def _least(*parallel: int | None) -> int | None:
    """Take the least that anyone says: what is over it would wait in the engine, where nobody sees it."""
    return min(filter(None, parallel), default=None)
