"""What the events of an end say, as entries of the log.  Pure: nothing is asked or kept."""

import hashlib
from functools import lru_cache

from dmap.activity.entry import Entry, Request, Switch
from dmap.events import Event
from dmap.metrics.outcome import STATUS

REQUESTS = ("request.finished", "request.failed", "request.cancelled")
SWITCHES = ("switch.loaded", "switch.failed", "switch.cancelled", "switch.unloaded")
"""The types of events that may make an entry."""

_OUTCOMES = {"switch.failed": "failed", "switch.cancelled": "given_up"}
_DIGITS = 3
"""Of seconds, as many as the loop's clock has."""


def entry_of(event: Event, salt: bytes) -> Entry | None:
    """
    Return what *event* ends, or None where it ends nothing that is kept.

    That is a request that did not come to name a model, and an unloading that is a part of a switch.  An
    address goes in as its hash with *salt*, of 16 to 64 bytes.
    """
    fields = event.fields
    if event.type in REQUESTS:
        return _request(event, salt) if "model" in fields else None
    return None if event.type == "switch.unloaded" and fields["load"] is not None else _switch(event)


def _request(event: Event, salt: bytes) -> Request:
    """Return the entry of a request; this is done for each, and a dozen calls more would be felt."""
    fields, get = event.fields, event.fields.get
    client, outcome, total_s = fields["client"], fields["outcome"], round(fields["total_s"], _DIGITS)
    first_byte_s = get("first_byte_s")
    return Request(
        v=1,
        at=max(0.0, round(event.at - total_s, _DIGITS)),
        client=client if fields["key"] else _hash(client, salt),
        path=fields["path"],
        model=fields["model"],
        backend=fields["backend"],
        device=get("device"),
        priority=fields["priority"],
        queue_s=round(fields["queue_s"], _DIGITS),
        switch_s=round(fields["switch_s"], _DIGITS) + 0.0,  # a sum of differences: it may be a hair below
        service_s=round(fields["service_s"], _DIGITS),
        first_byte_s=first_byte_s and round(first_byte_s, _DIGITS),
        total_s=total_s,
        tokens_in=get("tokens_in"),
        tokens_out=get("tokens_out"),
        cache=get("cache"),
        outcome=outcome
        if outcome in STATUS
        else "backend_error",  # what else a backend says is its own words
        status=get("status"),
    )


def _switch(event: Event) -> Switch:
    fields = event.fields
    load: str | None = fields["load"]
    spent_s = {name: round(fields[name], _DIGITS) for name in ("drain_s", "unload_s", "load_s")}
    return Switch(
        v=1,
        at=max(0.0, round(event.at - sum(spent_s.values()), _DIGITS)),
        device=fields["device"],
        model=None if load is None else _id_of(load),
        backend=None if load is None else load.partition("/")[0],
        unloaded=tuple(fields["unload"]),
        cause=fields["cause"],
        parallel=fields.get("parallel"),
        outcome=_OUTCOMES.get(event.type, "ok"),
        **spent_s,
    )


def _id_of(model: str) -> str:
    """Return the id of *model*, a `backend/id`; no backend's name has a slash."""
    return model.partition("/")[2]


@lru_cache(maxsize=4096)
def _hash(address: str, salt: bytes) -> str:
    digest = hashlib.blake2b(address.encode(errors="replace"), key=salt, digest_size=8)
    return f"@{digest.hexdigest()}"
