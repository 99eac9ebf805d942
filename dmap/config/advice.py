"""What the file allows but its owner may not want."""

from collections.abc import Iterator

from dmap.config.schema import SWITCHING, Config, Model, is_loopback


def warnings_of(config: Config, load_s: float = 10) -> list[str]:
    """
    Tell what the file allows but its owner may not want.

    *load_s* is the cost of a load that nobody has measured yet.
    """
    return [*_long_waits(config, load_s), *_too_open(config)]


def _long_waits(config: Config, load_s: float) -> Iterator[str]:
    """Find devices where a waiter may see all other models go first: models x (residency + 1) x cost."""
    for name, device in config.devices.items():
        rivals = sum(_device_of(config, model) == name for model in config.models.values())
        longest = rivals * (device.residency + 1) * load_s
        if rivals > device.max_models and longest > device.wait_s:
            yield (
                f"devices.{name}: {rivals} models can keep a request waiting {longest:.0f} s "
                f"(loads of {load_s:.0f} s), longer than wait_s of {device.wait_s:.0f} s"
            )


def _device_of(config: Config, model: Model) -> str | None:
    switching = {n: b.device for n, b in config.backends.items() if isinstance(b, SWITCHING)}
    if model.backend is None and len(switching) == 1:
        return next(iter(switching.values()))
    return switching.get(model.backend or "")


def _too_open(config: Config) -> Iterator[str]:
    access = config.access
    if not is_loopback(config.listen.host) and access.open and not (access.keys or access.allow):
        yield "access.open: anyone who reaches this host may use every model"
