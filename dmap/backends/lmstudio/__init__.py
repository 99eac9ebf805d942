"""LM Studio (0.4.0 and later), whose models dmap loads and unloads over its native REST API."""

from dmap.backends.kind import Kind
from dmap.backends.lmstudio.backend import LMStudioBackend
from dmap.backends.lmstudio.section import LMStudioSection
from dmap.wire.dialects import Dialect, same
from dmap.wire.routes import (
    CHAT,
    COMPLETION,
    EMBEDDING,
    MEDIA,
    NO_CHAT,
    RESPONSE_TOKENS,
    Contents,
    InferenceRoute,
    KindWords,
)
from dmap.wire.verdict import Phrases

NATIVE = Dialect(
    words=same(
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "repeat_penalty",
        "stream",
        max_tokens="max_output_tokens",
        reasoning_effort="reasoning",
    ),
    values={"reasoning": {"none": "off", "minimal": "low"}},  # OpenAI's words for efforts
    last_events=frozenset(("chat.end",)),
    errors="typed",
)
"""The dialect of `/api/v1/chat` (LM Studio's docs, 2_rest/chat.md and streaming-events.md)."""

ROUTES = (
    InferenceRoute("/api/v0/chat/completions", Dialect.CHAT, CHAT),
    InferenceRoute("/api/v0/completions", Dialect.CHAT, COMPLETION, without=NO_CHAT),
    InferenceRoute("/api/v0/embeddings", Dialect.PLAIN, EMBEDDING),
    InferenceRoute("/api/v1/chat", NATIVE, Contents((("input",),), ("system_prompt", "input"))),
)

PHRASES = Phrases(
    own_faults=(
        "the model has crashed",  # bug-tracker #157, #1347
        "model unloaded",  # also of a generation that an eviction cut (#1796)
        "model is unloaded",
        "no models loaded",  # #1730
        "failed to load model",  # continue #10150, #12794
        "invalid model identifier",  # dmap asks for what is listed only: it was unloaded since (rlmstudio)
    ),
    too_long=("greater than the context length",),  # with 400 or 500, by route (0.4.25)
    no_path=("Unexpected endpoint",),
)


KIND = Kind(
    "lmstudio",
    LMStudioSection,
    LMStudioBackend,
    substitutes=True,  # a model that is alone answers to any name (bug-tracker #366, #619)
    embeds_apart=True,  # a chat model loads a copy of its own for each embedding (#902)
    routes=ROUTES,
    lacks=MEDIA | {RESPONSE_TOKENS},
    words=KindWords(read={Dialect.CHAT: ("reasoning",)}),
    phrases=PHRASES,
)
