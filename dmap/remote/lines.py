"""One event as one line for a terminal.  Pure: what is shown depends on the event alone, and on colour."""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from dmap.remote.client import plain
from dmap.remote.words import count, duration

_Event = Mapping[str, Any]

_RED, _GREEN, _YELLOW, _BLUE, _CYAN, _DIM = "31", "32", "33", "34", "36", "2"
_COLOURS = {
    "request.received": _DIM,
    "request.queued": _YELLOW,
    "request.granted": _CYAN,
    "request.first_byte": _CYAN,
    "request.finished": _GREEN,
    "request.failed": _RED,
    "request.cancelled": _YELLOW,
    "request.mismatch": _RED,
    "switch.failed": _RED,
    "switch.cancelled": _YELLOW,
    "config.refused": _RED,
    "access.denied": _RED,
    "debug.missed": _RED,
}
_LATER = ("number", "at", "type", "id", "client", "device")
"""What has a place of its own in the line."""


def line(event: _Event, *, colour: bool) -> str:
    """Write *event* as local time, type, request or device, client, and what there is to say."""
    kind = plain(str(event.get("type", "?")))
    at = event.get("at")
    clock = datetime.fromtimestamp(at).strftime("%H:%M:%S.%f")[:-3] if isinstance(at, (int, float)) else "-"
    whose = str(event.get("id", ""))[-8:] or str(event.get("device", ""))
    client = plain(str(event.get("client", "")))
    try:
        said = ", ".join(_SAID.get(kind, _fields)(event))
    except (KeyError, TypeError, ValueError):  # of another version of dmap
        said = ", ".join(_fields(event))
    cells = f"{plain(whose):<8}  {client:<12}  {plain(said)}".rstrip()
    return f"{_in(_DIM, clock, colour)}  {_in(_COLOURS.get(kind, _BLUE), f'{kind:<18}', colour)}  {cells}"


def _in(shade: str, text: str, colour: bool) -> str:
    return f"\x1b[{shade}m{text}\x1b[0m" if colour else text


def _fields(event: _Event) -> Iterator[str]:
    return (f"{name}={value}" for name, value in event.items() if name not in _LATER)


def _received(event: _Event) -> Iterator[str]:
    yield f"{event['method']} {event['path']}"


def _queued(event: _Event) -> Iterator[str]:
    behind = f" behind {event['behind']}" if event.get("behind") else ""
    yield f"waits for {event['model']}{behind}"
    yield f"position {event['position']}"
    yield f"about {duration(event['estimate_s'])}"


def _granted(event: _Event) -> Iterator[str]:
    yield f"{event['model']} {_after(event['queue_s'])}"
    if event.get("switch_s"):
        yield f"{duration(event['switch_s'])} of it for the switch"


def _after(wait_s: float) -> str:
    return f"after {duration(wait_s)}" if wait_s >= 0.001 else "at once"


def _first_byte(event: _Event) -> Iterator[str]:
    yield f"{event['model']} after {duration(event['first_byte_s'])}"


def _ended(event: _Event) -> Iterator[str]:
    outcome = event.get("outcome", "success")
    words = [str(event.get("status", "-")), outcome if outcome != "success" else "", event.get("model", "")]
    yield " ".join(filter(None, words))
    yield duration(event["total_s"])
    if "tokens_out" in event:
        yield f"{event.get('tokens_in', '?')} + {event['tokens_out']} tokens"
    if "tokens_per_s" in event:
        yield f"{event['tokens_per_s']:.1f}/s"
    if event.get("queue_s", 0) >= 0.001:
        yield f"{duration(event['queue_s'])} in the queue"
    if "reason" in event:
        yield event["reason"]


def _mismatch(event: _Event) -> Iterator[str]:
    yield f"{event['model']} was asked, {event['answered']} answered"


def _started(event: _Event) -> Iterator[str]:
    if event.get("load"):
        yield f"load {event['load']}"
    if event.get("unload"):
        yield f"unload {' '.join(event['unload'])}"
    if event.get("reason"):
        yield event["reason"]


def _drained(event: _Event) -> Iterator[str]:
    yield f"idle after {duration(event['drain_s'])}"


def _unloaded(event: _Event) -> Iterator[str]:
    yield f"{event['model']} in {duration(event['unload_s'])}"


def _loaded(event: _Event) -> Iterator[str]:
    yield f"{event['model']} in {duration(event['load_s'])}"
    for name, words in (("context_length", "context"), ("parallel", "parallel")):
        if name in event:
            yield f"{words} {event[name]}"


def _failed(event: _Event) -> Iterator[str]:
    yield event["model"]
    yield event["reason"]


def _cancelled(event: _Event) -> Iterator[str]:
    spent_s = sum(event.get(name) or 0.0 for name in ("drain_s", "unload_s", "load_s"))
    after = f" after {duration(spent_s)}" if spent_s else ""
    yield f"{event.get('model') or event.get('load') or ''} given up{after}".lstrip()
    if event.get("reason"):
        yield event["reason"]


def _model(event: _Event) -> Iterator[str]:
    yield event["model"]
    if "by" in event:
        yield f"by {event['by']}"


def _refused(event: _Event) -> Iterator[str]:
    yield from event["problems"]


def _denied(event: _Event) -> Iterator[str]:
    yield f"{event['status']} {event['code']} for {event['path']}"
    yield event["reason"]


def _missed(event: _Event) -> Iterator[str]:
    yield f"{count(event['missed'], 'event')} lost: the reader was too slow, or too long away"


_SAID: Mapping[str, Callable[[_Event], Iterator[str]]] = {
    "request.received": _received,
    "request.queued": _queued,
    "request.granted": _granted,
    "request.first_byte": _first_byte,
    "request.finished": _ended,
    "request.failed": _ended,
    "request.cancelled": _ended,
    "request.mismatch": _mismatch,
    "switch.started": _started,
    "switch.drained": _drained,
    "switch.unloaded": _unloaded,
    "switch.loaded": _loaded,
    "switch.failed": _failed,
    "switch.cancelled": _cancelled,
    "model.appeared": _model,
    "model.vanished": _model,
    "model.activated": _model,
    "config.refused": _refused,
    "access.denied": _denied,
    "debug.missed": _missed,
}
