"""
What a client is shown of a model: OpenAI's form of it, and the two of LM Studio.

A model of LM Studio is shown in that server's own words; only whether it is loaded is said as dmap knows it.
Of any other, what is known stands in the same fields, and the rest is null where LM Studio's documentation
has null, else 0 or `unknown` (2_rest/list.md and 2_rest/endpoints.mdx).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from dmap.catalog.names import Entry
from dmap.models import ModelKey, Route

RECORD_BYTES = 16 * 2**10
"""Of what a server has on one model that is passed on; the entries seen have about 1 KiB."""

_UNKNOWN = "unknown"

_Part = TypeVar("_Part", list[Any], dict[str, Any])


@dataclass(frozen=True, slots=True)
class Shown:
    """
    A model under one of its names.

    *own* are those names its server has for it that mean it here, too: of its variants and instances only
    these are shown, for another might be a model that this client may not use.  *variant_of* is the model
    whose variant it is, if the client may know.  Of its copies *residents* are loaded.
    """

    name: str
    entry: Entry
    route: Route
    residents: frozenset[ModelKey]
    active: bool
    own: frozenset[str]
    variant_of: str | None = None

    @property
    def resident(self) -> bool:
        """Whether any copy of it is loaded."""
        return bool(self.residents)

    @property
    def is_alias(self) -> bool:
        """Whether *name* is one that the file gives it beside its own."""
        return self.name != self.entry.name and self.name in self.entry.names

    @property
    def context_length(self) -> int | None:
        """What a resident was loaded with, as far as anybody knows."""
        return self.entry.info.context_length or self.route.context_length


def as_openai(shown: Shown) -> dict[str, Any]:
    """Describe a model as OpenAI does; beyond its four members: where it is, what it takes, what it means."""
    info = shown.entry.info
    listed: dict[str, Any] = {
        "id": shown.name,
        "object": "model",
        "created": 0,
        "owned_by": shown.entry.key.backend,
        "resident": shown.resident,
        "context_length": info.context_length,
        "embedding": info.embedding,
    }
    if info.vision is not None:
        listed["vision"] = info.vision
    if shown.is_alias:
        listed["alias_of"] = shown.entry.name
    if shown.variant_of is not None:
        listed["variant_of"] = shown.variant_of
    if shown.active:
        listed["active"] = True
    return listed


def v0(shown: Shown) -> dict[str, Any]:
    """Describe a model as LM Studio's older list does."""
    listed = {
        **(_passable(shown.entry.info.v0) or _of_v1(v1(shown))),
        "id": shown.name,
        "state": "loaded" if shown.resident else "not-loaded",
    }
    listed.pop("loaded_context_length", None)
    if shown.resident and shown.context_length:
        listed["loaded_context_length"] = shown.context_length
    return listed


def v1(shown: Shown) -> dict[str, Any]:
    """Describe a model as LM Studio's native list does."""
    info = shown.entry.info
    listed = {
        "type": "embedding" if info.embedding else "llm",
        "publisher": shown.entry.key.backend,
        "display_name": info.id,
        "quantization": None,
        "size_bytes": info.size_bytes or 0,
        "params_string": None,
        "max_context_length": shown.context_length or 0,
        "format": None,
        **_passable(info.v1),
        "key": shown.name,
    }
    if shown.entry.of is not None:  # or both would be called the same
        listed["display_name"] = shown.name
    listed["loaded_instances"] = _instances(shown, listed) if shown.resident else []
    if "variants" in listed:
        listed["variants"] = [name for name in _part(listed, "variants", list) if _is_own(shown, name)]
    if not _is_own(shown, listed.get("selected_variant")):
        listed.pop("selected_variant", None)
    return listed


def _passable(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return *record* if it is plain JSON of at most `RECORD_BYTES`; else nothing of it."""
    try:
        size = len(json.dumps(record, allow_nan=False))
    except (ValueError, RecursionError):
        return {}
    return record if size <= RECORD_BYTES else {}


def _instances(shown: Shown, listed: Mapping[str, Any]) -> list[Any]:
    """Return the copies in memory with their settings; the arbiter may know of one before the list does."""
    known = [
        one
        for one in _part(listed, "loaded_instances", list)
        if isinstance(one, dict) and _is_own(shown, one.get("id"))
    ]
    context = shown.context_length or listed["max_context_length"]
    return known or [{"id": shown.name, "config": {"context_length": context}}]


def _of_v1(native: Mapping[str, Any]) -> dict[str, Any]:
    embedding, sees = native["type"] == "embedding", _part(native, "capabilities", dict).get("vision")
    return {
        "object": "model",
        "type": "embeddings" if embedding else "vlm" if sees else "llm",
        "publisher": native["publisher"],
        "arch": native.get("architecture") or _UNKNOWN,
        "compatibility_type": native["format"] or _UNKNOWN,
        "quantization": _part(native, "quantization", dict).get("name") or _UNKNOWN,
        "max_context_length": native["max_context_length"],
    }


def _is_own(shown: Shown, name: Any) -> bool:
    return isinstance(name, str) and name in shown.own


def _part(record: Mapping[str, Any], name: str, kind: type[_Part]) -> _Part:
    """Return what *record* has as *name*, or an empty one if that is not of this *kind*."""
    value = record.get(name)
    return value if isinstance(value, kind) else kind()
