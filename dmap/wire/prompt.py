"""
The prompt of a request: the texts that have to fit into one context, and how to ask a server for their count.

Pure.  Images and tools are not text.  The counterparts are `dmap/tokens.py`, which counts, and
`web/context.py`, which refuses.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from dmap.wire.routes import Contents
from dmap.wire.values import beginning, opened

LOOK = 4 * 2**20
"""Characters of a prompt that are looked at; more could only add to a count that is too high already."""

_TEXTUAL = (None, "message", "text", "input_text", "output_text", "tool_result", "function_call_output")


@dataclass(frozen=True, slots=True)
class Prompt:
    """
    What has to fit into one context; of several prompts in a request it is the longest.

    *ids* is the number of tokens that the client gave as numbers.  *messages* are those of the request, if
    the prompt is nothing else.
    """

    texts: tuple[str, ...]
    ids: int = 0
    messages: Any = ()

    @property
    def size(self) -> int:
        """The most tokens that it can have: one for each byte of its texts, and its ids."""
        return self.ids + sum(len(text) if text.isascii() else len(text.encode()) for text in self.texts)

    def seen(self) -> list[str]:
        """Return its texts as far as they are looked at."""
        left, seen = LOOK, []
        for text in self.texts:
            seen.append(text[:left])
            left -= len(seen[-1])
        return [text for text in seen if text]


def prompt_of(contents: Contents, fields: Mapping[str, Any]) -> Prompt | None:
    """
    Find the prompt in *fields*, the outermost members of a request; of long texts the beginning.

    None where a prompt need not fit: on a route without texts, or when the client asks for a truncation.
    """
    names = contents.texts
    shortens = fields.get("truncation") == "auto" or fields.get("truncate_prompt_tokens") is not None
    if not names or shortens:
        return None
    values = [fields.get(name) for name in names]
    if contents.bare:
        return _longest(values[-1])
    messages = values[-1] if names == ("messages",) else ()
    return Prompt(tuple(_texts(values)), messages=messages)


def _texts(values: list[Any]) -> list[str]:
    """Gather the texts of turns and of their parts."""
    items: list[tuple[Any, str]] = [(value, "") for value in reversed(values)]
    texts: list[str] = []
    while items:
        item, role = items.pop()
        item = opened(item)
        if isinstance(item, str | msgspec.Raw):
            texts.append(_kept(beginning(item, LOOK), role))
        elif isinstance(item, list):
            items += [(each, role) for each in reversed(item)]
        elif isinstance(item, dict) and item.get("type") in _TEXTUAL:
            inner = (item.get(name) for name in ("output", "content", "text"))
            items += [(each, item.get("role", role)) for each in inner]
    return [text for text in texts if text]


def _kept(text: str, role: str) -> str:
    """Leave out what many chat templates leave out: space at the ends, and thoughts of former answers."""
    return (text.rpartition("</think>")[2] if role == "assistant" else text).strip()


def _turns(messages: Any) -> tuple[Mapping[str, Any], ...]:
    """Return *messages* with nothing but their texts, each as one text."""
    turns = [turn for turn in messages if isinstance(turn, dict)] if isinstance(messages, list) else []
    return tuple(
        {"role": turn.get("role"), "content": "".join(_texts([turn.get("content")]))} for turn in turns
    )


def _longest(value: Any) -> Prompt:
    """Return the longest of the prompts in *value*: a text, token ids, both mixed, or a list of these."""
    items = _items(value)
    lists = [items] if any(isinstance(item, int) for item in items) else map(_items, items)
    return max(map(_bare, lists), key=lambda prompt: prompt.size, default=Prompt(()))


def _items(value: Any) -> list[Any]:
    value = opened(value)
    return [opened(item) for item in value] if isinstance(value, list) else [value]


def _bare(items: list[Any]) -> Prompt:
    texts = tuple(beginning(item, LOOK) for item in items if isinstance(item, str | msgspec.Raw))
    return Prompt(texts, ids=sum(isinstance(item, int) for item in items))


def question(model: str, prompt: Prompt) -> bytes:
    """
    Write the body of a POST to `/tokenize` that both llama.cpp's server and vLLM understand.

    The first reads `content`, the texts alone; the other `messages`, behind its chat template, or `prompt`.
    """
    texts = prompt.seen()
    asked = {"model": model, "content": texts, "add_special": False, "parse_special": True}
    turns = _turns(prompt.messages)
    return msgspec.json.encode(asked | ({"messages": turns} if turns else {"prompt": "\n".join(texts)}))


class _Answer(msgspec.Struct):
    """What servers answer: vLLM counts; llama.cpp lists, or counts on its other routes."""

    count: int | None = None
    input_tokens: int | None = None
    tokens: list[int] | None = None


def count_of(answer: bytes) -> int | None:
    """
    Read a count of tokens; None when *answer* has none, or lists more than could have been asked about.

    Nothing but numbers is decoded.  Lists of other values take up to 40 times as long.
    """
    try:
        said = msgspec.json.decode(answer, type=_Answer) if answer.count(b",") <= LOOK else _Answer()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    listed = None if said.tokens is None else len(said.tokens)
    return next((count for count in (said.count, said.input_tokens, listed) if count is not None), None)
