"""`dmap status`: devices, residents, queue and backends of a running daemon, as tables."""

from collections.abc import Iterator, Mapping
from typing import Any

from dmap.remote.client import plain
from dmap.remote.words import count, duration, table

_Json = Mapping[str, Any]


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
        for at, resident in enumerate(device["residents"] or [None]):
            first, waiting = (name, str(len(device["waiting"]))) if at == 0 else ("", "-")
            if resident is None:
                yield [first, "none", "0", waiting, "-", _drained(device)]
            else:
                note = "leaving" if resident["leaving"] else _drained(device)
                counts = [str(resident["leases"]), waiting]
                yield [first, resident["model"], *counts, f"{duration(resident['for_s'])} ago", note]
        if device["switch"] is not None:
            yield ["", *_switch(device["switch"])]


def _drained(device: _Json) -> str:
    return "drained" if device["drained"] else ""


def _switch(switch: _Json) -> list[str]:
    model = f"-> {switch['load']}" if switch["load"] else f"-> without {' '.join(switch['unload'])}"
    return [model, "-", "-", f"{duration(switch['for_s'])} ago", f"under way: {switch['phase']}"]


def _backends(backends: Mapping[str, _Json]) -> Iterator[list[str]]:
    for name, backend in backends.items():
        answers = "yes" if backend["answers"] else "NO"
        queue = [str(backend["leases"]), str(len(backend["waiting"]))] if "leases" in backend else ["-", "-"]
        yield [name, backend["kind"], backend["device"] or "-", answers, *queue]


def _queue(status: _Json) -> Iterator[list[str]]:
    places = {
        **status["devices"],
        **{name: one for name, one in status["backends"].items() if "waiting" in one},
    }
    for name, place in places.items():
        for waiting in place["waiting"]:
            # On a drained device the estimate is the time to the refusal.
            about = "-" if place.get("drained") else duration(waiting["estimate_s"])
            times = [duration(waiting["waited_s"]), about]
            who = [waiting["id"][-8:], waiting["client"], waiting["model"]]
            yield [name, str(waiting["position"]), *who, *times]
