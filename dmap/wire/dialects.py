"""
The dialects of inference: the names of parameters, the ends of streams, the form of errors.

These are the dialects that several kinds of servers speak.  A kind with a dialect of its own brings it along.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from dmap.wire.parameters import WORDS_OF


def same(*names: str, **others: str) -> dict[str, tuple[str, ...]]:
    """Return a word for each parameter: those in *names* have their own, each of *others* the given one."""
    return {name: (word,) for name, word in (*zip(names, names, strict=True), *others.items())}


@dataclass(frozen=True, slots=True, eq=False)
class Dialect:
    """
    How a route is spoken.

    *words* holds what dmap writes for each parameter; `a.b` is the member b of the field a.  *values* holds,
    by word, the values that have other names here.  A stream ends with one of *last_events*, or with `[DONE]`
    if *done* is true; a dialect with neither needs no end mark.  *errors* is the form of an error inside a
    stream: OpenAI's object (`plain`), that object in an event of its own (`typed`), or an event without such
    an object (`flat`).  *error_types* are its own types of errors, by status.
    """

    CHAT: ClassVar["Dialect"]
    RESPONSES: ClassVar["Dialect"]
    MESSAGES: ClassVar["Dialect"]
    PLAIN: ClassVar["Dialect"]

    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    last_events: frozenset[str] = frozenset()
    done: bool = False
    errors: Literal["plain", "typed", "flat"] = "plain"
    error_types: Mapping[int, str] = field(default_factory=dict)


# A chat calls every parameter as dmap does.
Dialect.CHAT = Dialect(words=same(*WORDS_OF), done=True)
Dialect.RESPONSES = Dialect(
    words=same(
        "temperature", "top_p", "stream", max_tokens="max_output_tokens", reasoning_effort="reasoning.effort"
    ),
    last_events=frozenset(("response.completed", "response.failed", "response.incomplete")),
    errors="flat",
)
Dialect.MESSAGES = Dialect(
    words=same("temperature", "top_p", "top_k", "max_tokens", "stream", stop="stop_sequences"),
    last_events=frozenset(("message_stop",)),
    errors="typed",
    error_types={  # docs.claude.com/en/api/errors; their overload is a 529, which no other client knows
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        413: "request_too_large",
        429: "rate_limit_error",
        503: "overloaded_error",
        504: "timeout_error",
    },
)
Dialect.PLAIN = Dialect()
