"""
The inference routes: what may be called, and how each is spoken.

The path that goes upstream comes from this table, never from the client: servers forgive odd spellings,
and a request that slips past the arbiter that way makes them load a model on their own.
"""

from dataclasses import dataclass
from enum import Enum


class Dialect(Enum):
    """Whose manners a route has: its end mark, its errors inside a stream, its names of parameters."""

    CHAT = "chat"
    RESPONSES = "responses"
    MESSAGES = "messages"
    LMSTUDIO = "lmstudio"
    PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class InferenceRoute:
    """
    One path; *form* when the request is (also) a multipart form, as for uploads of audio and images.

    *native* names the one kind of backend that has the path; None is OpenAI's, which all may have but
    those that are known to be *lacking* it: no model is loaded to find that out.  *without* are words of
    its dialect that this path has not.
    """

    path: str
    dialect: Dialect
    form: bool = False
    native: str | None = None
    lacking: frozenset[str] = frozenset()
    without: frozenset[str] = frozenset()


_NO_MEDIA = frozenset(("gguf", "lmstudio"))
"""Neither llama.cpp's server, as dmap starts it, nor LM Studio has images, speech or ranking."""

_NO_CHAT = frozenset(("max_completion_tokens", "reasoning_effort", "reasoning"))
"""What OpenAI added to chats after it had left plain completions alone."""

ROUTES = {
    route.path: route
    for route in (
        InferenceRoute("/v1/chat/completions", Dialect.CHAT),
        InferenceRoute("/v1/completions", Dialect.CHAT, without=_NO_CHAT),
        InferenceRoute("/v1/responses", Dialect.RESPONSES),
        InferenceRoute("/v1/messages", Dialect.MESSAGES),
        InferenceRoute("/v1/messages/count_tokens", Dialect.PLAIN),
        InferenceRoute("/v1/embeddings", Dialect.PLAIN),
        InferenceRoute("/v1/rerank", Dialect.PLAIN, lacking=_NO_MEDIA),
        InferenceRoute("/v1/audio/speech", Dialect.PLAIN, lacking=_NO_MEDIA),
        InferenceRoute("/v1/audio/transcriptions", Dialect.PLAIN, form=True, lacking=_NO_MEDIA),
        InferenceRoute("/v1/audio/translations", Dialect.PLAIN, form=True, lacking=_NO_MEDIA),
        InferenceRoute("/v1/images/generations", Dialect.PLAIN, lacking=_NO_MEDIA),
        InferenceRoute("/v1/images/edits", Dialect.PLAIN, form=True, lacking=_NO_MEDIA),
        InferenceRoute("/v1/images/variations", Dialect.PLAIN, form=True, lacking=_NO_MEDIA),
        InferenceRoute("/api/v0/chat/completions", Dialect.CHAT, native="lmstudio"),
        InferenceRoute("/api/v0/completions", Dialect.CHAT, native="lmstudio", without=_NO_CHAT),
        InferenceRoute("/api/v0/embeddings", Dialect.PLAIN, native="lmstudio"),
        InferenceRoute("/api/v1/chat", Dialect.LMSTUDIO, native="lmstudio"),
    )
}
"""Every POST route, by its path."""
