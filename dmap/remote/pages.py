"""The daemon's answers for a terminal: how it stands as tables, what an order did as lines.  Pure."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dmap.remote.client import plain

_Json = Mapping[str, Any]
_FIGURE = re.compile(r"-|\d+|\d\S* .*")


def report(url: str, status: _Json) -> str:
    """Write what `/debug/status` of the daemon at *url* tells.  Raises `KeyError` if that is lacking."""
    first = f"dmap {status['version']} at {url}, up {duration(status['uptime_s'])}"
    active = f", active model {plain(status['active'])}" if status.get("active") else ""
    lines = [f"{first}, {count(status['open'], 'open request')}{active}"]
    for head, rows in (
        (("DEVICE", "RESIDENT", "LEASES", "WAITING", "SINCE", ""), list(_residents(status["devices"]))),
        (("BACKEND", "KIND", "DEVICE", "ANSWERS", "LEASES", "WAITING"), list(_backends(status["backends"]))),
        (("QUEUE", "PLACE", "REQUEST", "CLIENT", "MODEL", "WAITED", "ABOUT"), list(_queue(status))),
    ):
        if rows:
            lines += ["", *table(head, [[plain(cell) for cell in row] for row in rows])]
    return "\n".join(lines)


def _residents(devices: Mapping[str, _Json]) -> Iterator[list[str]]:
    for name, device in devices.items():
        first, waiting, drained = name, _depth(device), "drained" if device["drained"] else ""
        if not device["residents"]:
            yield [first, "none", "0", waiting, "-", drained]
        for resident in device["residents"]:
            note = "leaving" if resident["leaving"] else drained
            since = f"{duration(resident['for_s'])} ago"
            yield [first, resident["model"], str(resident["leases"]), waiting, since, note]
            first, waiting = "", "-"
        for server, size in device.get("held", {}).items():
            much = f"holds {size / 2**30:.3g} GiB" if size is not None else "shares it"
            yield ["", server, "-", "-", "-", f"{much}; dmap cannot unload it"]
        switch = device["switch"]
        if switch is not None:
            model = f"-> {switch['load']}" if switch["load"] else f"-> without {' '.join(switch['unload'])}"
            yield ["", model, "-", "-", f"{duration(switch['for_s'])} ago", f"under way: {switch['phase']}"]


def _backends(backends: Mapping[str, _Json]) -> Iterator[list[str]]:
    for name, backend in backends.items():
        answers = "yes" if backend["answers"] else "NO"
        queue = [str(backend["leases"]), _depth(backend)] if "leases" in backend else ["-", "-"]
        yield [name, backend["kind"], backend["device"] or "-", answers, *queue]


def _depth(place: _Json) -> str:
    return str(len(place["waiting"]) + place["more_waiting"])


def _queue(status: _Json) -> Iterator[list[str]]:
    for name, place in [*status["devices"].items(), *status["backends"].items()]:
        for waiting in place.get("waiting", ()):
            # On a drained device the estimate is the time to the refusal.
            about = "-" if place.get("drained") else duration(waiting["estimate_s"])
            times = [duration(waiting["waited_s"]), about]
            who = [waiting["id"][-8:], waiting["client"], waiting["model"]]
            yield [name, str(waiting["position"]), *who, *times]
        if more := place.get("more_waiting"):
            yield [name, "-", f"and {more} more", *["-"] * 4]


def summary(answer: _Json, argument: str) -> Iterator[str]:
    """Yield the lines that sum up an answer: what was done, with what, what was not, what is left."""
    about = [str(answer.get("model", argument))]
    if answer.get("backend"):
        about.append(f"on {answer['backend']}")
    if "took_s" in answer:
        about.append(f"in {duration(answer['took_s'])}")
    yield f"{answer.get('status', 'done')} {' '.join(about)}".rstrip()
    config = answer.get("load_config") or {}
    for title, fields in (
        ("got", answer.get("loaded")),
        ("applied", config.get("applied")),
        ("defaults", answer.get("default_inference")),
    ):
        given = [f"{name} {value}" for name, value in (fields or {}).items() if value is not None]
        if given:
            yield f"  {title}: {', '.join(given)}"
    for option, reason in (config.get("not_applied") or {}).items():
        yield f"  not applied: {option}: {reason}"
    for number, step in enumerate(answer.get("workflow") or (), 1):
        yield f"  {number}. {step}"


def duration(seconds: float) -> str:
    """Write *seconds* in the units that matter: `85 ms`, `3.4 s`, `2 min 5 s`, `3 h 12 min`, `4 d 2 h`."""
    if seconds < 0.9995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def count(number: int, noun: str) -> str:
    """Write *number* with its *noun*, whose plural has an `s`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Align *rows* under *head*, two spaces between; columns of figures to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    columns = list(zip(*rows, strict=True))
    to_right = [all(map(_FIGURE.fullmatch, column)) and set(column) != {"-"} for column in columns]
    return [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, to_right, strict=True)
        ).rstrip()
        for row in (head, *rows)
    ]
