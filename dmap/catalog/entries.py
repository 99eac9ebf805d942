"""What the models are: the file, what each backend said of it, and what was set for it, put together."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dmap.arbiter import Needs
from dmap.catalog.names import Entry, NameIndex
from dmap.config import Config, Settings
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
    for name, settings in config.settings.named.items():
        home = config.backends.get(settings.backend or "")
        if settings.backend is not None and home is not None and home.placed_on is None:
            # A server that cannot switch need not list a model to answer for it.
            key = ModelKey(settings.backend, name)
            info = listed.get(key) or ModelInfo(name, resident=True)
            yield Entry(key, info, settings, kind=info.kind or home.kind)
    for backend, section in config.backends.items():
        for info in reports.get(backend, ()):
            settings = _settings(config.settings, info)
            if settings.lives_on(backend):
                yield Entry(ModelKey(backend, info.id), info, settings, kind=info.kind or section.kind)


def variants_of(config: Config, models: NameIndex) -> Iterator[Entry]:
    """Yield the variants of the file, in its order: one for each copy of their model among *models*."""
    for name, settings in config.settings.variants.items():
        for base in models.places(settings.of or ""):
            yield Entry(base.key, base.info, settings, base, name, base.kind)


def routes_of(config: Config, names: NameIndex, activations: Mapping[str, Activation]) -> dict[Entry, Route]:
    """
    Return the routes of all models and variants of *names*, and of the models of these variants.

    The *activations* hold for what they name, by whatever name; what is set last wins.  Where two entries
    are one model, the first counts.
    """
    hidden = NameIndex(variant.of for variant in names.variants if variant.of is not None)
    laid = _laid(names, hidden, activations)
    everywhere = config.defaults.given()
    by_key: dict[ModelKey, Route] = {}
    routes: dict[Entry, Route] = {}
    for entry in (*names.known, *hidden.known):
        if entry.key not in by_key:
            lists, activation = _lists_of(config, names, entry), laid.get(entry.key, _UNSET)
            by_key[entry.key] = _route(config, everywhere, entry, activation, lists)
        routes[entry] = by_key[entry.key]
    for variant in names.variants:
        routes[variant] = _varied(by_key[variant.key], variant, laid.get(variant.name, _UNSET))
    return routes


def _settings(settings: Settings, info: ModelInfo) -> ModelSection:
    """Find what the file says of a model, by its name, one of its `key@quant`, or its file and its place."""
    paths = (f"/{info.id}", f"/{info.file}") if info.file else ()
    meant = (name for name in info.names if "@" in name or any(path.endswith(f"/{name}") for path in paths))
    return settings.of(info.id, *meant)


def _laid(
    names: NameIndex, hidden: NameIndex, activations: Mapping[str, Activation]
) -> dict[ModelKey | str, Activation]:
    """Return what was set for each model, by its key, and for each variant, by its name."""
    laid: dict[ModelKey | str, Activation] = {}
    for name, later in activations.items():
        for entry in names.places(name) or hidden.places(name):
            what = entry.key if entry.of is None else entry.name
            before = laid.get(what, _UNSET)
            laid[what] = Activation({**before.defaults, **later.defaults}, {**before.load, **later.load})
    return laid


def _lists_of(config: Config, names: NameIndex, entry: Entry) -> frozenset[str]:
    """Return the lists of its device on which the model of *entry* is, by any of its names."""

    def is_meant(name: str) -> bool:
        return any(found.key == entry.key for found in names.places(name))

    device = config.devices.get(config.backends[entry.key.backend].placed_on or "")
    return device.lists_of(is_meant) if device is not None else frozenset()


def _route(
    config: Config,
    everywhere: Mapping[str, Any],
    entry: Entry,
    activation: Activation,
    lists: frozenset[str],
) -> Route:
    """
    Return where requests for the model of *entry* go, which is on these *lists* of its device.

    *everywhere* has the defaults of all models.
    """
    info, settings, backend = entry.info, entry.settings, config.backends[entry.key.backend]
    load = {**settings.load.given(), **activation.load}
    refused = backend.refuses(load) if backend.placed_on is not None else {}
    load = {option: value for option, value in load.items() if option not in refused}
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
        defaults={**everywhere, **settings.defaults.given(), **activation.defaults},
        force=settings.force.given(),
        strip=frozenset(settings.strip),
        permit=frozenset(settings.permit),
        served_model_name=settings.served_model_name,
        tokenizer=settings.tokenizer,
    )


def _varied(route: Route, variant: Entry, activation: Activation) -> Route:
    """Return the *route* of a model as its *variant* has it: the variant's own parameters go first."""
    own = variant.settings
    return replace(
        route,
        defaults={**route.defaults, **own.defaults.given(), **activation.defaults},
        force={**route.force, **own.force.given()},
        strip=route.strip.union(own.strip),
        permit=route.permit.union(own.permit),
    )


def _least(*parallel: int | None) -> int | None:
    """Take the least that anyone says: what is over it would wait in the engine, where nobody sees it."""
    return min(filter(None, parallel), default=None)
