"""
The parameters of inference: what each is called, by whom, and which values dmap's own words take.

A parameter goes by its name in the section `defaults`; a *word* is what a client or a server calls it.  What
becomes of them in a request is the business of `fitting`.  Who reads which word is told by llama.cpp's
tools/server (server-schema.cpp, server-chat.cpp), vLLM's entrypoints/openai, LM Studio's documentation of its
REST API, and the references of OpenAI's and Anthropic's APIs.
"""

import re
from functools import lru_cache
from typing import Annotated, Any

import msgspec

from dmap.errors import BadRequest

BOUNDS: dict[str, dict[str, Any]] = {
    "temperature": {"ge": 0, "le": 2},
    **dict.fromkeys(("top_p", "min_p"), {"ge": 0, "le": 1}),
    **dict.fromkeys(("presence_penalty", "frequency_penalty"), {"ge": -2, "le": 2}),
    **dict.fromkeys(("top_k", "repeat_penalty"), {"ge": 0}),
    "max_tokens": {"ge": 1},
}
"""The numbers that parameters take, in the words of pydantic and msgspec."""

_TYPES: dict[str, Any] = {"stop": str | list[str], "reasoning_effort": str, "stream": bool}
_TYPES["chat_template_kwargs"] = dict[str, Any]
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


WORDS_OF = {name: tuple(dict.fromkeys((name, camel(name), *_FURTHER.get(name, ())))) for name in _KINDS}
"""By parameter, all words that mean it."""
PARAMETERS = {word: name for name, words in WORDS_OF.items() for word in words}
"""By word, the parameter that it means."""
_OWN = frozenset(word for word in PARAMETERS if word != word.lower())
"""The words in camelCase.  Only dmap knows them, so it is dmap that checks their values."""


@lru_cache(maxsize=256)
def plain_words(names: frozenset[str]) -> frozenset[str]:
    """Return all words, made `plain`, for *names* of parameters or of any other fields."""
    return frozenset(plain(word) for name in names for word in WORDS_OF.get(name, (name,)))


def understood(word: str, value: Any) -> Any:
    """
    Return the *value* that a client gave for *word*; a single stop string becomes a list of one.

    Raises `BadRequest` for a word in camelCase whose value `defaults` would not take.
    """
    if word in _OWN:
        try:
            value = msgspec.convert(value, _KINDS[PARAMETERS[word]])
        except msgspec.ValidationError as exc:
            raise BadRequest(f"{word!r} is out of range or of the wrong type: {exc}", param=word) from exc
    return [value] if isinstance(value, str) and PARAMETERS.get(word) == "stop" else value
