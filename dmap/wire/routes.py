"""
The inference routes: what may be called, and how each is spoken.

The path that goes upstream comes from this table, never from the client: servers forgive odd spellings,
and a request that slips past the arbiter that way makes them load a model on their own.
"""

from dataclasses import dataclass

from dmap.wire.dialects import Dialect


@dataclass(frozen=True, slots=True, eq=False)
class InferenceRoute:
    """
    One path; *form* when the request is (also) a multipart form, as for uploads of audio and images.

    *without* are words of its dialect that this path has not.
    """

    path: str
    dialect: Dialect
    form: bool = False
    without: frozenset[str] = frozenset()


NO_CHAT = frozenset(("max_completion_tokens", "reasoning_effort", "reasoning"))
"""What OpenAI added to chats after it had left plain completions alone."""

_MEDIA = (
    InferenceRoute("/v1/rerank", Dialect.PLAIN),
    InferenceRoute("/v1/audio/speech", Dialect.PLAIN),
    InferenceRoute("/v1/audio/transcriptions", Dialect.PLAIN, form=True),
    InferenceRoute("/v1/audio/translations", Dialect.PLAIN, form=True),
    InferenceRoute("/v1/images/generations", Dialect.PLAIN),
    InferenceRoute("/v1/images/edits", Dialect.PLAIN, form=True),
    InferenceRoute("/v1/images/variations", Dialect.PLAIN, form=True),
)
MEDIA = frozenset(route.path for route in _MEDIA)
"""Images, speech and ranking, which many kinds of servers have not."""

ROUTES = {
    route.path: route
    for route in (
        InferenceRoute("/v1/chat/completions", Dialect.CHAT),
        InferenceRoute("/v1/completions", Dialect.CHAT, without=NO_CHAT),
        InferenceRoute("/v1/responses", Dialect.RESPONSES),
        InferenceRoute("/v1/messages", Dialect.MESSAGES),
        InferenceRoute("/v1/messages/count_tokens", Dialect.PLAIN),
        InferenceRoute("/v1/embeddings", Dialect.PLAIN),
        *_MEDIA,
    )
}
"""The POST routes that servers of several kinds have, by path; those of one kind come with that kind."""
