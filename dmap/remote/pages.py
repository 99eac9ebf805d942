"""The daemon's answers for a terminal: how it stands as tables, what an order did as lines.  Pure."""

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from unicodedata import east_asian_width

from dmap.remote.client import Trouble, plain

_Json = Mapping[str, Any]
_FIGURE = re.compile(r"-|\d+|\d\S* .*")
_FILL = "\0"
"""Stands behind a character that takes two columns, so that a length is a width; nothing else has it."""
LEAST_GIB = 0.05
"""Less memory of others is not worth a word."""
LEAST = 10
"""A column of words is cut to this width at the least."""
FOLD_LEAST = 20
"""So many columns are left for what goes on in the next line, however narrow the terminal."""


def report(url: str, status: _Json, width: int = 0) -> str:
    """
    Write what `/debug/status` of the daemon at *url* tells, in *width* columns at most, 0 for any.

    Raises `KeyError` if that is lacking.
    """
    first = f"dmap {status['version']} at {url}, up {duration(status['uptime_s'])}"
    active = f", active model {plain(status['active'])}" if status.get("active") else ""
    lines = [folded(f"{first}, {count(status['open'], 'open request')}{active}", width)]
    for head, rows in (
        (("DEVICE", "RESIDENT", "LEASES", "WAITING", "SINCE", ""), list(_residents(status["devices"]))),
        (("BACKEND", "KIND", "DEVICE", "ANSWERS", "LEASES", "WAITING"), list(_backends(status["backends"]))),
        (("NODE", "DEVICE", "MODEL", "ANSWERS IN", ""), list(_nodes(status["backends"]))),
        (("SERVED", "REQUEST", "CLIENT", "MODEL", "FOR", "BYTES"), list(_served(status))),
        (("QUEUE", "PLACE", "REQUEST", "CLIENT", "MODEL", "WAITED", "ABOUT"), list(_queue(status))),
    ):
        if rows:
            lines += ["", *table(head, [[plain(cell) for cell in row] for row in rows], width)]
    return "\n".join(lines)


def models(listed: _Json, width: int = 0) -> str:
    """Write what `/v1/models` tells, in *width* columns at most.  Raises `KeyError` if that is lacking."""
    rows = [[plain(cell) for cell in _model(each)] for each in listed["data"]]
    return "\n".join(table(("MODEL", "BACKEND", "LOADED", "CONTEXT", ""), rows, width))


def _model(model: _Json) -> list[str]:
    notes = [
        f"alias of {model['alias_of']}" if "alias_of" in model else "",
        f"variant of {model['variant_of']}" if "variant_of" in model else "",
        "active" if model.get("active") else "",
        "embeddings" if model.get("embedding") else "",
    ]
    loaded, context = "yes" if model["resident"] else "-", str(model.get("context_length") or "-")
    return [model["id"], model["owned_by"], loaded, context, ", ".join(filter(None, notes))]


def _residents(devices: Mapping[str, _Json]) -> Iterator[list[str]]:
    for name, device in devices.items():
        first, waiting, drained = name, _depth(device), "drained" if device["drained"] else ""
        if not device["residents"]:
            yield [first, "none", "0", waiting, "-", drained]
        for resident in device["residents"]:
            note = "leaving" if resident["leaving"] else drained
            since = f"{duration(resident['for_s'])} ago"
            yield [first, _place(resident), str(resident["leases"]), waiting, since, note]
            first, waiting = "", "-"
        for server, size in device.get("held", {}).items():
            much = f"holds {size / 2**30:.3g} GiB" if size is not None else "shares it"
            yield ["", server, "-", "-", "-", f"{much}; dmap cannot unload it"]
        if memory := device.get("gpu_memory"):
            used, total, others = (memory.get(kind, 0) / 2**30 for kind in ("used", "total", "others"))
            note = f"{others:.3g} GiB by others" if others >= LEAST_GIB else ""
            yield ["", f"{used:.3g} of {total:.3g} GiB used", "-", "-", "-", note]
        switch = device["switch"]
        if switch is not None:
            model = f"-> {switch['load']}" if switch["load"] else f"-> without {' '.join(switch['unload'])}"
            yield ["", model, "-", "-", f"{duration(switch['for_s'])} ago", f"under way: {switch['phase']}"]


def _backends(backends: Mapping[str, _Json]) -> Iterator[list[str]]:
    for name, backend in backends.items():
        answers = "yes" if backend["answers"] else "NO"
        queue = [str(backend["leases"]), _depth(backend)] if "leases" in backend else ["-", "-"]
        yield [name, backend["kind"], backend["device"] or "-", answers, *queue]


def _nodes(backends: Mapping[str, _Json]) -> Iterator[list[str]]:
    """Write how each node stands: what is resident there, or waited for, and how soon it would answer."""
    for name, backend in backends.items():
        node = backend.get("standing")
        if node is None:
            continue
        first = name
        if trouble := node.get("trouble"):
            yield [name, "-", "-", "-", trouble]
            continue
        for gate, stands in node["gates"].items():
            note = "drained" if stands["drained"] else "asked last" if node.get("doubted") else ""
            for model, line in stands["models"].items():
                about = "resident" if line["resident"] else "waited for"
                yield [first, gate, model, duration(line["wait_s"]), ", ".join(filter(None, (about, note)))]
                first = ""
            yield [first, gate, "any other", f"{duration(stands['cold_s'])} + load", note]
            first = ""


def _place(one: _Json) -> str:
    """Write which model *one* is about, and where that is."""
    return "/".join(filter(None, (one["backend"], one["model"])))


def _depth(place: _Json) -> str:
    return str(len(place["waiting"]) + place["more_waiting"])


def _queue(status: _Json) -> Iterator[list[str]]:
    for name, place in [*status["devices"].items(), *status["backends"].items()]:
        for waiting in place.get("waiting", ()):
            # On a drained device the estimate is the time to the refusal.
            is_known = waiting["estimate_s"] is not None and not place.get("drained")
            times = [duration(waiting["waited_s"]), duration(waiting["estimate_s"]) if is_known else "-"]
            who = [waiting["id"][-8:], waiting["client"], _place(waiting)]
            yield [name, str(waiting["position"] or "-"), *who, *times]
        if more := place.get("more_waiting"):
            yield [name, "-", f"and {more} more", *["-"] * 4]


def _served(status: _Json) -> Iterator[list[str]]:
    for each in status.get("served", ()):
        who = [each["id"][-8:], each["client"], _place(each)]
        yield [each["device"] or each["backend"], *who, duration(each["for_s"]), str(each["bytes"])]
    if more := status.get("more_served"):
        yield [f"and {more} more", *["-"] * 5]


def summary(answer: _Json, argument: str) -> Iterator[str]:
    """
    Yield the lines that sum up an answer: what was done, with what, what was not, what is left.

    Raises `KeyError` if it does not say what was done: then it is none of dmap's.
    """
    about = [str(answer.get("model", argument))]
    if answer.get("backend"):
        about.append(f"on {answer['backend']}")
    if "took_s" in answer:
        about.append(f"in {duration(answer['took_s'])}")
    yield f"{answer['status']} {' '.join(about)}".rstrip()
    if answer.get("message"):
        yield f"  {answer['message']}"
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
    steps = answer.get("workflow") or {}
    for number, step in enumerate(steps.values() if isinstance(steps, Mapping) else steps, 1):
        yield f"  {number}. {step}"


def the_one(queue: _Json, end: str) -> str:
    """
    Return the id of the one open request in `/admin/queue` whose id ends with *end*, else *end* itself.

    The page does not list all of a very long queue.  Raises `Trouble` where several ids end so, or all do.
    """
    if not end:
        raise Trouble("which request? The end of its id will do, as dmap status shows it")
    found = {each["id"] for each in queue["open"] if each["id"].endswith(end)}
    if len(found) > 1 and end not in found:
        raise Trouble(
            f"{count(len(found), 'request')} end in {end!r}: {', '.join(sorted(map(plain, found))[:5])}"
        )
    return end if end in found or not found else found.pop()


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


def table(head: Sequence[str], rows: Sequence[Sequence[str]], width: int = 0) -> list[str]:
    """
    Align *rows* under *head*, two spaces between; columns of figures to the right.

    Where that is wider than *width*, the widest columns of words are cut in the middle; 0 is any width.
    """
    lines = [[stretched(cell) for cell in row] for row in (head, *rows)]
    columns = list(zip(*lines, strict=True))
    to_right = [all(map(_FIGURE.fullmatch, cells)) and set(cells) != {"-"} for _, *cells in columns]
    widths = [max(map(len, column)) for column in columns]
    least = [size if right else min(size, LEAST) for size, right in zip(widths, to_right, strict=True)]
    while width and sum(widths) + 2 * len(widths) - 2 > width and widths != least:
        widest = max((size, at) for at, size in enumerate(widths) if size > least[at])[1]
        widths[widest] -= 1
    return [
        "  ".join(
            shortened(cell, size).rjust(size) if right else shortened(cell, size).ljust(size)
            for cell, size, right in zip(line, widths, to_right, strict=True)
        )
        .rstrip()
        .replace(_FILL, "")
        for line in lines
    ]


def stretched(text: str) -> str:
    """Return *text* as long as it is wide: two for a character that takes two columns (UAX #11)."""
    if text.isascii():
        return text
    return "".join(f"{each}{_FILL}" if east_asian_width(each) in "WF" else each for each in text)


def folded(text: str, width: int, before: int = 0) -> str:
    """Return *text*, after *before* columns of others, in lines of *width* columns; 0 is any width."""
    text = stretched(text)
    if width and before + len(text) > width:
        room = max(width - before, FOLD_LEAST)
        lines = textwrap.wrap(text, room, drop_whitespace=False, break_on_hyphens=False)
        text = f"\n{' ' * before}".join(each.rstrip() for each in lines)
    return text.replace(_FILL, "")


def shortened(text: str, width: int) -> str:
    """
    Return *text* in *width* columns, with its middle left out if need be: names differ at their ends.

    Both are `stretched`; of a wide character that is cut in two a space is left.
    """
    if len(text) <= width:
        return text
    left = width // 2
    begin, end = text[: width - left - 1], text[len(text) - left :]
    if text[len(begin)] == _FILL:
        begin = f"{begin[:-1]} "
    if end.startswith(_FILL):
        end = f" {end[1:]}"
    return f"{begin}…{end}"
