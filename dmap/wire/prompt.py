"""
The prompt of a request: the texts that have to fit into one context, and how to ask a server for their count.

Pure.  Images and tools are not text.  The counterparts are `dmap/tokens.py`, which counts, and
`web/context.py`, which refuses.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec

LOOK = 4 * 2**20
"""Characters of a prompt that are looked at; more could only add to a count that is too high already."""

_MEMBERS: dict[str, tuple[str, ...]] = {
    "/v1/chat/completions": ("messages",),
    "/api/v0/chat/completions": ("messages",),
    "/v1/completions": ("prompt",),
    "/api/v0/completions": ("prompt",),
    "/v1/responses": ("instructions", "input"),
    "/v1/messages": ("system", "messages"),
    "/v1/embeddings": ("input",),
    "/api/v0/embeddings": ("input",),
    "/api/v1/chat": ("system_prompt", "input"),
}
"""Where the text is, by route; the last is the one to blame."""

_BARE = frozenset(("/v1/completions", "/api/v0/completions", "/v1/embeddings", "/api/v0/embeddings"))
"""Routes without a chat template, where a list is of prompts that have a context each."""

_TEXTUAL = (None, "message", "text", "input_text", "output_text", "tool_result", "function_call_output")
_THOUGHT = "</think>"
_NULL = msgspec.Raw(b"null")


class _Body(msgspec.Struct):
    """The members of a body that hold its prompt, or ask for a truncation."""

    messages: msgspec.Raw = _NULL
    prompt: msgspec.Raw = _NULL
    input: msgspec.Raw = _NULL
    instructions: msgspec.Raw = _NULL
    system: msgspec.Raw = _NULL
    system_prompt: msgspec.Raw = _NULL
    truncation: msgspec.Raw = _NULL
    truncate_prompt_tokens: msgspec.Raw = _NULL


@dataclass(frozen=True, slots=True)
class Prompt:
    """
    What has to fit into one context; of several prompts in a request it is the longest.

    *ids* counts tokens that the client gave as numbers.  *param* names the member of the body.  *turns* are
    its messages with nothing but text.
    """

    texts: tuple[str, ...]
    param: str
    ids: int = 0
    turns: tuple[Mapping[str, Any], ...] = ()

    @property
    def size(self) -> int:
        """The bytes of the texts and the number of ids: no tokenizer makes more tokens than that of them."""
        return self.ids + sum(len(text) if text.isascii() else len(text.encode()) for text in self.texts)

    def seen(self) -> list[str]:
        """Return its texts as far as they are looked at."""
        left, seen = LOOK, []
        for text in self.texts:
            seen.append(text[:left])
            left -= len(seen[-1])
        return [text for text in seen if text]


def prompt_of(path: str, body: bytes) -> Prompt | None:
    """
    Read the prompt out of the body of a request for *path*, of a long one the beginning.

    None where a prompt need not fit: another kind of route, a body that is no such request (its server will
    tell), or one that asks to be truncated.
    """
    names = _MEMBERS.get(path)
    if names is None:
        return None
    try:
        whole = _decode(body)
        if bytes(whole.truncation) == b'"auto"' or bytes(whole.truncate_prompt_tokens) != b"null":
            return None
        values = [_opened(getattr(whole, name)) for name in names]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if path in _BARE:
        return _longest(values[-1], names[-1])
    return Prompt(tuple(_texts(values)), names[-1], turns=_turns(values[-1]) if "messages" in names else ())


def _opened(raw: msgspec.Raw) -> Any:
    """Decode *raw* in pieces of little more than `LOOK` bytes; of longer texts the rest is left out."""
    view = memoryview(raw)
    if len(view) <= LOOK + 16:
        return _value(raw)
    if view[0] == b'"'[0]:
        return _beginning(view)
    if view[0] == b"{"[0]:
        return {name: _opened(value) for name, value in _members(raw).items()}
    return [_opened(item) for item in _items(raw)]


def _beginning(view: memoryview) -> str:
    """Return a little over `LOOK` bytes of a text, cut where no character and no escape is cut in two."""
    for end in range(LOOK + 16, LOOK + 2, -1):
        with suppress(msgspec.DecodeError, UnicodeDecodeError):
            return _text(bytes(view[:end]) + b'"')
    return ""


def _texts(values: list[Any]) -> list[str]:
    """Gather the texts of turns and of their parts."""
    items, texts = [(value, "") for value in reversed(values)], []
    while items:
        item, role = items.pop()
        if isinstance(item, str):
            texts.append(_kept(item, role))
        elif isinstance(item, list):
            items += [(each, role) for each in reversed(item)]
        elif isinstance(item, dict) and item.get("type") in _TEXTUAL:
            inner = (item.get(name) for name in ("output", "content", "text"))
            items += [(each, item.get("role", role)) for each in inner]
    return [text for text in texts if text]


def _kept(text: str, role: str) -> str:
    """Leave out what many chat templates leave out: space at the ends, and thoughts of former answers."""
    return (text.rpartition(_THOUGHT)[2] if role == "assistant" else text).strip()


def _turns(messages: Any) -> tuple[Mapping[str, Any], ...]:
    """Return *messages* with nothing but their texts, each as one."""
    turns = messages if isinstance(messages, list) else []
    return tuple(
        {"role": turn.get("role"), "content": "".join(_texts([turn.get("content")]))}
        for turn in turns
        if isinstance(turn, dict)
    )


def _longest(value: Any, param: str) -> Prompt:
    """Return the longest of the prompts in *value*: a text, token ids, both mixed, or a list of these."""
    several = isinstance(value, list) and not any(isinstance(each, int) for each in value)
    prompts = [_bare(each, param) for each in (value if several else [value])]
    return max(prompts, key=lambda prompt: prompt.size, default=Prompt((), param))


def _bare(value: Any, param: str) -> Prompt:
    items = value if isinstance(value, list) else [value]
    texts = tuple(item for item in items if isinstance(item, str))
    return Prompt(texts, param, ids=sum(isinstance(item, int) for item in items))


def question(model: str, path: str, prompt: Prompt) -> bytes:
    """
    Write the body of a POST to `/tokenize` that both llama.cpp's server and vLLM understand.

    The first reads `content`, the texts alone; the other `messages`, behind its chat template, or `prompt`.
    """
    texts = prompt.seen()
    asked = {"model": model, "content": texts, "add_special": False, "parse_special": True}
    if path.endswith("/chat/completions") and prompt.turns:
        return msgspec.json.encode({**asked, "messages": prompt.turns})
    return msgspec.json.encode({**asked, "prompt": "\n".join(texts)})


class _Answer(msgspec.Struct):
    """What servers answer: vLLM counts, llama.cpp lists, or counts on its other routes."""

    count: int | None = None
    input_tokens: int | None = None
    tokens: list[int] | None = None


def count_of(answer: bytes) -> int | None:
    """Read a count of tokens; None when *answer* has none, or lists more than could have been asked about."""
    if answer.count(b",") > LOOK:
        return None
    try:
        told = _count(answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    listed = None if told.tokens is None else len(told.tokens)
    return next((count for count in (told.count, told.input_tokens, listed) if count is not None), None)


_decode = msgspec.json.Decoder(_Body).decode
_value = msgspec.json.Decoder(float_hook=len).decode  # fractions take long, and are neither text nor ids
_text = msgspec.json.Decoder(str).decode
_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_count = msgspec.json.Decoder(_Answer).decode
