"""
How this dmap stands, for fronts: what would wait how long at which gate, and which models there are.

A look costs as much as an estimate or two, so it is kept for `FRESH_S`, whoever asks.  What only other boxes
have is not told: a request makes one hop.  `wire.view` has the form.
"""

import asyncio
import secrets
from collections.abc import Callable, Iterable, Mapping

from dmap.access import Client
from dmap.catalog import Shown
from dmap.gate import Gate
from dmap.models import ModelKey
from dmap.wire.view import WIRE, At, Line, Listed, NodeView, SeenGate, tag_of

FRESH_S = 0.25
LISTS = 64
"""So many lists are kept, one for each set of models that keys of fronts may use."""
_ANY = "*"
"""The key of all models of a gate without a device."""


class Views:
    """
    The views of one dmap, whose *gates* have the names that a view has.

    *shown* returns the models that a client may use, *gate_of* the gate of one of them: None for what is not
    answered here, "" for what is answered nowhere just now.
    """

    def __init__(
        self,
        gates: Mapping[str, Gate],
        shown: Callable[[Client], Iterable[Shown]],
        gate_of: Callable[[Shown], str | None],
    ) -> None:
        self._gates, self._shown, self._gate_of = gates, shown, gate_of
        self._run, self._seq = secrets.token_hex(8), 0
        self._looked_at, self._seen = -FRESH_S, dict[str, SeenGate]()
        self._lists = dict[tuple[str, ...], tuple[list[Listed], str]]()

    def of(self, client: Client, known: str) -> NodeView:
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
        return NodeView(WIRE, self._run, self._seq, self._seen, tag, None if tag == known else models)

    def _look(self, now: float) -> None:
        self._looked_at, self._seq = now, self._seq + 1
        self._seen = {name: _seen(gate) for name, gate in self._gates.items()}
        self._lists.clear()

    def _listed(self, client: Client) -> list[Listed]:
        """List the models that *client* may use and that are answered here, each once, with its names."""
        found: dict[str, Listed] = {}
        for shown in self._shown(client):
            if (gate := self._gate_of(shown)) is None:
                continue
            info = shown.entry.info
            one = Listed(shown.entry.name, [], [], shown.context_length, info.embedding, info.vision)
            one = found.setdefault(one.id, one)
            if shown.is_alias:
                one.names.append(shown.name)
            elif gate:
                one.at.append(self._at(shown, gate))
        return list(found.values())

    def _at(self, shown: Shown, name: str) -> At:
        gate, key = self._gates[name], shown.entry.key
        if shown.route.device is None:
            return At(name, _ANY, 0.0)
        return At(name, str(key), float(f"{gate.view.load_s(key):.2g}"))


def _seen(gate: Gate) -> SeenGate:
    view = gate.view.of_newcomers()
    lines = {
        str(key) if isinstance(key, ModelKey) else _ANY: Line(
            round(line.wait_s, 2), round(line.answer_s, 2), line.parallel, line.resident
        )
        for key, line in view.models.items()
    }
    return SeenGate(round(view.cold_s, 2), view.drained or gate.drained, lines)
