"""
What a request may only ask for with a permit: one table of names, for JSON and for forms.

Some names move memory, some reach out of the box.  A name that ends in `url` has to hold a `data:` URL, and
one of an image, a sound or a file bytes in base64 or such a URL: whatever else stands there, some server may
take for a link, or for a path of its own.
"""

import re
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from dmap.errors import BadRequest
from dmap.wire.parameters import PARAMETERS, plain
from dmap.wire.values import LONGEST_NAME, Object, beginning, opened

_FETCHES = ("image_url", "makes the server fetch a URL; send the bytes as a data: URL")
_REACHES = ("integrations", "lets the server call other hosts and tools")
_FALLBACKS = ("models", "fallbacks", "context_window_fallbacks", "content_policy_fallbacks")
"""OpenRouter's word and LiteLLM's for the models that may answer instead."""
_GUARDED = {
    "draft_model": ("draft_model", "makes LM Studio load a second model"),
    "context_length": ("context_length", "makes LM Studio reload the model"),
    **dict.fromkeys(("integrations", "mcp_servers"), _REACHES),
    "keep_alive": ("keep_alive", "makes Ollama unload or pin the model"),
    "options": ("options", "makes Ollama reload the model"),
    **dict.fromkeys(_FALLBACKS, ("fallbacks", "lets another model answer, which nobody checked")),
    "background": ("background", "makes the server go on when dmap takes it for done"),
}
"""Outermost members, with the permit that each takes and the reason."""
_IN_FRONT = (False, "transparent", "opaque", "auto")
"""Values of `background` that ask for nothing of the kind: on routes for images it is that of an image."""

_RELOADING = frozenset(map(plain, ("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread")))
"""Those of Ollama's `options` for which its scheduler starts the model anew (`Runner` in api/types.go)."""

_INNER = frozenset(("content", "output", "source", "query", "documents"))
"""Members of messages and parts that hold parts; not `input`, the arguments of Anthropic's tools."""
_OUTER = _INNER | {"messages", "input", "system", "tools"}
"""Outermost members that hold messages, content parts or tools, in any of the dialects."""
_MEDIA = frozenset(("image", "images", "video", "videos", "audio", "file", "files", "mask"))
"""Last words of the names of members that hold bytes, or, on some servers, a URL or a path."""
_URLS = ("url", "image_url", "video_url", "audio_url", "file_url", "data_url", "server_url", "connector_id")
"""Names of links; so is any other that ends in `url` or `urls`.  A connector is one of OpenAI's own tools."""
_FOUND = ("web_search_result", "web_fetch_result", "search_result", "url_citation")
"""Types of parts that say where something was found; nobody fetches their `url`."""
_DEEPEST = 8
"""Parts inside of parts: a document within the result of a tool takes five."""

_LOOKED = _OUTER | _GUARDED.keys()
"""Names to look into that are neither links nor media."""
_OTHERS = ("model", "stream", "type", "role", "text", "prompt", "truncation", "instructions")
_SPELLING = {plain(name): name for name in (*_LOOKED, *_MEDIA, *_URLS, *_OTHERS)}
"""The names that dmap decides by, each under what its spellings have in common."""
_CASES = {word.casefold(): word for word in PARAMETERS}
"""Words of parameters are told apart by letter case only: `maxTokens` and `max_tokens` are both known."""
_REMEMBERED = 32
"""Names of an object, up to which it is remembered what they are."""

_PATH_CHARACTERS = 4096
"""Of a long value only so many are looked at: no path is longer (PATH_MAX), and no scheme of a URL."""
_is_base64 = re.compile(r"(?!//)[A-Za-z0-9+/=_\s-]*").fullmatch


class Need(NamedTuple):
    """
    Something that a request may only ask for with a permit.

    *member* is the outermost member that asks for it, *field* what the client is told of, *reason* why.
    """

    permit: str
    member: str
    field: str
    reason: str


def needs_of(fields: Object) -> list[Need]:
    """
    Return what a JSON body with the outermost members *fields* needs.

    On the way it opens the messages, parts and tools in place.  Raises `BadRequest` for a name in them that
    is spelled in another way than dmap does, or stands there in two letter cases.
    """
    needs = []
    for name in examined(frozenset(fields)):
        if name in _GUARDED:
            if asks(name, fields[name]):
                needs.append(Need(_GUARDED[name][0], name, name, _GUARDED[name][1]))
        elif _reaches(fields, name):
            permit, reason = _REACHES if name == "tools" else _FETCHES
            needs.append(Need(permit, name, permit, reason))
    return needs


@lru_cache(maxsize=128)
def _examined(names: frozenset[str]) -> tuple[str, ...]:
    """
    Return those of the *names* of an object to look into.

    Refuses spellings of what dmap knows but its own, and two names in two letter cases.  Cases are folded
    further than Go's decoder does (`foldName` in encoding/json), to which U+017F is an s and U+212A a k.
    """
    folded: set[str] = set()
    for name in names:
        if len(name) > LONGEST_NAME:
            raise BadRequest(f"a field has a name of over {LONGEST_NAME} characters", param=name[:64])
        fold = name.casefold()
        known = _SPELLING.get(plain(name)) or _CASES.get(fold, name)
        if name != known and name not in PARAMETERS:
            raise BadRequest(f"spell the field {known!r} in this way, and only once", param=known)
        if fold in folded:
            raise BadRequest(f"the field {fold[:64]!r} occurs more than once", param=fold[:64])
        folded.add(fold)
    return tuple(name for name in names if name in _LOOKED or is_media(name) or _is_link(name))


def examined(names: frozenset[str]) -> tuple[str, ...]:
    """Do the same as `_examined`, which remembers the answer unless there are many *names*."""
    return _examined(names) if len(names) <= _REMEMBERED else _examined.__wrapped__(names)


def is_media(name: str) -> bool:
    """Tell whether a member called *name* holds bytes, or, on some servers, a URL or a path."""
    return name.rpartition("_")[2].lower() in _MEDIA


def _is_link(name: str) -> bool:
    return name in _URLS or plain(name).endswith(("url", "urls"))


def asks(name: str, value: Any) -> bool:
    """Tell whether the guarded member *name* asks for what it is guarded for; a `keep_alive` of 0 does."""
    value = opened(value)
    if name == "options" and isinstance(value, dict):
        return any(plain(option) in _RELOADING for option in value)
    return value not in (None, "", [], {}) and not (name == "background" and value in _IN_FRONT)


def _reaches(holder: Object, name: str, depth: int = 1) -> bool:
    """
    Tell whether the member *name* of *holder* is or holds a link to another host, or to a file.

    It looks at all that the member holds, also behind the first link.
    """
    if depth > _DEEPEST:
        raise BadRequest(f"{name!r} is nested over {_DEEPEST} deep", param=name)
    value = holder[name]
    if isinstance(value, msgspec.Raw):
        if name in _OUTER and b"{" not in bytes(value):
            return False
        value = holder[name] = opened(value)
    found = False
    for item in _items(value) if isinstance(value, list) else (value,):
        if type(item) is dict:
            for inner in examined(frozenset(item)):
                if inner not in _LOOKED or (inner in _INNER and type(item[inner]) is not str):
                    found |= _reaches(item, inner, depth + 1)
        elif name not in _OUTER:
            found |= _leads_out(name, item, holder)
    return found


def _items(value: list[Any]) -> list[Any]:
    """Return what *value* holds, opened in place, with lists inside of it laid out."""
    kinds = {*map(type, value)}
    if msgspec.Raw in kinds:
        value[:] = map(opened, value)
        kinds = {*map(type, value)}
    if list not in kinds:
        return value
    return [inner for item in value for inner in (_items(item) if isinstance(item, list) else (item,))]


def _leads_out(name: str, value: Any, holder: Object) -> bool:
    """Tell whether a server may take the text *value*, a member *name* of *holder*, for a link or a path."""
    if not isinstance(value, str | msgspec.Raw):
        return False
    text = beginning(value, _PATH_CHARACTERS).lstrip()
    if text[:5].lower() == "data:" or (name == "url" and holder.get("type") in _FOUND):
        return False
    return not is_media(name) or _is_base64(text) is None
