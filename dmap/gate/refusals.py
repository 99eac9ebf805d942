"""The arbiter's refusals in words for clients.  The reasons are `arbiter.Reason`, the errors `errors`'."""

from dmap.arbiter import Reason, Refuse
from dmap.config import Device
from dmap.errors import BackendDown, DmapError, LoadFailed, Overloaded, ShuttingDown, WaitExpired
from dmap.models import ModelKey
from dmap.sections.types import size_text


def error_of(refusal: Refuse, key: ModelKey, name: str, device: Device, *, is_down: bool) -> DmapError:
    """Return the error for a client that asked for *key* on *name*; *is_down* if its backend is silent."""
    detail, retry_after_s = refusal.detail, refusal.retry_after_s
    match refusal.reason:
        case Reason.QUEUE_FULL:
            text = f"the queue of {name!r} is full, at {device.queue}; try again later"
            return Overloaded(text, retry_after_s=retry_after_s)
        case Reason.HOPELESS:
            told = f"a request for {key} would wait for about {retry_after_s:.0f} s on {name!r}"
            text = f"{told}, but its wait_s is {device.wait_s:g}; try again later"
            return Overloaded(text, retry_after_s=retry_after_s)
        case Reason.WAIT_EXPIRED:
            text = f"waited {device.wait_s:g} s for {key} on {name!r}; try again later"
            return WaitExpired(text, retry_after_s=retry_after_s)
        case Reason.CLOSED:
            return ShuttingDown(f"dmap is shutting down; {key} was not asked", retry_after_s=5)
        case Reason.NEVER_FITS:
            held = {server: size for server, size in device.held.items() if size}
            holders = [f"{server!r}, which holds {size_text(size)}" for server, size in held.items()]
            keys = ["devices.memory", *(f"backends.{server}.memory" for server in held), "models.memory"]
            return LoadFailed(
                f"{key} does not fit on {name!r} beside {' and '.join([*holders, 'what is pinned there'])}; "
                f"see {', '.join(keys)} and models.pin in config.yaml"
            )
        case Reason.LOAD_FAILED if not is_down:
            return LoadFailed(f"could not load {key} on {name!r}: {detail}")
        case _:
            text = f"could not load {key} on {name!r} at the last try: {detail}"
            return BackendDown(text, retry_after_s=retry_after_s)


def still_serves(key: ModelKey, name: str, wait_s: float) -> WaitExpired:
    """Return the error for an order to unload *key* that has waited for *wait_s* on *name*."""
    return WaitExpired(
        f"{key} on {name!r} still serves after {wait_s:g} s and was not unloaded", retry_after_s=5
    )


def not_unloaded(key: ModelKey) -> ShuttingDown:
    """Return the error for an order to unload *key* while dmap stops."""
    return ShuttingDown(f"dmap is shutting down; {key} was not unloaded", retry_after_s=5)
