"""
Look into a JSON request body.

`peek` is a decode, not a scan: whatever a backend's parser would read as `model` is what dmap read, for
doubles and other letter cases are refused.  What is changed in a body is the business of `fitting`.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from dmap.errors import BadRequest

_OWN = {"model": msgspec.json.Decoder(str | None), "stream": msgspec.json.Decoder(bool | None)}
"""The members that dmap acts on, each with what it may be."""
_GUARDED = {
    "draft_model": "makes LM Studio load a second model",
    "context_length": "makes LM Studio reload the model",
    "integrations": "lets the server call other hosts and tools",
    "keep_alive": "makes Ollama unload or pin the model",
    "options": "makes Ollama reload the model",
}
"""Fields that move memory or reach out of the box, each with the reason told to the client."""

_RELOADING = frozenset(("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread"))
"""Those of Ollama's `options` for which its scheduler starts the model anew (`Runner` in api/types.go)."""

_ASCII_ESCAPE = re.compile(rb"\\u00[2-7]")
_TURNS = ("messages", "input", "system", "content", "output", "images", "query", "documents")
"""Members that hold lists of messages or of content parts, in any of the dialects."""

_SINGLE = ("content", "output", "source", "query", "documents")
"""Members that may hold one of these instead; not `input`, which holds the arguments of Anthropic's tools."""

_raw_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_anything = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class Call:
    """
    What a body asks for: *model* is None when it names none.

    *fields* are its outermost members, undecoded (`msgspec.Raw`) but for those that dmap put there.
    """

    model: str | None
    stream: bool
    fields: Mapping[str, Any]

    def written(self) -> bytes:
        """Return it as a body; what was not decoded stands as its client wrote it."""
        return msgspec.json.encode(self.fields)


def peek(body: bytes) -> Call:
    """
    Read the members that dmap acts on, refusing what a backend might read otherwise.

    Raises `BadRequest` naming the field.
    """
    fields = _members(body)
    folded = [key.casefold() for key in fields]
    for name in _OWN:
        _refuse_doubles(name, fields, folded, body)
    model, stream = _value(fields, "model"), _value(fields, "stream")
    if model == "":
        raise BadRequest("'model' is empty: name a model", param="model")
    return Call(model=model, stream=bool(stream), fields=fields)


def guarded(call: Call, body: bytes) -> Iterator[tuple[str, str]]:
    """Yield each field of *call* that needs a permit, with the reason; a model may be allowed it."""
    for name in call.fields:
        reason = _GUARDED.get(name.casefold())
        if reason and _asks(name, call.fields[name]):
            yield name.casefold(), reason
    if _mentions_urls(body):
        whole = _whole(body)
        if _has_remote_tools(whole):
            yield "integrations", _GUARDED["integrations"]
        if _fetches(whole):
            yield "image_url", "makes the server fetch a URL; send the bytes as a data: URL"


def _members(body: bytes) -> dict[str, msgspec.Raw]:
    try:
        return _raw_fields(body)
    except msgspec.ValidationError as exc:
        raise BadRequest("the body must be a JSON object") from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise BadRequest(f"the body is not JSON: {exc}") from exc


def _refuse_doubles(name: str, fields: Mapping[str, msgspec.Raw], folded: list[str], body: bytes) -> None:
    """
    Refuse a second *name* in any letter case; the decode above kept only the last of equal ones.

    Cases are folded as far as Go's decoder does it (`foldName` in encoding/json), to which U+017F is an s.
    """
    if folded.count(name) > (name in fields):
        raise BadRequest(f"spell the field {name!r} in lower case, and only once", param=name)
    quoted = b'"%b"' % name.encode()
    if (body.count(quoted) > 1 or _escapes_ascii(body)) and _top_level(body).count(name) > 1:
        raise BadRequest(f"the field {name!r} occurs more than once", param=name)


def _top_level(body: bytes) -> list[str]:
    """List the keys of the outermost object as they stand, doubles included."""
    keys: list[str] = []

    def note(pairs: list[tuple[str, Any]]) -> None:
        keys[:] = [key for key, _ in pairs]  # called innermost first, so the outermost stays

    try:
        json.loads(body, object_pairs_hook=note)
    except (ValueError, RecursionError) as exc:
        raise BadRequest(f"the body is not JSON: {exc}") from exc
    return keys


def _value(fields: Mapping[str, msgspec.Raw], name: str) -> Any:
    """Decode one member; None when it is absent or null."""
    try:
        return _OWN[name].decode(fields[name]) if name in fields else None
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        kind = "a string" if name == "model" else "true or false"
        raise BadRequest(f"{name!r} must be {kind}", param=name) from exc


def _asks(name: str, raw: msgspec.Raw) -> bool:
    """Tell whether the guarded member *name* asks for what it is guarded for; a `keep_alive` of 0 does."""
    value = msgspec.json.decode(raw)
    if name.casefold() == "options" and isinstance(value, dict):
        return bool(_RELOADING & value.keys())
    return isinstance(value, int) or bool(value)


def _escapes_ascii(body: bytes) -> bool:
    """Few JSON writers escape printable ASCII, and those not letters; who does may be hiding a key's name."""
    return b"\\u00" in body and _ASCII_ESCAPE.search(body) is not None


def _mentions_urls(body: bytes) -> bool:
    return b"_url" in body or b'"url"' in body or _escapes_ascii(body)


def _whole(body: bytes) -> dict[str, Any]:
    try:
        whole: dict[str, Any] = _anything(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise BadRequest(f"the body is not JSON: {exc}") from exc
    return whole


def _has_remote_tools(whole: dict[str, Any]) -> bool:
    """Tell whether the server shall call tools on another host: `mcp` of the Responses API."""
    tools = whole.get("tools")
    return isinstance(tools, list) and any(isinstance(tool, dict) and "server_url" in tool for tool in tools)


def _fetches(whole: dict[str, Any]) -> bool:
    """Tell whether any content part names a URL that is not `data:`."""
    return any(_outward(link) for part in _parts(whole) for link in _links(part))


def _parts(whole: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield *whole* and every object in the turns and parts inside it."""
    items = [whole]
    while items:
        item = items.pop()
        yield item
        for name, inner in item.items():
            if isinstance(inner, list) and name in _TURNS:
                items += (each for each in inner if isinstance(each, dict))
            elif isinstance(inner, dict) and name in _SINGLE:
                items.append(inner)


def _links(part: dict[str, Any]) -> Iterator[Any]:
    """Yield what an OpenAI (`*_url`) or an Anthropic (`source`) content part points to."""
    for name, value in part.items():
        if name.endswith("_url") or (name == "source" and isinstance(value, dict) and "url" in value):
            yield value.get("url") if isinstance(value, dict) else value


def _outward(link: Any) -> bool:
    return isinstance(link, str) and not link.lstrip().lower().startswith("data:")
