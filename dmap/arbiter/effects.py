"""What the arbiter asks of the world.  Values only; the gate carries them out."""

from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum
from typing import Any

ModelId = Any
"""A model's identity: hashable, and otherwise opaque to the arbiter; the gate puts its own keys here."""
TicketId = Any
ClientId = Hashable


class Reason(Enum):
    """Why a ticket is refused."""

    QUEUE_FULL = "queue_full"
    HOPELESS = "hopeless"
    WAIT_EXPIRED = "wait_expired"
    LOAD_FAILED = "load_failed"
    BACK_OFF = "back_off"
    NEVER_FITS = "never_fits"
    CLOSED = "closed"


class Cause(Enum):
    """
    Why a switch was decided.

    One that loads: there was room, what goes was idle, or a waiter lost patience; or nobody asked, but the
    model is to be there from the start, or to come back when nobody needs the device.  One that only unloads:
    somebody asked for it, the model is to have other options, nobody used it for its `ttl_s`, or the device
    is drained.
    """

    ROOM = "room"
    IDLE = "idle"
    PATIENCE = "patience"
    PRELOAD = "preload"
    RETURN = "return"
    ASKED = "asked"
    OUTDATED = "outdated"
    TTL = "ttl"
    DRAIN = "drain"


@dataclass(frozen=True, slots=True)
class Grant:
    """The ticket holds a lease from now until it is withdrawn."""

    ticket: TicketId


@dataclass(frozen=True, slots=True)
class Refuse:
    """The ticket is over.  *retry_after_s* is an estimate, None where trying again is of no use."""

    ticket: TicketId
    reason: Reason
    detail: str = ""
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Switch:
    """
    Unload each of *unload*, then load *load*, if it is not None.

    Report `unloaded` after each unload, `cleared` before the load call, `switched` at the end or with the
    reason of a failure.  After each report `Arbiter.switch` tells whether this switch is still the one under
    way: one without a load ends with its only unload.
    """

    load: ModelId | None
    unload: tuple[ModelId, ...]
    cause: Cause
    drain_s: float


@dataclass(frozen=True, slots=True)
class Stop:
    """
    Stop the load under way, of *load*, for nobody waits for it any more, if that can be done for certain.

    Report `switched` when nothing of it is left, as stopped; or as ever, if it came to another end.
    """

    load: ModelId


Effect = Grant | Refuse | Stop | Switch
