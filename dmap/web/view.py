"""
How this dmap stands, for fronts: what would wait how long at which gate, and which models there are.

A look costs as much as an estimate or two, so it is kept for `FRESH_S`, whoever asks.  What only other boxes
have is not told: a request makes one hop.  `wire.view` has the form.
"""

import asyncio
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence

from dmap.access import Client
from dmap.catalog import Shown
from dmap.gate import Gate
from dmap.models import ModelKey, Route
from dmap.wire.view import WIRE, At, Line, Listed, NodeView, SeenGate, tag_of

FRESH_S = 0.25
LISTS = 64
"""So many lists are kept, one for each set of models that keys of fronts may use."""
_ANY = "*"
"""The key of all models of a gate without a device."""


class Views:
    """
    The views of one dmap, whose *gates* have the names that a view has.

    *run* is another after each start.
    *shown* returns the models that a client may use, *places* the routes of one of them, of which *answers*
    tells whether one is answered here; *kind_of* returns the kind of a backend, and *made_with* what the
    answers of some routes are made with here.
    """

    def __init__(
        self,
        gates: Mapping[str, Gate],
        shown: Callable[[Client], Iterable[Shown]],
        places: Callable[[Shown], Sequence[Route]],
        answers: Callable[[Route], bool],
        kind_of: Callable[[str], str],
        made_with: Callable[[Sequence[Route]], str],
    ) -> None:
        self._gates, self._shown, self._places, self._kind_of = gates, shown, places, kind_of
        self._answers, self._made_with = answers, made_with
        self.run, self._seq = secrets.token_hex(8), 0
        self._looked_at, self._seen = -FRESH_S, dict[str, SeenGate]()
        self._lists = dict[tuple[str, ...], tuple[list[Listed], str]]()

    def of(self, client: Client, known: str, *, between: bool) -> NodeView:
        """Return the view for *client*, without the list of models if it knows that with the tag *known*."""
        now = asyncio.get_running_loop().time()
        if now - self._looked_at >= FRESH_S:
            self._look(now)
        if client.models not in self._lists:
            if len(self._lists) >= LISTS:
                self._lists.clear()
            models = self._listed(client)
            self._lists[client.models] = models, tag_of(models)
        models, tag = self._lists[client.models]
        return NodeView(WIRE, self.run, self._seq, self._seen, tag, None if tag == known else models, between)

    def _look(self, now: float) -> None:
        self._looked_at, self._seq = now, self._seq + 1
        self._seen = {name: _seen(gate) for name, gate in self._gates.items()}
        self._lists.clear()

    def _listed(self, client: Client) -> list[Listed]:
        """List the models that *client* may use and that are answered here, each once, with its names."""
        found: dict[str, Listed] = {}
        for shown in self._shown(client):
            if shown.entry.info.kind:
                continue  # another box's
            if shown.entry.name not in found:
                found[shown.entry.name] = self._list(shown)
            if shown.is_alias:
                found[shown.entry.name].names.append(shown.name)
        return list(found.values())

    def _list(self, shown: Shown) -> Listed:
        info, native, routes = shown.entry.info, shown.entry.info.v1, self._places(shown)
        quantization = native.get("quantization")
        if isinstance(quantization, dict):
            quantization = quantization.get("name")
        size = native.get("size_bytes")
        return Listed(
            shown.entry.name,
            [self._at(route) for route in routes if self._answers(route)],
            [],
            shown.context_length,
            info.embedding,
            info.vision,
            self._kind_of(shown.entry.key.backend),
            info.file.rpartition("/")[2],
            quantization if isinstance(quantization, str) else "",
            size if isinstance(size, int) else None,
            self._made_with(routes),
        )

    def _at(self, route: Route) -> At:
        if route.device is None:
            return At(f"backend {route.key.backend}", _ANY, 0.0)
        load_s = self._gates[route.device].view.load_s(route.key)
        return At(route.device, str(route.key), float(f"{load_s:.2g}"))


def _seen(gate: Gate) -> SeenGate:
    view = gate.view.of_newcomers()
    lines = {
        str(key) if isinstance(key, ModelKey) else _ANY: Line(
            round(line.wait_s, 2), round(line.answer_s, 2), line.parallel, line.resident
        )
        for key, line in view.models.items()
    }
    is_drained = view.drained or gate.drained
    return SeenGate(round(view.cold_s, 2), round(view.answer_s, 2), view.parallel, is_drained, lines)
