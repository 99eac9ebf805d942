"""
The kinds of servers that there are: every folder on the path of `dmap.backends` is one, and found by itself.
"""

import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from itertools import chain

from dmap import backends
from dmap.backends import Kind
from dmap.wire import routes
from dmap.wire.verdict import Phrases


def _found() -> Iterator[Kind]:
    for module in pkgutil.iter_modules(backends.__path__):
        if module.ispkg:
            yield importlib.import_module(f"{backends.__name__}.{module.name}").KIND


def _together(phrases: Iterable[Phrases]) -> Phrases:
    """A server may pass on what another one said, so the errors of all are judged by the phrases of all."""
    columns = zip(*((each.own_faults, each.too_long, each.no_path) for each in phrases), strict=True)
    return Phrases(*(tuple(chain.from_iterable(column)) for column in columns))


KINDS = {kind.name: kind for kind in _found()}
"""Every kind, by the name that the section `backends` has for it."""

ROUTES = routes.ROUTES | {route.path: route for kind in KINDS.values() for route in kind.routes}
"""Every inference route: the common ones, and those that only some kinds have."""

PHRASES = _together(kind.phrases for kind in KINDS.values())
"""How errors of servers begin, whatever their kind."""


def kinds_that_pass_on() -> list[str]:
    """Return the names of the kinds whose servers get what dmap does not know."""
    return [kind.name for kind in KINDS.values() if kind.passes_on]


def kinds_with(path: str) -> list[str]:
    """Return the names of the kinds that have the inference route *path*."""
    return [kind.name for kind in KINDS.values() if kind.has(path)]
