"""A dashboard held against Grafana's own types, where no Grafana is at hand: `grafana-foundation-sdk`."""

import enum
import json
import typing
from collections.abc import Iterator
from types import UnionType
from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard


def wrong(board: dict[str, Any]) -> list[str]:
    """Return what of *board* Grafana does not know, and what has another type or value than it takes."""
    register_default_plugins()
    read = Dashboard.from_json(board)
    kept = json.loads(JSONEncoder().encode(read))
    return [*_lost(board, kept, "board"), *_mistyped(read, Dashboard, "board")]


def _lost(given: Any, kept: Any, at: str) -> Iterator[str]:
    match given, kept:
        case dict(), dict():
            for name, value in given.items():
                yield from _lost(value, kept.get(name), f"{at}.{name}")
        case list(), list() if len(given) == len(kept):
            for number, (value, other) in enumerate(zip(given, kept, strict=True)):
                yield from _lost(value, other, f"{at}[{number}]")
        case _ if given != kept:
            yield f"{at}: {given!r} is not known there"


def _mistyped(value: Any, hint: Any, at: str) -> Iterator[str]:
    match typing.get_origin(hint), typing.get_args(hint):
        case origin, inner if origin in (typing.Union, UnionType):
            found = [list(_mistyped(value, each, at)) for each in inner]
            return (yield from max(found, key=len) if all(found) else ())
        case origin, inner if origin is typing.Literal:
            is_right = value in inner
        case (_, [inner]) if isinstance(value, list):
            return (yield from _all(((f"[{number}]", each, inner) for number, each in enumerate(value)), at))
        case (_, [_, inner]) if isinstance(value, dict):
            return (yield from _all(((f".{name}", each, inner) for name, each in value.items()), at))
        case None, _ if hint is not Any and hasattr(value, "__dict__") and isinstance(value, hint):
            hints = typing.get_type_hints(type(value))
            members = ((f".{name}", getattr(value, name), each) for name, each in hints.items())
            return (yield from _all(members, at))
        case _:
            is_right = _is_plain(value, hint)
    if not is_right:
        yield f"{at}: {value!r} is no {hint}"


def _all(members: typing.Iterable[tuple[str, Any, Any]], at: str) -> Iterator[str]:
    for name, value, hint in members:
        yield from _mistyped(value, hint, at + name)


def _is_plain(value: Any, hint: Any) -> bool:
    if hint in (object, Any):
        return True
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return value in [member.value for member in hint]
    hint = typing.get_origin(hint) or hint
    return isinstance(value, int | float if hint is float else hint) and (hint is bool) == (
        isinstance(value, bool)
    )
