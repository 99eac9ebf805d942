"""
Read a JSON request body: one reading for everything that dmap decides by it.

A body has *structural* objects: the outermost one, messages, content parts and tools.  Servers act on the
members of these, so dmap reads them as every server does, or refuses them: each name occurs once, and a name
that means something is spelled in one way only.  What stands anywhere else, such as in the JSON schema of a
tool or in the arguments of a call, is not looked at.

Values stay undecoded (`msgspec.Raw`) until somebody needs them.  `limits.py` bounds a body before it is read;
`fitting.py` changes it.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from dmap.errors import BadRequest
from dmap.wire.limits import check_limits
from dmap.wire.objects import SHALLOW, SHORT_BYTES, Object, object_in, objects_in, pairs_in
from dmap.wire.parameters import WORDS, plain, plain_words

_FETCHES = "makes the server fetch a URL; send the bytes as a data: URL"
_REACHES = "lets the server call other hosts and tools"
_GUARDED = {
    "draft_model": ("draft_model", "makes LM Studio load a second model"),
    "context_length": ("context_length", "makes LM Studio reload the model"),
    "integrations": ("integrations", _REACHES),
    "mcp_servers": ("integrations", _REACHES),
    "keep_alive": ("keep_alive", "makes Ollama unload or pin the model"),
    "options": ("options", "makes Ollama reload the model"),
}
"""Members that move memory or reach out of the box, with the permit each takes and the reason."""

_RELOADING = frozenset(map(plain, ("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread")))
"""Those of Ollama's `options` for which its scheduler starts the model anew (`Runner` in api/types.go)."""

_OUTER = frozenset(("messages", "input", "system", "query", "documents", "images"))
"""Outermost members that hold messages or content parts, in any of the dialects."""
_INNER = frozenset(("content", "output", "source", "query", "documents"))
"""Members of messages and parts that hold parts; not `input`, the arguments of Anthropic's tools."""
_PLAIN = _INNER | _OUTER | _GUARDED.keys() | {"tools"}
"""What is looked into somewhere, and is no link."""
_MEDIA = frozenset(("image", "video", "audio", "file"))
"""Members of parts that hold bytes, a name, or, on some servers, a URL."""
_URLS = frozenset(("url", "image_url", "video_url", "audio_url", "file_url", "data_url", "server_url"))
_FOUND = frozenset(("web_search_result", "web_fetch_result", "search_result", "url_citation"))
"""Types of parts that say where something was found; nobody fetches their `url`."""
_DEEPEST = 8
"""Parts inside of parts: a document within the result of a tool takes five."""

_KNOWN = (
    frozenset(("model", "stream", "tools", "type", "role", "text", "prompt", "truncation", "instructions"))
    | _GUARDED.keys()
    | _OUTER
    | _INNER
    | _MEDIA
    | _URLS
)
_SPELLING = {plain(name): name for name in _KNOWN}
"""The names that dmap decides by, each under what its spellings have in common."""
_CASES = {word.casefold(): word for word in WORDS}
"""Words of parameters are told apart by letter case only: `maxTokens` and `max_tokens` are both known."""
_REMEMBERED = 1024
"""Characters of an object's names, together, up to which it is remembered what they are."""

_REMOTE = frozenset(("server_url", "connector_id"))
"""Members of tools that a server shall call on another host: `mcp` of the Responses API."""
_is_spaced = re.compile(rb"\s*\{(?:\s|[^:]*:\s)").match
_is_data = re.compile(rb'"\s{0,64}data:', re.IGNORECASE).match
_is_nothing = re.compile(rb'null|""|\[\s{0,64}\]|\{\s{0,64}\}').fullmatch
_is_absolute = re.compile(r"\s*(?:[a-z][a-z0-9+.-]*:)?//|\s*file:", re.IGNORECASE).match
_is_base64 = re.compile(rb'"(?!//)[\w+/=-]{64}').match
_LONGEST_NAME = 1024
_LONGEST_LINK = 64 * 1024
"""Bytes of a link that is decoded; a longer one has to begin plainly with `data:`, or be base64."""
_BRACE, _QUOTE = b'{"'


_model = msgspec.json.Decoder(str | None).decode
_stream = msgspec.json.Decoder(bool | None).decode
_text = msgspec.json.Decoder(str).decode


class Need(NamedTuple):
    """
    Something that a request may only ask for with a permit.

    *member* is the outermost member that asks for it, *field* what the client is told of, *reason* why.
    """

    permit: str
    member: str
    field: str
    reason: str


@dataclass(frozen=True, slots=True)
class Call:
    """
    What a body asks for: *model* is None when it names none.

    *fields* are its outermost members, undecoded (`msgspec.Raw`) but for those that dmap put there.  *needs*
    are what it must be permitted.
    """

    model: str | None
    stream: bool
    fields: Mapping[str, Any]
    needs: tuple[Need, ...] = ()

    def written(self) -> bytes:
        """Return it as a body; what was not decoded stands as its client wrote it."""
        return msgspec.json.encode(self.fields)


def peek(body: bytes) -> Call:
    """
    Read *body*, refusing what a server might read otherwise.

    Raises `BadRequest` naming the field.
    """
    try:
        if len(body) < SHORT_BYTES:
            body.decode()
        else:
            check_limits(body)
        is_loose = len(body) < SHORT_BYTES and _is_spaced(body)
        fields = object_in(msgspec.Raw(msgspec.json.format(body, indent=-1) if is_loose else body))
        model, stream = (
            _own(fields, "model", _model, "a string"),
            _own(fields, "stream", _stream, "true or false"),
        )
        needs = tuple(_needs(fields))
    except msgspec.ValidationError as exc:
        raise BadRequest("the body must be a JSON object") from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise BadRequest(f"the body is not JSON: {exc}") from exc
    if model == "":
        raise BadRequest("'model' is empty: name a model", param="model")
    return Call(model=model, stream=bool(stream), fields=fields, needs=needs)


def check_permits(call: Call, permitted: Collection[str], strip: frozenset[str]) -> None:
    """Refuse what *call* needs and is not *permitted*, unless it is in a member that *strip* takes out."""
    for need in call.needs:
        if need.permit not in permitted and plain(need.member) not in plain_words(strip):
            reason = f"{need.field!r} is not permitted for this model: it {need.reason}"
            raise BadRequest(reason, param=need.field)


def _known(objects: Sequence[Object]) -> frozenset[str]:
    """Return those names in *objects* that dmap looks into; refuse names that are spelled otherwise."""
    names: frozenset[str] = frozenset().union(*objects)
    try:
        return _examined(names) if len("".join(names)) < _REMEMBERED else _examined.__wrapped__(names)
    except BadRequest:
        if len(objects) < 2:
            raise
    return frozenset().union(*(_known((each,)) for each in objects))


@lru_cache(maxsize=1024)
def _examined(names: frozenset[str]) -> frozenset[str]:
    """
    Return those of the *names* of an object to look into.

    Refuses spellings of what dmap knows but its own, and two names in two letter cases.  Cases are folded
    further than Go's decoder does (`foldName` in encoding/json), to which U+017F is an s and U+212A a k.
    """
    for name in names:
        if len(name) > _LONGEST_NAME:
            raise BadRequest(f"a field has a name of over {_LONGEST_NAME} characters", param=name[:64])
        known = _SPELLING.get(plain(name)) or _CASES.get(name.casefold(), name)
        if name != known and name not in WORDS:
            raise BadRequest(f"spell the field {known!r} in this way, and only once", param=known)
    folded = Counter(map(str.casefold, names))
    doubles = [name[:64] for name, count in folded.items() if count > 1]
    if doubles:
        raise BadRequest(f"the field {doubles[0]!r} occurs more than once", param=doubles[0])
    looked = _OUTER | _INNER | _GUARDED.keys() | _MEDIA | {"tools"}
    return frozenset(name for name in names if name in looked or plain(name).endswith("url"))


def _own(fields: Mapping[str, msgspec.Raw], name: str, decode: Any, kind: str) -> Any:
    """Decode one of the members that dmap acts on; None when it is absent or null."""
    try:
        return decode(fields[name]) if name in fields else None
    except msgspec.DecodeError as exc:
        raise BadRequest(f"{name!r} must be {kind}", param=name) from exc


def _needs(fields: Object) -> Iterator[Need]:
    for name in _known((fields,)):
        if name in _GUARDED:
            if _asks(name, fields[name]):
                permit, reason = _GUARDED[name]
                yield Need(permit, name, name, reason)
        elif name == "tools":
            tools = objects_in(fields[name], (SHALLOW,))
            if not _REMOTE.isdisjoint(_known(tools)):
                yield Need("integrations", name, "integrations", _REACHES)
        elif name in _OUTER:
            if _fetches(name, fields[name]):
                yield Need("image_url", name, "image_url", _FETCHES)
        elif name not in _INNER and _points(name, fields):
            yield Need("image_url", name, "image_url", _FETCHES)


def _asks(name: str, raw: msgspec.Raw) -> bool:
    """Tell whether the guarded member *name* asks for what it is guarded for; a `keep_alive` of 0 does."""
    if name == "options" and memoryview(raw)[0] == _BRACE:
        return any(plain(option) in _RELOADING for option in pairs_in(raw))
    return _is_nothing(raw) is None


def _parts(value: Any) -> list[Object]:
    """Return the objects that *value* is or holds, which may have been decoded, wholly or in part."""
    if isinstance(value, msgspec.Raw):
        return objects_in(value)
    if isinstance(value, dict):
        return [value]
    if not isinstance(value, list):
        return []
    return [part for each in value for part in ([each] if isinstance(each, dict) else _parts(each))]


def _fetches(holder: str, value: Any, depth: int = 1) -> bool:
    """Tell whether any content part in *value* names a URL that is not `data:`."""
    if depth > _DEEPEST:
        raise BadRequest(f"{holder!r} is nested over {_DEEPEST} deep", param=holder)
    parts = _parts(value)
    for name in _known(parts) if parts else ():
        for part in parts:
            inner = part.get(name)
            if inner is None or (name in _INNER and isinstance(inner, str)):
                continue
            if name in _INNER and _fetches(name, inner, depth + 1):
                return True
            if name not in _PLAIN and _points(name, part, depth):
                return True
    return False


def _points(name: str, part: Object, depth: int = 1) -> bool:
    """Tell whether the member *name* is, or holds, a link that is not `data:`."""
    value = part[name]
    if isinstance(value, msgspec.Raw) and memoryview(value)[0] == _QUOTE:
        if _is_data(value):
            return False
        if len(memoryview(value)) > _LONGEST_LINK:
            return name not in _MEDIA or _is_base64(value) is None
        value = _text(value)
    if not isinstance(value, str):
        return _fetches(name, value, depth + 1)
    if name in _MEDIA:
        return _is_absolute(value) is not None
    return not value.lstrip().lower().startswith("data:") and not (
        name == "url" and _text_of(part.get("type")) in _FOUND
    )


def _text_of(value: Any) -> str:
    """Return the text of a member; none of what is no text, or too long for a name or a link."""
    if isinstance(value, msgspec.Raw):
        view = memoryview(value)
        return _text(value) if view[0] == _QUOTE and len(view) <= _LONGEST_LINK else ""
    return value if isinstance(value, str) else ""
