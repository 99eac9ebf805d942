"""
The prompt of a request: the texts that have to fit into one context, and how to ask a server for their count.

Pure.  Images and tools are not text.  The counterparts are `dmap/tokens.py`, which counts, and
`web/context.py`, which refuses.
"""

from collections.abc import Mapping
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


class _Body(msgspec.Struct):
    """The members of a body that hold its prompt, say what is not text, or ask for a truncation."""

    messages: Any = None
    prompt: Any = None
    input: Any = None
    instructions: Any = None
    system: Any = None
    system_prompt: Any = None
    tools: Any = None
    truncation: Any = None
    truncate_prompt_tokens: Any = None
    previous_response_id: Any = None
    conversation: Any = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """
    What has to fit into one context, of several prompts in a request the longest.

    *ids* counts tokens that the client gave as numbers.  *others* are the texts of tools and of other
    prompts, which are not held against it.  *plain* is False when it holds more than text, such as images, or
    goes on from what the server has kept.  *param* names the member of the body.  *turns* are its messages
    with nothing but text.
    """

    texts: tuple[str, ...]
    param: str
    ids: int = 0
    others: tuple[str, ...] = ()
    plain: bool = True
    turns: tuple[Mapping[str, Any], ...] = ()

    @property
    def size(self) -> int:
        """More than this it cannot have: a token is at least one byte, the template's aside."""
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
    Read the prompt out of the body of a request for *path*.

    None where a prompt need not fit: another kind of route, a body that is no such request (its server will
    tell), or one that asks to be truncated.
    """
    names = _MEMBERS.get(path)
    if names is None:
        return None
    try:
        whole = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if whole.truncation == "auto" or whole.truncate_prompt_tokens is not None:
        return None
    if path in _BARE:
        return _longest(getattr(whole, names[-1]), names[-1])
    texts, plain = _texts([getattr(whole, name) for name in names])
    others = (str(whole.tools),) if whole.tools else ()
    plain = plain and whole.previous_response_id is None and whole.conversation is None
    return Prompt(tuple(texts), names[-1], others=others, plain=plain, turns=_turns(whole.messages))


def _texts(values: list[Any]) -> tuple[list[str], bool]:
    """Gather the texts of turns and of their parts; tell whether there was nothing else."""
    items, texts, plain = [(value, "") for value in reversed(values)], [], True
    while items:
        item, role = items.pop()
        if isinstance(item, str):
            texts.append(_kept(item, role))
        elif isinstance(item, list):
            items += [(each, role) for each in reversed(item)]
        elif isinstance(item, dict) and item.get("type") in _TEXTUAL:
            inner = (item.get(name) for name in ("output", "content", "text"))
            items += [(each, item.get("role", role)) for each in inner]
        elif item is not None:
            plain = False
    return [text for text in texts if text], plain


def _kept(text: str, role: str) -> str:
    """Leave out what many chat templates leave out: space at the ends, and thoughts of former answers."""
    return (text.rpartition(_THOUGHT)[2] if role == "assistant" else text).strip()


def _turns(messages: Any) -> tuple[Mapping[str, Any], ...]:
    """Return *messages* with nothing but their texts, each as one."""
    turns = messages if isinstance(messages, list) else []
    return tuple(
        {"role": turn.get("role"), "content": "".join(_texts([turn.get("content")])[0])}
        for turn in turns
        if isinstance(turn, dict)
    )


def _longest(value: Any, param: str) -> Prompt:
    """Return the longest of the prompts in *value*: a text, token ids, both mixed, or a list of these."""
    several = isinstance(value, list) and not any(isinstance(each, int) for each in value)
    prompts = [_bare(each, param) for each in (value if several else [value])]
    longest = max(prompts, key=lambda prompt: prompt.size, default=Prompt((), param))
    others = tuple(text for prompt in prompts if prompt is not longest for text in prompt.texts)
    plain = all(prompt.ids == 0 for prompt in prompts)
    return Prompt(longest.texts, param, ids=longest.ids, others=others, plain=plain)


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
_count = msgspec.json.Decoder(_Answer).decode
