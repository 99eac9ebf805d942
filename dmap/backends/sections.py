"""The sections of the configuration that describe backends: what those of every kind have in common."""

from collections.abc import Mapping
from typing import Any, ClassVar

from dmap.sections.section import Section
from dmap.sections.types import Count, Name, Seconds, Size


class BackendSection(Section):
    """One backend.  Of one model it serves *parallel* requests at once, or as many as its server says."""

    runs_commands: ClassVar[bool] = False
    """Whether its models are those that have a `cmd`, and no others."""

    takes_names: ClassVar[bool] = True
    """Whether the name in a request only has to please its server, and is not what the server loads by."""

    kind: str
    device: Name | None = None
    parallel: Count | None = None

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
