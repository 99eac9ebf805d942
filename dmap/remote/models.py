"""`dmap load`, `unload`, `activate`, `drain`, `resume`, `reload`: one order each to a running daemon."""

from collections.abc import Iterator, Mapping
from typing import Any

from dmap.remote.client import DaemonClient, plain
from dmap.remote.words import duration

ORDERS = {
    "load": ("/admin/models/load", "modelKey"),
    "unload": ("/admin/models/unload", "modelKey"),
    "activate": ("/admin/models/activate", "modelKey"),
    "drain": ("/admin/drain", "device"),
    "resume": ("/admin/resume", "device"),
    "reload": ("/admin/reload", ""),
}
"""For each command its path, and what its argument is called there."""


async def order(daemon: DaemonClient, command: str, argument: str) -> str:
    """Give the order and wait until it is carried out; return what to tell.  Raises `Trouble`."""
    path, name = ORDERS[command]
    words: dict[str, Any] = {name: argument} if name else {}
    if command == "load":
        words["activate"] = False  # to have a model ready is not to choose it; `dmap activate` does
    answer = await daemon.post(path, words, total_s=None)
    return "\n".join(plain(line) for line in summary(answer, argument))


def summary(answer: Mapping[str, Any], argument: str) -> Iterator[str]:
    """Yield the lines that sum up an answer: what was done, with what, what was not, what is left."""
    about = [str(answer.get("model", argument))]
    if answer.get("backend"):
        about.append(f"on {answer['backend']}")
    if "took_s" in answer:
        about.append(f"in {duration(answer['took_s'])}")
    yield f"{answer.get('status', 'done')} {' '.join(about)}".rstrip()
    loaded = {name: value for name, value in (answer.get("loaded") or {}).items() if value is not None}
    config = answer.get("load_config") or {}
    for title, fields in (
        ("got", loaded),
        ("applied", config.get("applied")),
        ("defaults", answer.get("default_inference")),
    ):
        if fields:
            yield f"  {title}: " + ", ".join(f"{name} {value}" for name, value in fields.items())
    for option, reason in (config.get("not_applied") or {}).items():
        yield f"  not applied: {option}: {reason}"
    for number, step in enumerate(answer.get("workflow") or (), 1):
        yield f"  {number}. {step}"
