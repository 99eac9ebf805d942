"""The gates that a configuration asks for: one for each device, and one for each backend without a device."""

from collections.abc import Mapping

from dmap.backends import PassingSection, Switcher
from dmap.config import Config, Device
from dmap.gate import Gate, Tell


def gates_of(
    config: Config, switchers: Mapping[str, Switcher], tell: Tell
) -> tuple[dict[str, Gate], dict[str, Gate]]:
    """Return the gates of the devices, with those of *switchers* that are placed there, and of the others."""
    sections = config.backends
    devices = {
        name: Gate(
            name,
            device,
            {each: switchers[each] for each in switchers if sections[each].placed_on == name},
            tell=tell,
        )
        for name, device in config.devices.items()
    }
    passages = {
        name: Gate(
            name,
            Device(wait_s=section.wait_s, queue=section.queue, lease_s=section.lease_s),
            parallel=section.parallel,
        )
        for name, section in sections.items()
        if isinstance(section, PassingSection)
    }
    return devices, passages
