"""Who may wait for a model at all.  Reads the device, changes nothing."""

from dmap.arbiter import outlook
from dmap.arbiter.device import Device
from dmap.arbiter.effects import ModelId, Reason, Refuse, TicketId


def objection(now: float, device: Device, ticket: TicketId, model: ModelId) -> Refuse | None:
    """Return the refusal of a *ticket* whose *model* cannot be had now; None if it may wait."""
    if device.closed:
        return Refuse(ticket, Reason.CLOSED)
    if model in device.residents:
        return None
    if (failure := device.back_off.refusal(now, model)) is not None:
        return Refuse(ticket, Reason.BACK_OFF, failure[1], failure[0])
    return None if device.can_ever_hold(model) else Refuse(ticket, Reason.NEVER_FITS)


def no_room(now: float, device: Device, ticket: TicketId, model: ModelId) -> Refuse | None:
    """Return the refusal of a *ticket* that would have to wait, if the queue is full."""
    resident = device.residents.get(model)
    if len(device.waiters.tickets) < device.limits.queue or (resident is not None and device.takes(resident)):
        return None
    return Refuse(ticket, Reason.QUEUE_FULL, retry_after_s=outlook.estimate(now, device, model))
