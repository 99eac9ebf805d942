"""
Nodes: other dmaps, each beside its own devices, for which this one is a front.

A node has a queue of its own, and tells twice a second how it stands.  `dmap.wire.hop` and `dmap.wire.view`
have what front and node say.
"""

from dmap.backends.kind import Kind
from dmap.backends.node.backend import NodeBackend
from dmap.backends.node.section import NodeSection
from dmap.wire.dialects import Dialect
from dmap.wire.parameters import PARAMETERS
from dmap.wire.routes import KindWords

_SPOKEN = (Dialect.CHAT, Dialect.RESPONSES, Dialect.MESSAGES)


def _all_words(dialect: Dialect) -> tuple[str, ...]:
    """Return every word that *dialect* lacks: a node translates itself, and gets what its client wrote."""
    own = {word for words in dialect.words.values() for word in words}
    return tuple(word for word, name in PARAMETERS.items() if name in dialect.words and word not in own)


KIND = Kind(
    "node",
    NodeSection,
    NodeBackend,
    forwards=True,
    ends_by_finish=True,
    words=KindWords(read={each: _all_words(each) for each in _SPOKEN}),
)
