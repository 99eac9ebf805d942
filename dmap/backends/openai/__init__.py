"""
Servers that speak OpenAI's API and whose models dmap cannot switch.

Any vLLM, llama-server or LM Studio that its owner runs alone, or another dmap.
"""

from dmap.backends.kind import Kind
from dmap.backends.openai.backend import OpenAIBackend
from dmap.backends.openai.section import OpenAISection
from dmap.wire.dialects import Dialect
from dmap.wire.routes import KindWords

KIND = Kind(
    "openai",
    OpenAISection,
    OpenAIBackend,
    ends_by_finish=True,
    words=KindWords(
        # llama.cpp's word and vLLM's; both servers pass over a word they do not know.
        sent={Dialect.CHAT: {"repeat_penalty": ("repeat_penalty", "repetition_penalty")}},
        read={Dialect.CHAT: ("max_completion_tokens", "n_predict", "reasoning")},
    ),
    tokenizes_at="/tokenize",
)
