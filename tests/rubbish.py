"""
What a fuzzing campaign sends: requests from well-formed to noise, as the bytes of one connection each.

Hypothesis makes the values and, by their schemas, the orders of the admin API; a seeded generator puts them
into requests, for Hypothesis alone would repeat itself and take 25 ms for each.  How they are sent and what
may come of them is in `fuzzing`.
"""

import json
import random
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from dmap.kinds import ROUTES
from dmap.web.admin.orders import DeviceOrder, ModelOrder
from dmap.wire.dialects import Dialect
from tests.lmstudio_world import SPECS
from tests.rubbish_words import (
    BEND,
    BREAKS,
    CAMELS,
    CHUNKS,
    CONTENTS,
    ENCODINGS,
    FORM_BREAKS,
    FRAMINGS,
    GPUS,
    HOSTS,
    KINDS,
    LINES,
    METHODS,
    NOISE,
    PARAMETERS,
    PARTS,
    QUERIES,
)

__all__ = ["Ask", "requests"]

ORDERS: dict[str, type[ModelOrder] | type[DeviceOrder] | None] = {
    "/admin/models/load": ModelOrder,
    "/admin/models/unload": ModelOrder,
    "/admin/models/activate": ModelOrder,
    "/admin/drain": DeviceOrder,
    "/admin/resume": DeviceOrder,
    "/admin/reload": None,
    "/admin/queue/r1/cancel": None,
    "/admin/queue/r2/cancel": None,
}
LOOKS = (
    *("/v1/models", "/v1/models/m", "/api/v0/models", "/api/v1/models", "/health", "/ready", "/metrics"),
    *("/admin/models", "/admin/queue"),
    *("/debug/stream", "/debug/status", "/debug/metrics", "/debug/captures", "/debug/logs/m"),
)
OTHERS = ("/", "/v1", "/api/tags", "/api/v1/models/load", "/slots", "/favicon.ico", "/.env", "/admin", "*")
MODELS = ("m", "tiny", "studio/m", *(spec.key for spec in SPECS))
NAMED = (*MODELS, "nobody", "", "m@q4")
PATHS = (*ROUTES, *ROUTES, *ROUTES, *ORDERS, *ORDERS, *ORDERS, *LOOKS, *LOOKS, *OTHERS)
VALUES = 200
"""How many values Hypothesis makes of each kind."""
KEYS = ("sk-all",) * 9 + ("sk-inf", "sk-few", "sk-wrong", "sk-adm")

junk = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.sampled_from([0, -1, 1, 2**31, 2**63, 2**64, 10**400, -(10**30)]),
        st.floats(),
        st.text(max_size=20),
        st.sampled_from(
            ["", "\x00", "\ud800", "\u017ftream", "../..", "'; --", "x" * 5000, "http://127.0.0.1"]
        ),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
"""Any JSON value, and some that are none."""


@dataclass(frozen=True, slots=True)
class Ask:
    """
    What one connection sends, in *pieces*.

    *sane* when it is HTTP by the book, so that an answer is owed; *leave* tells how the client ends it, by
    `close`, `reset` or `half_close` without waiting, or by `wait`.  *keyed* chooses the proxy with keys, and
    *heads* tells for each sane request whether it is a HEAD, whose answer has no body.
    """

    pieces: tuple[bytes, ...]
    sane: bool
    leave: str
    keyed: bool
    heads: tuple[bool, ...] = ()


def requests(count: int, number: int = 0) -> list[Ask]:
    """Make *count* requests, the same ones for the same *number*."""
    rubbish = Rubbish(number)
    return [rubbish.ask() for _ in range(count)]


def values(strategy: st.SearchStrategy[Any], count: int, number: int) -> list[Any]:
    """Draw *count* values, the same ones for the same *number*."""
    drawn: list[Any] = []

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def draw(value: Any) -> None:
        drawn.append(value)

    draw()
    return drawn


# Orders of the admin API, by their schemas


def of_schema(schema: dict[str, Any], root: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that fit a JSON schema of *root*, as far as pydantic writes such schemas."""
    if "$ref" in schema:
        return of_schema(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "anyOf" in schema:
        return st.one_of([of_schema(one, root) for one in schema["anyOf"]])
    if "enum" in schema or "const" in schema:
        return st.sampled_from(schema.get("enum", [schema.get("const")]))
    match schema.get("type"):
        case "object":
            members = {name: of_schema(one, root) for name, one in schema.get("properties", {}).items()}
            return st.fixed_dictionaries({}, optional=members)
        case "array":
            return st.lists(of_schema(schema.get("items", {}), root), max_size=3)
        case "integer":
            return st.integers(max(schema.get("minimum", 0), 0), min(schema.get("maximum", 2**33), 2**33))
        case "number":
            return st.floats(schema.get("minimum", 0), schema.get("maximum", 9))
        case "boolean":
            return st.booleans()
        case "string":
            return st.text(max_size=12)
        case "null":
            return st.none()
    return junk


@dataclass(frozen=True, slots=True)
class _Whole:
    """One request by the book, apart from what is said in it."""

    line: str
    lines: tuple[str, ...]
    body: bytes

    def bytes(self, framing: str) -> bytes:
        head = "\r\n".join([self.line, *self.lines, framing.format(len(self.body)), "", ""])
        return head.encode("latin-1")


class Rubbish:
    """Makes requests; *number* is the seed of everything."""

    def __init__(self, number: int) -> None:
        self._rng = random.Random(number)
        self._junk = values(junk, VALUES, number)
        self._orders = {
            kind: values(of_schema(kind.model_json_schema(), kind.model_json_schema()), VALUES, number)
            for kind in (ModelOrder, DeviceOrder)
        }

    def ask(self) -> Ask:
        """One connection: mostly one request; some behind one another, some broken, some of who leaves."""
        rng, how = self._rng, self._rng.randrange(10)
        wholes = [self._whole() for _ in range(rng.randint(2, 4) if how == 2 else 1)]
        sent = b"".join(_sane(whole, in_chunks=self._seldom(5)) for whole in wholes)
        if how < 2:
            sent, wholes = self._broken(wholes[0], sent), []
        at = rng.choice([0, 0, 0, 10, 150, len(sent) - 1])
        pieces = (sent[:at], sent[at:]) if 0 < at < len(sent) else (sent,)
        leave = rng.choice(["wait"] * 17 + ["close", "reset", "half_close"])
        heads = tuple(whole.line.startswith("HEAD ") for whole in wholes)
        return Ask(pieces, how >= 2, leave, rng.random() < 0.5, heads)

    def _seldom(self, one_in: int) -> bool:
        return self._rng.randrange(one_in) == 0

    # Bodies

    def _asked(self, path: str) -> dict[str, Any]:
        """What a client of *path* sends, more or less."""
        rng = self._rng
        body: dict[str, Any] = {} if self._seldom(10) else {"model": rng.choice(NAMED)}
        if rng.random() < 0.5:
            body["stream"] = rng.random() < 0.5
        turns = [
            {"role": "user", "content": rng.choice(CONTENTS) if self._seldom(3) else "Hello"}
        ] * rng.randint(1, 3)
        if "completions" in path and "chat" not in path:
            body["prompt"] = rng.choice(["Hello", ["a", "b"], [1, 2, 3], "tide " * 3000])
        elif ROUTES[path].dialect is Dialect.RESPONSES or path == "/api/v1/chat" or "embeddings" in path:
            body["input"] = rng.choice(["Hello", turns, ["a", "b"]])
        else:
            body["messages"] = turns
        return self._bent(body) if self._seldom(3) else body | {"max_tokens": rng.randint(1, 9)}

    def _order(self, path: str) -> dict[str, Any]:
        """A body for *path* of the admin API: mostly with what its schema has, and known names."""
        rng, kind = self._rng, ORDERS[path]
        order: dict[str, Any] = dict(rng.choice(self._orders[kind])) if kind is not None else {}
        if kind is ModelOrder:
            order["model_key"] = rng.choice(MODELS)
            if not self._seldom(3):  # else hardly any would load
                order["load_config"] = {"context_length": rng.choice([128, 4096, 8192])}
            elif rng.random() < 0.5:
                order["load_config"] = {"gpu": rng.choice(GPUS)}
        elif kind is DeviceOrder:
            order["device"] = rng.choice(["gpu0", None, "nowhere"])
        if rng.random() < 0.5:
            order = {CAMELS.get(name, name): value for name, value in order.items()}
        return self._bent(order) if self._seldom(4) else order

    def _bent(self, body: dict[str, Any]) -> dict[str, Any]:
        """*body* with members replaced, taken out, or put in."""
        body = dict(body)
        for _ in range(self._rng.randint(1, 3)):
            name = self._rng.choice([*body, *PARAMETERS])
            if self._seldom(3):
                body.pop(name, None)
            else:
                body[name] = self._rng.choice(self._junk)
        return body

    def _text(self, body: Any) -> bytes:
        """*body* as JSON, at times as something close to it."""
        text = json.dumps(body).encode()  # which writes NaN, infinities and lone surrogates, too
        return self._rng.choice(BREAKS)(text) if self._seldom(8) else text

    def _form(self) -> bytes:
        """A multipart form with the boundary `xx`, in order or nearly."""
        parts = self._rng.choices(PARTS, k=self._rng.randint(0, 4))
        body = b"".join(b"--xx\r\n%b\r\n" % part for part in parts) + b"--xx--\r\n"
        return self._rng.choice(FORM_BREAKS)(body) if self._seldom(3) else body

    def _body(self, path: str) -> tuple[bytes, str]:
        """A body for *path*, and its content type."""
        if path in ORDERS:
            return self._text(self._order(path)), "application/json"
        if path not in ROUTES:
            return b"", "application/json"
        if ROUTES[path].form and self._rng.random() < 0.5:
            return self._form(), self._rng.choice(KINDS[:3])
        return self._text(self._asked(path)), "application/json"

    # Requests

    def _whole(self) -> _Whole:
        """One request to any of the paths."""
        rng, path = self._rng, self._rng.choice(PATHS)
        body, kind = self._body(path)
        method = "POST" if path in ORDERS or path in ROUTES else "GET"
        method = rng.choice(METHODS) if self._seldom(12) else method
        path = rng.choice(BEND)(path) if self._seldom(12) else path
        path += rng.choice(QUERIES) if self._seldom(10) else ""
        lines = [f"Host: {rng.choice(HOSTS)}", f"Content-Type: {kind}"]
        if not self._seldom(10):
            lines.append(f"Authorization: Bearer {rng.choice(KEYS)}")
        more = rng.choices(LINES, k=rng.choice([0, 0, 1, 1, 2]))
        if not self._seldom(5):  # doubles are mostly no HTTP
            lines = [line for line in lines if _name(line) not in map(_name, more)]
        lines += more
        if self._seldom(20):
            encoding = rng.choice(sorted(ENCODINGS))
            body = ENCODINGS[encoding](body) if rng.random() < 0.7 else body
            lines.append(f"Content-Encoding: {encoding}")
        version = "1.0" if self._seldom(10) else "1.1"
        return _Whole(f"{method} {path} HTTP/{version}", tuple(lines), body)

    def _broken(self, whole: _Whole, sent: bytes) -> bytes:
        """Bytes that are not quite requests, made of *whole*, which would be *sent* if it were one."""
        rng = self._rng
        match rng.randrange(6):
            case 0:
                return sent[: rng.randint(1, len(sent))]
            case 1:
                return whole.bytes(rng.choice(FRAMINGS)) + whole.body
            case 2:
                return whole.bytes("Transfer-Encoding: chunked") + rng.choice(CHUNKS)
            case 3:
                at = rng.randint(0, 300)
                return sent[:at] + rng.randbytes(rng.randint(1, 4)) + sent[at + rng.randint(0, 2) :]
            case 4:
                return rng.choice(NOISE) + rng.choice([b"", sent])
        return rng.randbytes(rng.randint(1, 200))


def _name(line: str) -> str:
    return line.partition(":")[0].lower()


def _sane(whole: _Whole, *, in_chunks: bool) -> bytes:
    """*whole* with its true length, or in chunks."""
    if not in_chunks or whole.line.endswith("1.0"):
        return whole.bytes("Content-Length: {}") + whole.body
    size = max(1, len(whole.body) // 3)
    pieces = [whole.body[at : at + size] for at in range(0, len(whole.body), size)]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return whole.bytes("Transfer-Encoding: chunked") + framed + b"0\r\n\r\n"
