"""
How a node stands, as it tells fronts (`GET /node/view`): its gates, and which models it has.  Pure.

A front asks twice a second, so the list of models, which is long and seldom changes, comes only with another
`models_tag` than the front knows.  Models that are neither resident nor waited for have no line: each waits
for its gate's `cold_s` and its own load.  Unknown members are passed over: a front and a node may be of
different releases.
"""

import hashlib
from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta

WIRE = 1
"""
The version of what front and node say.  What one version adds, the one before passes over, and what it drops
is still said for one version more: so neighbours understand each other, and boxes can be upgraded in turn.
"""
MOST_MODELS = 2500
"""That a node may list; the same bound holds for any server."""
LONGEST_NAME = 512
Text = Annotated[str, Meta(max_length=1024)]
Tag = Annotated[str, Meta(pattern="^[0-9a-f]{1,64}$")]
"""It goes back into the address that is asked next."""


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    A model that is *resident* at a gate, or waited for, or whose last load failed.

    An answer to one more request begins in *wait_s* and takes *answer_s*; *parallel* are given at once, None
    for any number.
    """

    wait_s: float
    answer_s: float
    parallel: int | None = None
    resident: bool = False


class SeenGate(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    A device of the node, or a server; a load of a model without a line begins after *cold_s*.

    The answers of such a model take *answer_s*, and *parallel* are given at once.
    """

    cold_s: float = 0.0
    answer_s: float = 0.0
    parallel: int | None = None
    drained: bool = False
    lines: dict[str, Line] = {}


class At(msgspec.Struct, frozen=True, array_like=True):
    """Where a model can be answered: at this gate, under this key of its lines, after a load of *load_s*."""

    gate: str
    key: str
    load_s: float


class Listed(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    A model under its *id*, with its other *names*.  Where nothing answers that has it, *at* is empty.

    *kind* is that of its server; by its *file*, *quantization* and *size* it is told from others of its name.
    *made_with* is another wherever its answers may come out otherwise; empty where nobody can tell.
    """

    id: str
    at: Annotated[list[At], Meta(max_length=256)]
    names: list[str] = []
    context_length: int | None = None
    embedding: bool = False
    vision: bool | None = None
    kind: Text = ""
    file: Text = ""
    quantization: Text = ""
    size: int | None = None
    made_with: Text = ""


class NodeView(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    One node at one moment: its *run* is another after each start, and *seq* grows within one.

    *models* is None where the front has the list with this *models_tag*.  *between* tells that an answer in
    between (1xx) was sent before this.
    """

    wire: int
    run: str
    seq: int
    gates: Annotated[dict[str, SeenGate], Meta(max_length=1024)]
    models_tag: Tag
    models: list[Listed] | None = None
    between: bool = False


_decode = msgspec.json.Decoder(NodeView).decode
_encode = msgspec.json.Encoder().encode


def written(view: NodeView) -> bytes:
    """Return *view* as it is sent."""
    return _encode(view)


def read(body: bytes) -> NodeView:
    """Return the view in *body*.  Raises ValueError for what is none, or none for this front."""
    try:
        view = _decode(body)
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise ValueError(f"no view of a node: {exc}") from exc
    if abs(view.wire - WIRE) > 1:
        which = "an older dmap" if view.wire < WIRE else "a newer dmap"
        said = f"it speaks version {view.wire} of what nodes say, and this front {WIRE}"
        raise ValueError(f"it is {which}, more than one release away: {said}")
    names = [name for one in view.models or () for name in (one.id, *one.names)]
    if len(names) > MOST_MODELS or not all(0 < len(name) <= LONGEST_NAME for name in names):
        raise ValueError(f"it lists over {MOST_MODELS} names, or one that is none")
    return view


def tag_of(models: Iterable[Listed]) -> str:
    """Return what stands for the list of *models*: two lists have one tag only if they are equal."""
    return hashlib.sha256(_encode(list(models))).hexdigest()[:16]


def line_of(view: NodeView, model: Listed) -> tuple[Line, bool]:
    """Return what one more request for *model* meets at the best of its gates, and whether that serves."""
    lines = [(_at(view, at), not view.gates[at.gate].drained) for at in model.at if at.gate in view.gates]
    nowhere = Line(0.0, 0.0), False
    return min(lines, key=lambda found: (not found[1], found[0].wait_s), default=nowhere)


def _at(view: NodeView, at: At) -> Line:
    gate = view.gates[at.gate]
    return gate.lines.get(at.key) or Line(gate.cold_s + at.load_s, gate.answer_s, gate.parallel)
