"""The sections of the configuration that describe backends: what those of every kind have in common."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, PrivateAttr, model_validator

from dmap.sections.models import ON
from dmap.sections.section import Section
from dmap.sections.types import Count, Name, Seconds, Size

_ONE_SERVER = (
    "dmap does not start this server, and one server cannot be told on which GPU to load: "
    "run one for each GPU, and name each as a backend with its own device"
)


def _apart(devices: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(devices)) < len(devices):
        raise ValueError("a device is named twice")
    return devices


class BackendSection(Section):
    """One backend.  Of one model it serves *parallel* requests at once, or as many as its server says."""

    runs_commands: ClassVar[bool] = False
    """Whether its models are those that have a `cmd`, and no others."""

    takes_names: ClassVar[bool] = True
    """Whether the name in a request only has to please its server, and is not what the server loads by."""

    kind: str
    device: Name | None = None
    parallel: Count | None = None

    @model_validator(mode="before")
    @classmethod
    def _device_of_several(cls, values: Any) -> Any:
        """Take the first of *devices* for the device, until there is a section for each of them."""
        if not isinstance(values, dict) or "devices" not in values:
            return values
        if "devices" not in cls.model_fields:
            raise ValueError(_ONE_SERVER)
        if "device" in values:
            raise ValueError("name device, or devices, but not both")
        devices = values["devices"]
        if not isinstance(devices, list) or not devices:
            raise ValueError("name the devices in a list, such as [gpu0, gpu1]")
        return {**values, "device": devices[0]}

    def spread(self, name: str) -> "Iterator[tuple[str, BackendSection]]":
        """Yield it, called *name*; or where it is on several devices, one like it for each of them."""
        yield name, self

    @property
    def placed_on(self) -> str | None:
        """The device whose memory its models compete for; None where dmap cannot switch them."""
        return None

    @property
    def switched_at(self) -> str | None:
        """The URL of a server whose models dmap loads and unloads, and others could, too; else None."""
        return None

    @property
    def lasting(self) -> "BackendSection":
        """What of it only a restart can change."""
        return self

    def refuses(self, options: Mapping[str, Any]) -> dict[str, str]:
        """Return those *options* of a load that its server does not take, each with the reason."""
        raise NotImplementedError

    def counted(self) -> int:
        """Count the models that it has for certain, as far as that shows without asking a server."""
        return 0


class SwitchingSection(BackendSection):
    """A backend whose models dmap loads into the memory of *device* and unloads; one load takes *load_s*."""

    device: Name
    load_s: Seconds = 600

    @property
    def placed_on(self) -> str | None:
        """*device*."""
        return self.device


class RunningSection(SwitchingSection):
    """
    A backend whose models dmap starts itself, on its *device*; or one such backend on each of *devices*.

    A child on a device with `gpus` sees these and no others, unless its `env` says otherwise.
    """

    devices: Annotated[tuple[Name, ...], AfterValidator(_apart)] = ()
    _gpus: tuple[int | str, ...] = PrivateAttr(default=())

    def spread(self, name: str) -> Iterator[tuple[str, BackendSection]]:
        """Yield one section for each of *devices*, called `NAME@DEVICE`; one device takes *name* itself."""
        for device in self.devices or (self.device,):
            called = f"{name}{ON}{device}" if len(self.devices) > 1 else name
            yield called, self.model_copy(update={"device": device, "devices": ()})

    def beside(self, gpus: tuple[int | str, ...]) -> None:
        """Take the *gpus* of its device."""
        self._gpus = gpus

    @property
    def visible(self) -> dict[str, str]:
        """
        The variables by which a child sees only the GPUs of its device, in their order by bus, as NVML's.

        HIP reads CUDA's name, too, and its own first (HIP's documentation, "GPU isolation").  Vulkan of
        llama.cpp knows numbers only (ggml-vulkan.cpp).  A card of sysfs has no name that they know.
        """
        named = ",".join(str(gpu) for gpu in self._gpus if not str(gpu).startswith("card"))
        if not named:
            return {}
        seen = {
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "CUDA_VISIBLE_DEVICES": named,
            "HIP_VISIBLE_DEVICES": named,
        }
        is_numbered = all(isinstance(gpu, int) for gpu in self._gpus)
        return seen | ({"GGML_VK_VISIBLE_DEVICES": named} if is_numbered else {})


class PassingSection(BackendSection):
    """
    A backend whose models dmap cannot switch; it has a queue of its own, with bounds of its own.

    If it runs on *device*, its server holds *memory* of that all the time, whether it answers or not.
    """

    memory: Size | None = None
    queue: Count = 1024
    wait_s: Seconds = 300
    lease_s: Seconds = 1800

    @property
    def lasting(self) -> BackendSection:
        """All but *memory*, which is only counted."""
        return self.model_copy(update={"memory": None})

    def refuses(self, options: Mapping[str, Any]) -> dict[str, str]:
        """Refuse all but the context length, which is a fact to go by."""
        return {
            name: "dmap cannot load models on this server" for name in options if name != "context_length"
        }
