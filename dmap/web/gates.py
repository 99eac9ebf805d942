"""The gates that a configuration asks for: one for each device, and one for each backend without a device."""

from collections.abc import Mapping

from dmap.arbiter import Limits
from dmap.backends import PassingSection, Switcher
from dmap.config import Config, Device
from dmap.gate import Bounds, Gate, Tell


def gates_of(
    config: Config, switchers: Mapping[str, Switcher], tell: Tell
) -> tuple[dict[str, Gate], dict[str, Gate]]:
    """Return the gates of the devices, with those of *switchers* that are placed there, and of the others."""
    sections = config.backends
    devices = {
        name: Gate(
            name,
            limits_of(device),
            {each: switchers[each] for each in switchers if sections[each].placed_on == name},
            bounds_of(device),
            tell=tell,
        )
        for name, device in config.devices.items()
    }
    passages = {
        name: Gate(
            name,
            Limits(wait_s=section.wait_s, queue=section.queue),
            bounds=Bounds(lease_s=section.lease_s),
            parallel=section.parallel,
        )
        for name, section in sections.items()
        if isinstance(section, PassingSection)
    }
    return devices, passages


def limits_of(device: Device) -> Limits:
    """Return the bounds of *device* as its arbiter takes them."""
    return Limits(
        max_models=device.max_models,
        memory_bytes=device.memory,
        embeddings=device.embeddings,
        patience_s=device.patience_s,
        residency=device.residency,
        wait_s=device.wait_s,
        queue=device.queue,
    )


def bounds_of(device: Device) -> Bounds:
    """Return what else the gate of *device* goes by."""
    return Bounds(
        lease_s=device.lease_s,
        cooldown_s=device.cooldown_s,
        gone_s=device.backend_gone_s,
        adopt=device.adopt == "evict",
    )
