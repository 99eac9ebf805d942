"""What the file says of several residents, and what that cannot come to: its lists and who is on them."""

from collections.abc import Iterator
from difflib import get_close_matches

from dmap.config.schema import Config, Device
from dmap.sections import ModelSection


def doubts(config: Config) -> Iterator[str]:
    """Tell which lists of models can hardly mean what they say, each line with its path in the file."""
    for name, device in config.devices.items():
        for at, names in enumerate(device.together):
            where = f"devices.{name}.together[{at}]"
            for each in names:
                yield from (f"{where}: {doubt}" for doubt in _misnamed(config, name, each))
            yield from (f"{where}: {doubt}" for doubt in _in_the_way(config, name, device, names))


def _misnamed(config: Config, device: str, name: str) -> Iterator[str]:
    """Tell why *name* means no model of *device*, as far as the file knows; servers know of more models."""
    model = model_of(config, name)
    if model is not None:
        if config.device_of(model) not in (device, None):
            yield f"{name!r} is on another device"
        elif not any(home.placed_on == device for home in config.homes_of(model)):
            yield f"{name!r} is not on this device"
        return
    known = [each for own, section in config.models.items() for each in (own, *section.aliases)]
    near = get_close_matches(name, known, 1, cutoff=0.8)
    if near:
        yield f"no model is called {name!r} here; is {near[0]!r} meant?"
    elif all(home.runs_commands for home in config.backends.values() if home.placed_on == device):
        yield f"there is no model {name!r}"


def _in_the_way(config: Config, place: str, device: Device, names: tuple[str, ...]) -> Iterator[str]:
    """Tell what is pinned and not among *names*, beside which these are never resident together."""
    listed = [model_of(config, name) for name in names]
    for name, model in config.models.items():
        if model.pin and config.device_of(model) == place and not any(model is each for each in listed):
            yield f"{name!r} is pinned and not on this list, which means nothing meanwhile"
            return


def model_of(config: Config, name: str) -> ModelSection | None:
    """Return the section of the model that *name* means: its name, an alias, or `backend/name`."""
    backend, _, plain = name.partition("/")
    if backend in config.backends and plain in config.models:
        return config.models[plain]
    folded = {
        each.casefold(): model for own, model in config.models.items() for each in (own, *model.aliases)
    }
    return folded.get(name.casefold())
