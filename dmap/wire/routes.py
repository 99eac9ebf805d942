"""
The inference routes: what may be called, and how each is spoken.

The path that goes upstream comes from this table, never from the client.  Servers forgive odd spellings, and
a request that gets past the arbiter in that way makes them load a model on their own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from dmap.wire.dialects import Dialect
from dmap.wire.parameters import PARAMETERS, WORDS_OF


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """
    Which members of a body hold what its route is asked with.

    Of each group of members in *needed* one has to be there.  The *texts* have to fit into one context; the
    last is the one to blame.  With *bare* no chat template joins them: a list is of prompts that have a
    context each.
    """

    needed: tuple[tuple[str, ...], ...] = ()
    texts: tuple[str, ...] = ()
    bare: bool = False


CHAT = Contents((("messages",),), ("messages",))
COMPLETION = Contents((("prompt", "prompt_embeds"),), ("prompt",), bare=True)
EMBEDDING = Contents((("input", "messages", "content"),), ("input",), bare=True)
"""vLLM embeds `messages`, too, and llama.cpp `content`."""
_RESPONSE = Contents(
    (("input", "prompt", "previous_response_id", "conversation", "messages"),), ("instructions", "input")
)
"""OpenAI's responses may go on from what the server keeps, or fill in a prompt that it keeps."""
_MESSAGES = Contents(CHAT.needed, ("system", "messages"))
_RANKING = Contents((("query",), ("documents", "texts")))
"""vLLM ranks `texts`, too."""


@dataclass(frozen=True, slots=True, eq=False)
class InferenceRoute:
    """
    One path, and what its requests hold.

    With *form* a request may be a multipart form, as for uploads of audio and images.  *without* are words of
    its dialect that this path does not have.
    """

    path: str
    dialect: Dialect
    contents: Contents = Contents()
    form: bool = False
    without: frozenset[str] = frozenset()


NO_CHAT = frozenset(("max_completion_tokens", "reasoning_effort", "reasoning"))
"""What OpenAI added to chats after it had left plain completions alone."""

_MEDIA = (
    InferenceRoute("/v1/rerank", Dialect.PLAIN, _RANKING),
    InferenceRoute("/v1/audio/speech", Dialect.PLAIN, Contents((("input",),))),
    InferenceRoute("/v1/audio/transcriptions", Dialect.PLAIN, form=True),
    InferenceRoute("/v1/audio/translations", Dialect.PLAIN, form=True),
    InferenceRoute("/v1/images/generations", Dialect.PLAIN, Contents((("prompt",),))),
    InferenceRoute("/v1/images/edits", Dialect.PLAIN, form=True),
    InferenceRoute("/v1/images/variations", Dialect.PLAIN, form=True),
)
MEDIA = frozenset(route.path for route in _MEDIA)
"""Images, speech and ranking, which many kinds of servers do not have."""

ROUTES = {
    route.path: route
    for route in (
        InferenceRoute("/v1/chat/completions", Dialect.CHAT, CHAT),
        InferenceRoute("/v1/completions", Dialect.CHAT, COMPLETION, without=NO_CHAT),
        InferenceRoute("/v1/responses", Dialect.RESPONSES, _RESPONSE),
        InferenceRoute("/v1/messages", Dialect.MESSAGES, _MESSAGES),
        InferenceRoute("/v1/messages/count_tokens", Dialect.PLAIN, Contents(CHAT.needed)),
        InferenceRoute("/v1/embeddings", Dialect.PLAIN, EMBEDDING),
        *_MEDIA,
    )
}
"""The POST routes that servers of several kinds have, by path; those of one kind come with that kind."""


@dataclass(frozen=True, slots=True, eq=False)
class KindWords:
    """
    What servers of one kind call parameters, beyond what their dialects say.

    By dialect, *sent* are the words that dmap writes in place of the dialect's, and *read* those that servers
    read as well: a client's word among these goes on as it is.
    """

    sent: Mapping[Dialect, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    read: Mapping[Dialect, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Wording:
    """
    The words for parameters on one route of the servers of one kind.

    *read* has, by parameter, the words that the server understands, and *sent* those that dmap writes, which
    are among them.  `a.b` is the member b of the field a.  A parameter that the route does not have is in
    neither.  *foreign* has, by word, the parameter meant by a word that the server does not understand.
    *values* has, by word, the values that the server calls by another name.
    """

    read: Mapping[str, tuple[str, ...]]
    sent: Mapping[str, tuple[str, ...]]
    foreign: Mapping[str, str]
    values: Mapping[str, Mapping[str, str]]


@lru_cache(maxsize=256)
def wording(route: InferenceRoute, kind: KindWords) -> Wording:
    """Return the words for parameters on *route*, on servers that have the words of *kind*."""
    dialect = route.dialect
    words = {**dialect.words, **kind.sent.get(dialect, {})}
    sent = {name: those for name, those in words.items() if route.without.isdisjoint(those)}
    read = dict(sent)
    for word in kind.read.get(dialect, ()):
        if word not in route.without:
            read[PARAMETERS[word]] += (word,)
    fields = {word.partition(".")[0] for those in read.values() for word in those}
    foreign = {word: name for name in read for word in WORDS_OF[name] if word not in fields}
    return Wording(read, sent, foreign, dialect.values)
