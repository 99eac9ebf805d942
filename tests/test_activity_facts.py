"""What the log says of an end: what is known, and nobody's words."""

from typing import Any

import pytest

from dmap.activity import Request, Switch
from dmap.activity.facts import entry_of
from dmap.events import Event

SALT = bytes(32)
ENDED: dict[str, Any] = {
    "id": "req_1",
    "client": "webui",
    "key": True,
    "method": "POST",
    "path": "/v1/chat/completions",
    "model": "qwen/qwen3",
    "backend": "studio",
    "device": "gpu0",
    "priority": 3,
    "queue_s": 1.23456789,
    "switch_s": 0.5,
    "service_s": 7.00001,
    "first_byte_s": 0.25,
    "total_s": 10.25,
    "bytes": 1000,
    "tokens_in": 5,
    "tokens_out": 7,
    "status": 200,
    "outcome": "success",
}
SWITCHED: dict[str, Any] = {
    "device": "gpu0",
    "model": "qwen/qwen3",
    "load": "studio/qwen/qwen3",
    "unload": ["studio/a", "engine/b"],
    "cause": "patience",
    "drain_s": 0.5,
    "unload_s": 1.5,
    "load_s": 8.0,
    "context_length": 4096,
    "parallel": 4,
}


def entry(type: str, **fields: Any) -> Any:
    """Return what an event of *type* at 1,000 s says."""
    return entry_of(Event(1, 1000.0, type, fields), SALT)


def test_of_a_request() -> None:
    """A request's line has when it came, who asked for what, how long each part took, and its end."""
    assert entry("request.finished", **ENDED) == Request(
        v=1,
        at=989.75,
        client="webui",
        path="/v1/chat/completions",
        model="qwen/qwen3",
        backend="studio",
        device="gpu0",
        priority=3,
        queue_s=1.235,
        switch_s=0.5,
        service_s=7.0,
        first_byte_s=0.25,
        total_s=10.25,
        tokens_in=5,
        tokens_out=7,
        outcome="success",
        status=200,
    )


def test_of_a_request_that_named_no_model() -> None:
    """What did not get as far as a model is not kept; what a client wrote in its place is not, either."""
    assert entry("request.failed", **{name: ENDED[name] for name in ENDED if name != "model"}) is None


def test_of_an_address() -> None:
    """An address is its hash with the salt: the same for the same address, another for another salt."""
    there = Event(1, 1000.0, "request.finished", {**ENDED, "key": False, "client": "192.168.1.7"})

    names = [getattr(entry_of(there, salt), "client", "") for salt in (SALT, SALT, b"\1" * 32)]

    assert names[0] == names[1] != names[2]
    assert all(len(name) == 17 and name[0] == "@" and "192" not in name[:4] for name in names)


@pytest.mark.parametrize("outcome", ["secret words of a prompt", "insufficient_quota"])
def test_of_what_a_backend_says(outcome: str) -> None:
    """A code that a backend made up, which may have anything in it, is `backend_error`."""
    assert entry("request.failed", **ENDED | {"outcome": outcome, "status": 400}).outcome == "backend_error"


@pytest.mark.parametrize("outcome", ["wait_expired", "client_left", "backend_down", "rate_limit_exceeded"])
def test_of_an_end_that_dmap_made(outcome: str) -> None:
    """A code of dmap's own is kept as it is."""
    assert entry("request.failed", **ENDED | {"outcome": outcome}).outcome == outcome


def test_of_clocks() -> None:
    """A duration that rounding made a hair less than nothing is nothing, and so is a time before 1970."""
    odd = entry("request.finished", **ENDED | {"total_s": 2000.0, "switch_s": -1e-12})

    assert (odd.at, str(odd.switch_s)) == (0.0, "0.0")


def test_of_a_load() -> None:
    """A switch's line has what came and went, why, and what each part took."""
    assert entry("switch.loaded", **SWITCHED) == Switch(
        v=1,
        at=990.0,
        device="gpu0",
        model="qwen/qwen3",
        backend="studio",
        unloaded=("studio/a", "engine/b"),
        cause="patience",
        drain_s=0.5,
        unload_s=1.5,
        load_s=8.0,
        parallel=4,
        outcome="ok",
    )


@pytest.mark.parametrize(
    ("type", "outcome"),
    [("switch.failed", "failed"), ("switch.cancelled", "given_up"), ("switch.loaded", "ok")],
)
def test_of_the_end_of_a_switch(type: str, outcome: str) -> None:
    """Whatever became of it, there is a line; the words of an error are not in it."""
    switched = entry(type, **SWITCHED | {"reason": "cannot load: secret"})

    assert switched.outcome == outcome
    assert "secret" not in repr(switched)


def test_of_an_unloading() -> None:
    """A switch that only unloads has its line; an unloading that is a part of another has none of its own."""
    gone = {**SWITCHED, "unload": ["studio/a"], "load_s": 0.0, "cause": "ttl", "parallel": None}

    alone = entry("switch.unloaded", **gone | {"load": None})

    assert (alone.model, alone.backend, alone.unloaded, alone.cause) == (None, None, ("studio/a",), "ttl")
    assert entry("switch.unloaded", **gone) is None
