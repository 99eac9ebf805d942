"""
The inference routes: what may be called, what its body holds, and what it calls the parameters.

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
    The members of a body that matter to its route.

    Of each group in *needed* at least one has to be there.  The *texts* together have to fit into one
    context; if they do not, the last of them is blamed.  With *bare* no chat template joins them, and a list
    holds several prompts, each with a context of its own.
    """

    needed: tuple[tuple[str, ...], ...] = ()
    texts: tuple[str, ...] = ()
    bare: bool = False


CHAT = Contents((("messages",),), ("messages",))
COMPLETION = Contents((("prompt", "prompt_embeds"),), ("prompt",), bare=True)
EMBEDDING = Contents((("input", "messages", "content"),), ("input",), bare=True)
"""vLLM embeds `messages`, too, and llama.cpp `content`."""
RESPONSE = Contents(
    (("input", "prompt", "previous_response_id", "conversation", "messages"),), ("instructions", "input")
)
"""In OpenAI's API a response may continue one that the server keeps, or fill in a prompt that it keeps."""
MESSAGES = Contents(CHAT.needed, ("system", "messages"))
_RANKING = Contents((("query",), ("documents", "texts")))
"""vLLM ranks `texts`, too."""


@dataclass(frozen=True, slots=True, eq=False)
class InferenceRoute:
    """
    One path, its dialect, and what its bodies hold.

    With *form* a body may be a multipart form, as for uploads of audio and images.  With *empty* there may be
    no body at all.  *without* holds the words
    of the dialect that this path does not know.
    """

    path: str
    dialect: Dialect
    contents: Contents = Contents()
    form: bool = False
    empty: bool = False
    without: frozenset[str] = frozenset()


NO_CHAT = frozenset(("max_completion_tokens", "reasoning_effort", "reasoning", "chat_template_kwargs"))
"""Words for chats, but not for plain completions, which have no template."""

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

RESPONSE_TOKENS = "/v1/responses/input_tokens"
"""How many tokens a prompt has, in OpenAI's API: https://platform.openai.com/docs/api-reference/responses"""

ROUTES = {
    route.path: route
    for route in (
        InferenceRoute("/v1/chat/completions", Dialect.CHAT, CHAT),
        InferenceRoute("/v1/completions", Dialect.CHAT, COMPLETION, without=NO_CHAT),
        InferenceRoute("/v1/responses", Dialect.RESPONSES, RESPONSE),
        InferenceRoute(RESPONSE_TOKENS, Dialect.PLAIN, Contents(RESPONSE.needed)),
        InferenceRoute("/v1/messages", Dialect.MESSAGES, MESSAGES),
        InferenceRoute("/v1/messages/count_tokens", Dialect.PLAIN, Contents(CHAT.needed)),
        InferenceRoute("/v1/embeddings", Dialect.PLAIN, EMBEDDING),
        *_MEDIA,
    )
}
"""By path, the POST routes that servers of several kinds have; a kind brings the others along."""


@dataclass(frozen=True, slots=True, eq=False)
class KindWords:
    """
    What servers of one kind call the parameters, where that differs from their dialects.

    By dialect, *sent* holds the words that dmap writes instead of the dialect's.  *read* holds the words that
    these servers understand as well, so a client's word among them goes on unchanged.
    """

    sent: Mapping[Dialect, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    read: Mapping[Dialect, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Wording:
    """
    The words for parameters on one route of one kind of server.

    By parameter, *read* holds the words that the server understands, and *sent* those of them that dmap
    writes.  `a.b` is the member b of the field a.  A parameter that the route does not have is in neither.
    By word, *foreign* holds the parameter that is meant by a word that the server does not understand, and
    *values* holds the values that the server calls by another name.
    """

    read: Mapping[str, tuple[str, ...]]
    sent: Mapping[str, tuple[str, ...]]
    foreign: Mapping[str, str]
    values: Mapping[str, Mapping[str, str]]


@lru_cache(maxsize=256)
def wording(route: InferenceRoute, kind: KindWords) -> Wording:
    """Return the words for parameters on *route*, for servers with the words of *kind*."""
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
