"""What a kind of server is: plain data, and the factory of its backends."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dmap.backends.base import Backend
from dmap.backends.sections import BackendSection
from dmap.wire.routes import ROUTES, InferenceRoute, KindWords, Wording, wording
from dmap.wire.verdict import Phrases


class EngineUnusable(Exception):
    """The engine of a backend cannot run here; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Engine:
    """
    The program of dmap's own installation that computes for a backend.

    *name* has its version.  *devices* are those that it would use, each with its memory, and *on_gpu* tells
    whether these are GPUs; if not, *hint* is what a driver wrote.  With *trouble* it did not tell.
    """

    name: str
    devices: tuple[str, ...] = ()
    on_gpu: bool = False
    hint: str | None = None
    trouble: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """
    One kind of server.

    *make* takes a backend's name, its section and the seconds that a connection may take.  *look* takes its
    section and asks the engine of this installation; it raises `EngineUnusable`.  It is None where servers
    are programs of their own.

    *substitutes*: such a server may answer with another model than the one that was asked for.  An answer
    that bears another model's name is then refused.  Other servers merely use their own names for a model.
    *ends_by_finish*: a stream may end with a `finish_reason` instead of `[DONE]`.
    *embeds_apart*: models are made either for embeddings or for everything else.

    *forwards*: such a server is another dmap, which has a queue of its own and knows for whom we ask.
    *passes_on*: what dmap does not know below /v1 is passed on to such a server.

    *routes* are its own inference routes.  *lacks* holds the paths of those common ones that it does not
    have, so that no model is loaded to find that out.  *words* is what it calls parameters, *phrases* how its
    errors begin.

    *counts* maps a route to the path that takes the same body and tells how many tokens its prompt has.
    Elsewhere a prompt is sent to *tokenizes_at*; with None such a server cannot count.
    """

    name: str
    section: type[BackendSection]
    make: Callable[[str, Any, float], Backend]
    look: Callable[[Any], Awaitable[Engine]] | None = None
    substitutes: bool = False
    ends_by_finish: bool = False
    embeds_apart: bool = False
    forwards: bool = False
    passes_on: bool = False
    routes: tuple[InferenceRoute, ...] = ()
    lacks: frozenset[str] = frozenset()
    words: KindWords = KindWords()
    phrases: Phrases = Phrases()
    counts: Mapping[str, str] = field(default_factory=dict)
    tokenizes_at: str | None = None

    def has(self, path: str) -> bool:
        """Tell whether such a server has the inference route *path*; one that forwards may have any."""
        if self.forwards:
            return True
        is_common = path in ROUTES and path not in self.lacks
        return is_common or any(route.path == path for route in self.routes)

    def wording(self, route: InferenceRoute) -> Wording:
        """Return what *route* calls the parameters there."""
        return wording(route, self.words)
