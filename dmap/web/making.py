"""
What stands for all that an answer is made with beside its request: model, file, settings, server.

Two answers to one request may stand for each other only if these agree.  `wire.hop` says how a node tells its
front; `wire.repeat` has the request's part.
"""

import hashlib
from collections.abc import Mapping, Sequence

from dmap import __version__
from dmap.access import Client
from dmap.backends import Backend, Engine
from dmap.catalog import Catalog
from dmap.config import Config
from dmap.errors import DmapError
from dmap.models import Route
from dmap.owner import own_name


class Making:
    """
    Tells what answers are made with at *backends*, as *config* has them.

    *nodes* are those that say it themselves, *engines* the programs of this installation, by their backends.
    *catalog* knows the models.
    """

    def __init__(
        self,
        config: Config,
        backends: Mapping[str, Backend],
        nodes: Mapping[str, Backend],
        engines: Mapping[str, Engine],
        catalog: Catalog,
    ) -> None:
        self._backends, self._nodes, self._catalog = backends, nodes, catalog
        # Two hosts may each have another server at one URL, and another file at one path.
        here = f"{__version__} {own_name()}"
        self._servers = {
            name: _digest(f"{here} {section.lasting!r} {engines[name].name if name in engines else ''}")
            for name, section in config.backends.items()
            if name not in nodes
        }

    def of(self, routes: Sequence[Route]) -> str:
        """
        Return what stands for the making of an answer that any of *routes* may give; empty if nobody knows.

        Copies of a model are one model to clients, so the answer of one will do for all.
        """
        parts = [self._of(route) for route in routes]
        whole = "".join(part for part in parts if part is not None)
        return "" if None in parts else _digest(whole)

    def here(self, routes: Sequence[Route]) -> str:
        """Return the same for those of *routes* that are at this box, as a node tells it."""
        own = [route for route in routes if route.key.backend not in self._nodes]
        return self.of(own) if own else ""

    def now(self, model: str | None, client: Client, *, at_node: bool = False) -> str:
        """
        Return what stands for the making of an answer to *client* of *model* now; empty if nobody knows.

        *at_node* this is for a front, to which only copies at this box count.
        """
        try:
            routes = self._catalog.resolve(model, client, or_fallback=not at_node)
        except DmapError:  # it was taken away meanwhile
            return ""
        return self.here(routes) if at_node else self.of(routes)

    def _of(self, route: Route) -> str | None:
        backend, model = route.key
        made_of, server = self._backends[backend].made_of(model), self._servers.get(backend)
        if made_of is None:
            return None
        told = (backend, model, server, made_of, route.load, route.defaults, route.force)
        return repr((*told, sorted(route.strip), route.served_model_name))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:32]
