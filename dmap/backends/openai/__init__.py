"""
Servers that speak OpenAI's API and whose models dmap cannot switch.

Any vLLM, llama-server or LM Studio that its owner runs alone, or another dmap.
"""

from dmap.backends.compatible import WORDS
from dmap.backends.kind import Kind
from dmap.backends.openai.backend import OpenAIBackend
from dmap.backends.openai.section import OpenAISection

KIND = Kind(
    "openai",
    OpenAISection,
    OpenAIBackend,
    ends_by_finish=True,
    passes_on=True,
    words=WORDS,
    tokenizes_at="/tokenize",
)
