"""
Models that are commands: whatever program serves one, dmap starts it and ends it.

llama.cpp's server, vLLM, SGLang, a container, a script.  What it answers to, and what it gives, is learned
from the server itself once it runs.
"""

from dmap.backends.compatible import WORDS
from dmap.backends.kind import Kind
from dmap.backends.process.backend import ProcessBackend
from dmap.backends.process.section import ProcessSection

KIND = Kind(
    "process",
    ProcessSection,
    ProcessBackend,
    ends_by_finish=True,
    words=WORDS,
    tokenizes_at="/tokenize",
)
