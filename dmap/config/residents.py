"""What the file says of several residents, and what that cannot come to: its lists and who is on them."""

from collections.abc import Iterator

from dmap.arbiter import Limits, Needs, policy
from dmap.config.device import Device
from dmap.config.schema import Config
from dmap.sections import ModelSection
from dmap.sections.near import meant


def doubts(config: Config) -> Iterator[str]:
    """Tell which lists of models can hardly mean what they say, each line with its path in the file."""
    for name, device in config.devices.items():
        for at, names in enumerate(device.together):
            where = f"devices.{name}.together[{at}]"
            for each in names:
                yield from (f"{where}: {doubt}" for doubt in _misnamed(config, name, each))
            yield from (f"{where}: {doubt}" for doubt in _in_the_way(config, name, device, names))
        yield from (f"devices.{name}.{doubt}" for doubt in _preloads(config, name, device))


def _misnamed(config: Config, device: str, name: str) -> Iterator[str]:
    """Tell why *name* means no model of *device*, as far as the file knows; servers know of more models."""
    model = model_of(config, name)
    if model is not None:
        if config.device_of(model) not in (device, None):
            yield f"{name!r} is on another device"
        elif not any(home.placed_on == device for home in config.homes_of(model)):
            yield f"{name!r} is not on this device"
        return
    if all(home.runs_commands for home in config.backends.values() if home.placed_on == device):
        known = [each for own, section in config.models.items() for each in (own, *section.aliases)]
        yield f"there is no model {name!r}{meant(name, known)}"


def _in_the_way(config: Config, place: str, device: Device, names: tuple[str, ...]) -> Iterator[str]:
    """Tell what is pinned and not among *names*, beside which these are never resident together."""
    listed = [model_of(config, name) for name in names]
    for name, model in config.models.items():
        if model.pin and config.device_of(model) == place and not any(model is each for each in listed):
            yield f"{name!r} is pinned and not on this list, which means nothing meanwhile"
            return


def _preloads(config: Config, place: str, device: Device) -> Iterator[str]:
    """Tell what the models that are to be there from the start cannot come to."""
    if device.return_s is not None and not device.preload:
        yield "return_s: has no effect without preload"
    there: list[Needs] = []
    for name in device.preload:
        yield from (f"preload: {doubt}" for doubt in _misnamed(config, place, name))
        model = model_of(config, name)
        needs = _least(config, device, name)
        if policy.fits(_most(device), [*there, needs]):
            there.append(needs)
        else:
            yield f"preload: {name!r} does not fit beside those before it, so it is left out"
        if model is not None and model.ttl_s is not None and device.return_s is not None:
            yield f"preload: {name!r} goes after its ttl_s, and is back only when the device was used again"


def _least(config: Config, device: Device, name: str) -> Needs:
    """Return what a model takes, at least, as far as the file knows: a command of unknown size all."""
    model = model_of(config, name) or ModelSection()
    home = config.homes_of(model)[0] if model.backend is not None and config.backends else None
    size = model.memory if home is not None and home.runs_commands else model.memory or 0
    lists = device.lists_of(lambda each: each == name or model_of(config, each) is model)
    return Needs(size, together=lists)


def _most(device: Device) -> Limits:
    """Return the limits of *device* for models of which nobody knows whether they make embeddings."""
    return Limits(device.max_models + device.embeddings, device.memory)


def model_of(config: Config, name: str) -> ModelSection | None:
    """Return the section of the model that *name* means: its name, an alias, or `backend/name`."""
    backend, _, plain = name.partition("/")
    if backend in config.backends and plain in config.models:
        return config.models[plain]
    folded = {
        each.casefold(): model for own, model in config.models.items() for each in (own, *model.aliases)
    }
    return folded.get(name.casefold())
