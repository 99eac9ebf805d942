"""The embedded engine: GGUF files of one folder, each served by a llama.cpp child process."""

from dmap.backends.gguf.backend import GGUFBackend
from dmap.backends.gguf.look import look
from dmap.backends.gguf.section import GGUFSection
from dmap.backends.kind import Kind
from dmap.wire.dialects import Dialect, same
from dmap.wire.routes import MEDIA, KindWords

KIND = Kind(
    "gguf",
    GGUFSection,
    lambda name, section, connect_s: GGUFBackend(name, section),
    look=look,
    lacks=MEDIA,  # llama.cpp's server, as dmap starts it
    words=KindWords(
        # llama.cpp makes a chat request of it, with all other fields as they are.
        sent={
            Dialect.RESPONSES: same(
                "top_k", "min_p", "seed", "stop", "repeat_penalty", "presence_penalty", "frequency_penalty"
            )
        },
        read={Dialect.CHAT: ("max_completion_tokens", "n_predict", "reasoning")},
    ),
    counts={
        "/v1/chat/completions": "/v1/chat/completions/input_tokens",
        "/v1/responses": "/v1/responses/input_tokens",
        "/v1/messages": "/v1/messages/count_tokens",
    },
    tokenizes_at="/tokenize",
)
