"""
What dmap asks of a model server, whatever its kind.

A backend that cannot load or unload is a `Backend`.  One that can is also a `Switcher`: its gate calls `load`
and `unload` one at a time, never two at once on one device.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from dmap.models import ModelInfo


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a load really gave, which may not be what was asked."""

    size_bytes: int | None = None
    context_length: int | None = None
    parallel: int | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """Where an inference request goes: *headers* are the backend's own, such as its token."""

    host: str
    port: int
    tls: bool
    path: str
    headers: tuple[tuple[str, str], ...] = ()


class Backend(Protocol):
    """
    A model server.

    Where *substitutes* is true it may have another model answer than was asked, and such an answer is
    refused; other servers only have names of their own for what they serve.
    """

    name: str
    substitutes: bool

    async def models(self) -> Sequence[ModelInfo]:
        """
        Ask what exists and what is resident: the truth now.

        Raises `BackendDown` when the server does not answer.
        """

    def target(self, model: str, path: str) -> Target:
        """Tell where a request for *model* on our route *path* goes; `BackendDown` if it is not up."""

    async def confirm(self) -> None:
        """Make sure of what `target` goes by, just before a request, where others may have changed it."""

    def means(self, model: str, named: str) -> bool:
        """Tell whether an answer that calls its model *named* is *model*'s."""

    async def close(self) -> None:
        """Let go of everything the backend owns, child processes included.  Idempotent."""


class Switcher(Backend, Protocol):
    """
    A model server whose residents dmap decides.

    Two attributes are set by the gate.  The backend calls *changed*, from the loop, when a resident may
    have come or vanished without being asked to.  *in_use* tells whether requests for a model are out, be
    it for a copy that is gone.

    A third one is the backend's own and may be left out: where *frees_at_once* is true the memory of a model
    is free as soon as `unload` returns, and no cool-down is needed after it.
    """

    changed: Callable[[], None]
    in_use: Callable[[str], bool]

    def start(self) -> None:
        """Begin to notice what happens outside dmap.  Idempotent; `close` ends it."""

    def satisfies(self, model: str, options: Mapping[str, Any]) -> bool:
        """Tell whether the resident *model*, by the last look, is as a load with *options* would make it."""

    def takes(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return those of *options* that a load can be given here; `load` refuses the others."""

    async def load(self, model: str, options: Mapping[str, Any]) -> Loaded:
        """
        Make *model* resident; return when it answers.  Idempotent.

        Raises `LoadFailed` with the server's own reason; a cancelled load leaves nothing behind.
        """

    async def unload(self, model: str) -> None:
        """Take *model* out; return when its memory is free.  Idempotent."""


def is_alike(model: str, named: str) -> bool:
    """Tell whether *named* may be a name of *model*: many servers answer with a path or a dated name."""
    asked, answered = model.casefold(), named.casefold()
    return asked in answered or answered in asked
