"""What the file allows but its owner may not want."""

from collections.abc import Iterator
from datetime import datetime

from dmap.config.access import is_loopback
from dmap.config.residents import doubts
from dmap.config.schema import Config


def warnings_of(config: Config, now: datetime, load_s: float = 10) -> list[str]:
    """
    Tell what the file allows but its owner may not want.

    *now* has a time zone; *load_s* is the cost of a load that nobody has measured yet.
    """
    return [*_long_waits(config, load_s), *_idle(config), *doubts(config), *_about_access(config, now)]


def _long_waits(config: Config, load_s: float) -> Iterator[str]:
    """Find devices where a waiter may see all other models go first: models x (residency + 1) x cost."""
    for name, device in config.devices.items():
        rivals = max(
            sum(config.device_of(model) == name for model in config.models.values()),
            sum(each.counted() for each in config.backends.values() if each.placed_on == name),
        )
        longest = rivals * (device.residency + 1) * load_s
        at_once = max(device.max_models, *map(len, device.together), 0)
        if rivals > at_once and longest > device.wait_s:
            yield (
                f"devices.{name}: {rivals} models can keep a request waiting {longest:.0f} s "
                f"(loads of {load_s:.0f} s), longer than wait_s of {device.wait_s:.0f} s"
            )


def _idle(config: Config) -> Iterator[str]:
    """Find what is set and has no effect."""
    used = {backend.device for backend in config.backends.values()}
    for name in sorted(config.devices.keys() - used):
        yield f"devices.{name}: no backend is on this device"
    for name in (name for name, device in config.devices.items() if device.memory is None):
        for server in (server for server, size in config.device(name).held.items() if size is not None):
            yield f"backends.{server}.memory: is only shown, because devices.{name}.memory is not set"
    for name, model in config.models.items():
        if model.pin and model.ttl_s is not None:
            yield f"models.{name}.ttl_s: a pinned model stays, however long nobody asks for it"


def _about_access(config: Config, now: datetime) -> Iterator[str]:
    """Find that everybody may come in, and who no longer may."""
    access = config.access
    if not is_loopback(config.listen.host) and access.open and not (access.keys or access.allow):
        yield "access.open: anyone who reaches this host may use every model"
    for key in access.keys:
        if key.expires is not None and key.expires <= now:
            yield f"access.keys: {key.name!r} expired on {key.expires:%Y-%m-%d}"
