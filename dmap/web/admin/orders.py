"""The bodies of the admin API: what they may say, in camelCase or snake_case, and all their problems."""

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from dmap.errors import BodyTooLarge, Invalid
from dmap.logfmt import logfmt
from dmap.sections import Defaults, Load, in_snake
from dmap.sections.models import SAME_OPTIONS, SAME_PARAMETERS
from dmap.web import upload
from dmap.web.proxy import Proxy
from dmap.web.visit import Visit

_log = logging.getLogger("dmap.admin")

MAX_ORDER_BYTES = 64 * 1024

_JSON = TypeAdapter[Any](Any)
_OTHERS = {"model": "model_key", **SAME_PARAMETERS, **SAME_OPTIONS}
"""Other words for our fields, as `Order`, `Defaults` and `Load` take them."""


class Order(BaseModel):
    """
    One order, by itself without fields.

    It takes no unknown fields: a client must not believe that dmap did what one says.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _spelled(cls, values: Any) -> Any:
        return in_snake(values, {"model": "model_key"})


class ModelOrder(Order):
    """
    What to do with the model called *model_key*.

    *default_inference* are the defaults of its requests, *load_config* the options of its load.  One that is
    not given stays as it was set before.  *activate* tells whether a load makes the model the active one;
    None means yes, unless the model makes embeddings.
    """

    model_key: str = Field(min_length=1, max_length=256)
    activate: bool | None = None
    default_inference: Defaults | None = None
    load_config: Load | None = None


class DeviceOrder(Order):
    """Which *device* is meant, None for all.  *unload* takes out what is resident there once it is idle."""

    device: str | None = None
    unload: bool = False


T = TypeVar("T", bound=Order)


async def read_order(proxy: Proxy, visit: Visit, kind: type[T]) -> T:
    """
    Read the body as an order of this *kind*; no body is an empty one.

    Raises `Invalid` with every problem, also for keys that are there twice, and what `upload.read` raises.
    """
    body = await upload.read(proxy.visits, visit)
    if len(body) > MAX_ORDER_BYTES:
        raise BodyTooLarge(f"an order is at most {MAX_ORDER_BYTES} bytes")
    try:
        order = kind.model_validate_json(body or b"{}")
    except ValidationError as exc:
        raise Invalid(_problems(exc.errors(), body)) from exc
    # pydantic takes the last of two equal keys.  Numbers are not converted: Python bounds their digits.
    json.loads(body or b"{}", object_pairs_hook=_once, parse_int=str)
    return order


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dict of an object's *pairs*.  Raises `Invalid` if a key is there twice."""
    counts = Counter(name for name, _ in pairs)
    if len(counts) < len(pairs):
        raise Invalid([f"{name[:64]}: is there twice" for name, count in counts.items() if count > 1])
    return dict(pairs)


def _problems(errors: Sequence[Any], body: bytes) -> list[str]:
    """List what is wrong, each with its place as *body* spells it.  What is no JSON has no places."""
    has_places = any(error["loc"] for error in errors)
    order = _JSON.validate_json(body or b"{}") if has_places else None
    return [_problem(error, order) for error in errors]


def _problem(error: Any, order: Any) -> str:
    path = ".".join(_as_written(error["loc"], order)) or "the body"
    is_unknown = error["type"] == "extra_forbidden"
    return f"{path}: {'no such field' if is_unknown else error['msg'].removeprefix('Value error, ')}"


def _as_written(place: Iterable[str | int], order: Any) -> Iterator[str]:
    """Yield the steps to *place*, which is in our spelling, in that of the *order*."""
    for step in place:
        fields = order if isinstance(order, dict) else {}
        as_it_is = "gpu.layers" if step == "gpu_layers" else str(step)  # `Load` takes `gpu` apart
        written = (name for name in fields if in_snake({name: None}, _OTHERS) == {step: None})
        name = next(written, as_it_is)
        yield name
        order = fields.get(name)


def note(visit: Visit, action: str, **fields: Any) -> None:
    """Log one line for each change, with the client that made it."""
    _log.info(logfmt("admin", {"action": action, "client": visit.client.name, **fields}))
