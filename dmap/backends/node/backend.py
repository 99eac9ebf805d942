"""
One node, as this front knows it: what it said last of itself, and since when it has said nothing.

A view is a hint.  One that is old or wrong costs a wait, and nothing else: what is truly free there is known
by its own gates alone.
"""

import asyncio
import functools
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dmap.backends.ask import Unheard, ask
from dmap.backends.base import Target, ignore
from dmap.backends.compatible import LIST_BYTES
from dmap.backends.node.section import NodeSection
from dmap.errors import BackendDown
from dmap.logfmt import Line
from dmap.models import ModelInfo
from dmap.placement import Place, Standing
from dmap.tasks import end, spawn
from dmap.wire.view import Line as SeenLine
from dmap.wire.view import Listed, NodeView, line_of, read

VIEW_S = 0.5
"""So often a node is asked how it stands."""
ANSWER_S = 1.0
DOUBTFUL_S = 1.5
"""A node that has said nothing for so long comes after all others."""
MISSES = 3
"""
A node that has missed so many times in a row, which takes 3 s, takes no request at all.

Time alone would tell of every node that it is gone, after this process has stood still.
"""
UNHEARD_S = 30.0
"""One that told nothing of a request comes after all others for so long, however well it stands."""
MISSING_S = 0.5
"""A node that is missed is asked more often and given less time, so that 1 s after its return it is known."""

_UNASKED = "it has not been asked yet"

_log = logging.getLogger(__name__)


class NodeBackend:
    """The node that *section* describes; a connection for a request may take *connect_s*."""

    def __init__(self, name: str, section: NodeSection, connect_s: float) -> None:
        self.name, self.url = name, section.url
        self.report: Callable[[Sequence[ModelInfo] | BackendDown], None] = ignore
        self._server = Target.of(section.url, section.api_key, str(section.ca) if section.ca else None)
        self._view: NodeView | None = None
        self._models: dict[str, Listed] = {}
        self._lines: dict[str, tuple[SeenLine, bool]] = {}
        self._infos: list[ModelInfo] = []
        self._tag = ""
        self._sent, self._unheard = Counter[str](), dict[str, str]()
        self._seen_at, self._missed = 0.0, 0
        self._trouble: str | None = _UNASKED
        self._doubted_at = -UNHEARD_S
        self.tells = True
        self.own_run = ""
        self._watching: asyncio.Task[None] | None = None

    # What the inventory asks

    async def models(self) -> Sequence[ModelInfo]:
        """
        Ask how it stands; from the first time on it is asked again and again, until `close`.

        Raises `BackendDown` when it does not answer as a node.
        """
        await self._ask()
        while self._trouble == _UNASKED:  # it was only late; `MISSES` times are a trouble
            await self._ask()
        if self._watching is None:
            self._watching = spawn(self._watch, f"view {self.name}")
        self._check()
        return self._infos

    def target(self, model: str, path: str) -> Target:
        """Tell where a request for our route *path* goes.  Raises `BackendDown` if it is gone."""
        self._check()
        return self._server.at(path)

    async def confirm(self) -> None:
        """Check nothing: what is loaded there is the node's business."""

    def means(self, model: str, named: str) -> bool:
        """Take any name: the node has compared it."""
        return True

    def made_of(self, model: str) -> str | None:
        """Return what the last view has; an older node does not tell."""
        listed = self._models.get(model)
        return (listed.made_with or None) if listed is not None else None

    async def close(self) -> None:
        """Ask no more."""
        await end(self._watching)

    # What a request asks

    def place(self, model: str, now: float, in_flight: int, coming: int) -> Place:
        """Return what a request for *model* would meet here, by the last view."""
        seen = self._lines.get(model)
        if seen is None:
            return Place(self.name, None, in_flight=in_flight, standing=Standing.LAST)
        line, serves = seen
        is_old, is_doubted = now - self._seen_at >= DOUBTFUL_S, now - self._doubted_at < UNHEARD_S
        standing = Standing.DOUBTFUL if is_old or is_doubted else Standing.SOUND
        return Place(
            self.name,
            None if is_old else line.wait_s,
            line.resident,
            self._sent.get(model, 0) + coming,
            line.answer_s,
            line.parallel,
            in_flight,
            standing if serves else Standing.LAST,
        )

    def sent(self, model: str, request: str) -> None:
        """
        Count a request that goes here, until a view has it.

        Its body may take longer than a view, so none has it that was asked for before the node told of it.
        """
        self._sent[model] += 1
        if self.tells:
            self._unheard[request] = model

    def heard(self, request: str) -> None:
        """Hear that it has told of that request, or that this is over."""
        self._unheard.pop(request, None)

    def doubt(self) -> None:
        """Hear that it told nothing of a request for long: others are asked first for a while."""
        self._doubted_at = asyncio.get_running_loop().time()
        silent = "it told nothing of a request for long; other nodes are asked first for a while"
        _log.warning(Line("node_silent", {"node": self.name, "reason": silent, "for_s": UNHEARD_S}))

    @property
    def _is_doubted(self) -> bool:
        return asyncio.get_running_loop().time() - self._doubted_at < UNHEARD_S

    @property
    def run(self) -> str:
        """Which life of which dmap the last view is of."""
        return self._view.run if self._view is not None else ""

    @property
    def standing(self) -> Mapping[str, Any]:
        """How it stands by the last view: its age, and for each gate what waits and is resident there."""
        gates = self._view.gates if self._view is not None else {}
        return {
            "view_age_s": round(self.age_s, 3) if self._view is not None else None,
            "trouble": self._trouble,
            "doubted": self._is_doubted,
            "tells_of_waits": self.tells,
            "gates": {
                name: {
                    "drained": gate.drained,
                    "cold_s": gate.cold_s,
                    "models": {
                        key: {"resident": line.resident, "wait_s": line.wait_s}
                        for key, line in gate.lines.items()
                    },
                }
                for name, gate in gates.items()
            },
        }

    @property
    def age_s(self) -> float:
        """How old the last view is, in seconds."""
        return asyncio.get_running_loop().time() - self._seen_at

    @property
    def _is_missing(self) -> bool:
        return self._trouble is not None or self.age_s >= DOUBTFUL_S

    # The view

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(MISSING_S / 2 if self._is_missing else VIEW_S)
            was, had = self._trouble, self._infos
            await self._ask()
            if self._trouble is not None and was is None:
                self.report(self._down())
            elif self._trouble is None and (was is not None or self._infos != had):
                self.report(self._infos)

    async def _ask(self) -> None:
        """Ask once.  What was sent meanwhile, or what it has not told of, counts as not seen yet."""
        sent = self._sent - Counter(self._unheard.values())
        target = self._server.at(f"/node/view?tag={self._tag}&between=1")
        within_s, heard = MISSING_S if self._is_missing else ANSWER_S, list[bool]()
        try:
            between = functools.partial(heard.append, True)
            status, body = await ask(target, within_s=within_s, most_bytes=LIST_BYTES, between=between)
            if status != 200:
                raise Unheard(_REFUSED.get(status, f"status {status} for /node/view"))
            view = read(body)
            self._take(view)
            self._note_way(tells=bool(heard) or not view.between)
            self._sent -= sent
        except (Unheard, ValueError, TimeoutError) as exc:
            self._miss(exc)

    def _note_way(self, *, tells: bool) -> None:
        """Note whether answers in between arrive; a node that sends none, of a version before, may do so."""
        if self.tells and not tells:
            lost = "something on the way drops answers in between (1xx): what waits there cannot go elsewhere"
            _log.warning(Line("node_untold", {"node": self.name, "url": self.url, "reason": lost}))
        self.tells = tells

    def _take(self, view: NodeView) -> None:
        if view.run == self.own_run:
            raise ValueError("it is this dmap itself; take it out of nodes")
        if self._view is not None and view.run == self._view.run and view.seq < self._view.seq:
            return
        if view.models is not None:
            self._models, self._tag = {one.id: one for one in view.models}, view.models_tag
        if self._view is not None and view.run != self._view.run:
            self._sent.clear()
        self._view, self._trouble, self._missed = view, None, 0
        self._lines = {name: line_of(view, one) for name, one in self._models.items()}
        self._infos = [_info(one, self._lines[name][0]) for name, one in self._models.items()]
        self._seen_at = asyncio.get_running_loop().time()

    def _miss(self, exc: Exception) -> None:
        """Note a view that did not come; one is no reason to give the node up, unless it refused."""
        reason = "no answer in time" if isinstance(exc, TimeoutError) else str(exc)
        self._missed += 1
        if isinstance(exc, Unheard | ValueError) or self._missed >= MISSES:
            self._trouble = reason
        _log.debug(Line("view_missed", {"node": self.name, "reason": reason}))

    def _check(self) -> None:
        if self._trouble is not None:
            raise self._down()

    def _down(self) -> BackendDown:
        return BackendDown(f"the node {self.name!r} does not answer: {self._trouble}", retry_after_s=2)


def _info(one: Listed, line: SeenLine) -> ModelInfo:
    return ModelInfo(
        one.id,
        resident=line.resident,
        context_length=one.context_length,
        embedding=one.embedding,
        vision=one.vision,
        file=one.file,
        kind=one.kind,
        names=tuple(one.names),
        v1={"quantization": one.quantization, "size_bytes": one.size} if one.kind else {},
    )


_REFUSED = {
    400: "it does not take what a front asks; a proxy before it may speak HTTP/1.0",
    401: "it refuses our key; see its access.keys",
    403: "it refuses us; see the scope 'front' of our key there, and its access.allow",
    404: "it is no dmap, or an older one",
}
