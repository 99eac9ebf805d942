"""One event as one line for a terminal.  Pure: what is shown depends on the event alone, and on colour."""

import string
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from dmap.remote.client import plain
from dmap.remote.pages import count, duration, folded

_Event = Mapping[str, Any]

_RED, _GREEN, _YELLOW, _BLUE, _CYAN, _DIM = "31", "32", "33", "34", "36", "2"
_COLOURS = {
    "received": _DIM,
    "granted": _CYAN,
    "first_byte": _CYAN,
    "finished": _GREEN,
    **dict.fromkeys(("queued", "cancelled"), _YELLOW),
    **dict.fromkeys(("failed", "mismatch", "refused", "denied", "missed"), _RED),
}
"""By the second word of an event's type; others are blue."""
_LATER = ("number", "at", "type", "id", "client", "device")
"""What has a place of its own in the line."""

_ENDED = (
    "{status} {outcome} {model}|{status} {outcome}|{status} {model}|{status}",
    "{total_s:time}",
    "{tokens_in} + {tokens_out} tokens|? + {tokens_out} tokens|",
    "{tokens_per_s:.1f}/s|",
    "{queue_s:time} in the queue|",
    "cache {cache}|",
    "{reason}|",
)
_MODEL = ("{model}", "by {by}|")
_SAID = {
    "request.received": ("{method} {path}",),
    "request.queued": (
        "waits for {model} behind {behind}|waits for {model}|waits for {backend}",
        "position {position}|",
        "about {estimate_s:time}|",
        "p80 {p80_s:time}|",
    ),
    "request.granted": (
        "{model} after {queue_s:time}|{model} at once|after {queue_s:time}|at once",
        "{switch_s:time} of it for the switch|",
        "filled in {filled:, }|",
        "forced {forced:, }|",
        "stripped {stripped:, }|",
    ),
    "request.retried": ("{model}", "{reason}"),
    "request.routed": ("{node}", "{reason}"),
    "request.moved": ("{model} away from {backend}", "{reason}"),
    "request.first_byte": ("{model} after {first_byte_s:time}|after {first_byte_s:time}",),
    "request.finished": _ENDED,
    "request.failed": _ENDED,
    "request.cancelled": _ENDED,
    "request.mismatch": ("{model} was asked, {answered} answered",),
    "switch.started": ("load {load}|", "unload {unload: }|", "{reason}|"),
    "switch.drained": ("idle after {drain_s:time}",),
    "switch.unloaded": ("{model} in {unload_s:time}",),
    "switch.loaded": ("{model} in {load_s:time}", "context {context_length}|", "parallel {parallel}|"),
    "switch.failed": ("{model}", "{reason}"),
    "switch.cancelled": (
        "{subject} given up after {spent_s:time}|{subject} given up|given up after {spent_s:time}|given up",
        "{reason}|",
    ),
    "model.appeared": _MODEL,
    "model.vanished": _MODEL,
    "model.activated": _MODEL,
    **dict.fromkeys(("device.drained", "device.resumed"), ("by {by}|",)),
    **dict.fromkeys(
        ("model.loaded", "model.leaving", "model.kept", "model.unloaded"), (*_MODEL, "{reason}|")
    ),
    "config.refused": ("{problems:, }",),
    "access.denied": ("{status} {code} for {path}", "{reason}"),
    "debug.missed": ("{missed:event} lost: the reader was too slow, or too long away",),
}
"""
What is said of each type of event, part by part.

`|` stands between ways to say a part: the first one whose fields are all there is taken.  See `_Words` for
what follows a colon.
"""


def line(event: _Event, *, colour: bool, width: int = 0) -> str:
    """
    Write *event* as local time, type, request or device, client, and what there is to say.

    `request.` is left out of types.  What is longer than *width* columns goes on in the next line, indented;
    0 is any width.
    """
    kind = plain(str(event.get("type", "?")))
    at = event.get("at")
    clock = datetime.fromtimestamp(at).strftime("%H:%M:%S.%f")[:-3] if isinstance(at, (int, float)) else "-"
    whose = str(event.get("id", ""))[-8:] or str(event.get("device", ""))
    client = plain(str(event.get("client", "")))
    where = [f"at {event['dmap']}"] if "dmap" in event else []
    said = plain(", ".join((*_parts(kind, event), *where)))
    shade, name = _COLOURS.get(kind.rpartition(".")[2], _BLUE), f"{kind.removeprefix('request.'):<15}"
    first = f"{clock}  {name}  "
    cells = folded(f"{plain(whose):<8}  {client:<8}  {said}".rstrip(), width, len(first))
    return f"{_in(_DIM, clock, colour)}  {_in(shade, name, colour)}  {cells}"


def _in(shade: str, text: str, colour: bool) -> str:
    return f"\x1b[{shade}m{text}\x1b[0m" if colour else text


def _parts(kind: str, event: _Event) -> list[str]:
    try:
        known = _known(event)
        return [said for part in _SAID[kind] if (said := _said(part, known))]
    except (KeyError, TypeError, ValueError):  # of another version of dmap
        return [f"{name}={value}" for name, value in event.items() if name not in _LATER]


def _known(event: _Event) -> _Event:
    """Return the fields that are worth a word, with two that are made of others."""
    spent_s = sum(event.get(name) or 0.0 for name in ("drain_s", "unload_s", "load_s"))
    fields = {"status": "-", **event, "spent_s": spent_s, "subject": event.get("model") or event.get("load")}
    waits = ("queue_s", "switch_s", "spent_s")
    return {
        name: value
        for name, value in fields.items()
        if value not in (None, "", [], "success") and not (name in waits and value < 0.001)
    }


def _said(part: str, known: _Event) -> str:
    """Say *part* in the first way that the fields suffice for.  Raises `KeyError` if there is none."""
    *ways, last = part.split("|")
    for way in ways:
        with suppress(KeyError):
            return _WORDS.vformat(way, (), known)
    return _WORDS.vformat(last, (), known)


class _Words(string.Formatter):
    """`time` writes seconds; `event` counts events; what follows the colon of a list joins it."""

    def format_field(self, value: Any, format_spec: str) -> str:
        match value, format_spec:
            case _, "time":
                return duration(value)
            case _, "event":
                return count(value, format_spec)
            case list(), _:
                return format_spec.join(value)
        return str(super().format_field(value, format_spec))


_WORDS = _Words()
