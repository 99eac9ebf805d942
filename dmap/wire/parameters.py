"""
The parameters of inference: what each is called, by whom, and which values dmap's own words take.

A parameter goes by its name in the section `defaults`; a *word* is what a client or a server calls it.  What
becomes of them in a request is the business of `fitting`.  Who reads which word is told by llama.cpp's
tools/server (server-schema.cpp, server-chat.cpp), vLLM's entrypoints/openai, LM Studio's documentation of its
REST API, and the references of OpenAI's and Anthropic's APIs.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any

import msgspec

from dmap.errors import BadRequest
from dmap.wire.dialects import Dialect
from dmap.wire.routes import InferenceRoute

BOUNDS: dict[str, dict[str, Any]] = {
    "temperature": {"ge": 0, "le": 2},
    **dict.fromkeys(("top_p", "min_p"), {"ge": 0, "le": 1}),
    **dict.fromkeys(("presence_penalty", "frequency_penalty"), {"ge": -2, "le": 2}),
    **dict.fromkeys(("top_k", "repeat_penalty"), {"ge": 0}),
    "max_tokens": {"ge": 1},
}
"""The numbers that parameters take, in the words of pydantic and msgspec."""

_TYPES: dict[str, Any] = {"stop": str | list[str], "reasoning_effort": str, "stream": bool}
_TYPES |= dict.fromkeys(("top_k", "max_tokens", "seed"), int)
_KINDS: dict[str, Any] = {
    name: Annotated[_TYPES.get(name, float), msgspec.Meta(**BOUNDS.get(name, {}))] for name in BOUNDS | _TYPES
}
"""Every parameter with the values that `defaults` takes for it."""

_letters = re.compile(r"[^\W_]+").findall

_FURTHER = {
    "max_tokens": ("max_completion_tokens", "max_output_tokens", "n_predict"),
    "stop": ("stop_sequences", "stop_strings", "stopStrings"),
    "repeat_penalty": ("repetition_penalty",),
    "reasoning_effort": ("reasoning",),
}
"""Words beside a parameter's own name and that in camelCase."""


def camel(name: str) -> str:
    """Return *name*, which is in `snake_case`, in camelCase."""
    first, *rest = name.split("_")
    return first + "".join(map(str.capitalize, rest))


def plain(word: str) -> str:
    """
    Return what all spellings of *word* have in common: its letters and digits, in lower case.

    Some servers read a field in any letter case, in camelCase, or up to a NUL.
    """
    return "".join(_letters(word.casefold()))


_WORDS = {name: tuple(dict.fromkeys((name, camel(name), *_FURTHER.get(name, ())))) for name in _KINDS}
WORDS = frozenset(word for words in _WORDS.values() for word in words)
_PARAMETER = {plain(word): name for name, words in _WORDS.items() for word in words}
_OWN = {
    word: msgspec.json.Decoder(_KINDS[name]).decode
    for name, words in _WORDS.items()
    for word in words
    if word != word.lower()
}
"""The words in camelCase, which are dmap's and nobody else's, so that it is dmap who checks their values."""


def parameter(word: str) -> str | None:
    """Return the parameter that *word* means, in any letter case; None if it means none."""
    return _PARAMETER.get(plain(word))


@lru_cache(maxsize=256)
def plain_words(names: frozenset[str]) -> frozenset[str]:
    """Return all words, made `plain`, for *names* of parameters or of any other fields."""
    return frozenset(plain(word) for name in names for word in _WORDS.get(name, (name,)))


def understood(word: str, value: msgspec.Raw) -> Any:
    """
    Decode the *value* that a client gave for *word*; a single stop string becomes a list of one.

    Raises `BadRequest` for a word in camelCase whose value `defaults` would not take.
    """
    try:
        found = _OWN[word](value) if word in _OWN else msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise BadRequest(f"{word!r} is out of range or of the wrong type: {exc}", param=word) from exc
    return [found] if isinstance(found, str) and parameter(word) == "stop" else found


@dataclass(frozen=True, slots=True, eq=False)
class KindWords:
    """
    What servers of one kind call parameters, beyond what their dialects say.

    By dialect, *sent* are the words that dmap writes in place of the dialect's, and *read* those that servers
    read as well: a client's word among these goes on as it is.
    """

    sent: Mapping[Dialect, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    read: Mapping[Dialect, tuple[str, ...]] = field(default_factory=dict)


NO_WORDS = KindWords()


@dataclass(frozen=True, slots=True)
class Wording:
    """
    What a route calls the parameters, on servers of one kind.

    Each mapping but the last goes by parameter.  *read*: the words that the server understands.  *sent*:
    those of them that dmap writes.  *others*: all words that dmap does not write.  A parameter that the
    route does not have is in none of them.  `a.b` is the member b of the field a.

    *foreign* goes by word: each word that the server does not understand, with the parameter that it means.
    *values* has, by word, values that the server calls otherwise.
    """

    read: Mapping[str, tuple[str, ...]]
    sent: Mapping[str, tuple[str, ...]]
    others: Mapping[str, tuple[str, ...]]
    foreign: Mapping[str, str]
    values: Mapping[str, Mapping[str, str]]


@lru_cache(maxsize=256)
def wording(route: InferenceRoute, kind: KindWords = NO_WORDS) -> Wording:
    """Return what *route* calls the parameters on servers that have the words of *kind*."""
    dialect = route.dialect
    sent = _without(route.without, {**dialect.words, **kind.sent.get(dialect, {})})
    read = dict(sent)
    for word in kind.read.get(dialect, ()):
        if word not in route.without:
            read[_PARAMETER[plain(word)]] += (word,)
    return Wording(read, sent, dict(_others(sent)), dict(_foreign(read)), dialect.values)


def _without(words: frozenset[str], sent: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {name: those for name, those in sent.items() if not words.intersection(those)}


def _others(sent: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each parameter's words but those that are *sent*, and but a field that has one as its member."""
    for name, words in sent.items():
        fields = {word.partition(".")[0] for word in words}
        yield name, tuple(word for word in _WORDS[name] if word not in fields)


def _foreign(read: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, str]]:
    return ((word, name) for name, others in _others(read) for word in others)
