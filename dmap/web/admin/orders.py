"""The bodies of the admin API: what they may say, in camelCase or snake_case, and all their problems."""

import asyncio
import json
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

from pydantic import AliasChoices, Field, ValidationError

from dmap.config.words import meaning_of
from dmap.errors import BodyTooLarge, Invalid
from dmap.logfmt import Line
from dmap.models import Route
from dmap.sections import Defaults, Load, Spelled
from dmap.web import upload
from dmap.web.admin.words import Loader
from dmap.web.proxy import Proxy
from dmap.web.visit import Visit
from dmap.wire.parameters import camel

_log = logging.getLogger("dmap.admin")

MAX_ORDER_BYTES = 64 * 1024


class Order(Spelled):
    """
    One order, by itself without fields.

    It takes no unknown fields: a client must not believe that dmap did what one says.
    """


class ModelOrder(Order):
    """
    What to do with the model called *model_key*.

    *default_inference* are the defaults of its requests, *load_config* the options of its load.  One that is
    not given stays as it was set before.  *activate* tells whether a load makes the model the active one;
    None means yes, unless the model makes embeddings.
    """

    model_key: str = Field(
        min_length=1, max_length=256, validation_alias=AliasChoices("model_key", "modelKey", "model")
    )
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
        # Python's own decoder can tell that a key is there twice.
        order = json.loads(body.decode() or "{}", object_pairs_hook=_once)
    except (ValueError, RecursionError) as exc:
        raise Invalid([f"the body: not JSON: {exc}"]) from exc
    try:
        return kind.model_validate(order)
    except ValidationError as exc:
        raise Invalid([_problem(error, order) for error in exc.errors()]) from exc


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dict of an object's *pairs*.  Raises `Invalid` if a key is there twice."""
    counts = Counter(name for name, _ in pairs)
    if len(counts) < len(pairs):
        raise Invalid([f"{name[:64]}: is there twice" for name, count in counts.items() if count > 1])
    return dict(pairs)


def _problem(error: Any, order: Any) -> str:
    """
    Write one of pydantic's errors as `path: what is wrong`, the path as the *order* spells it.

    What is missing is spelled as its other fields are: in camelCase unless one of them is in snake_case.
    """
    path = ".".join(map(str, error["loc"])) or "the body"
    if error["type"] == "missing":
        path = path if any("_" in name for name in order) else camel(path)
        return f"{path}: is missing"
    if error["type"] == "extra_forbidden":
        return f"{path}: no such field, or a second spelling of one"
    if error["type"] == "model_type":
        return f"{path}: must be an object"
    return f"{path}: {meaning_of(error)}"


@asynccontextmanager
async def turn_of(proxy: Proxy, routes: Sequence[Route]) -> AsyncGenerator[None]:
    """
    Wait for the orders under way for any of *routes*, and keep others off them inside the context.

    An order for a model is one for all its copies, and one by an address for that alone.  All take the copies
    in one order, so that no two wait for each other.
    """
    async with AsyncExitStack() as stack:
        for key in sorted(route.key for route in routes):
            await stack.enter_async_context(proxy.turns.setdefault(key, asyncio.Lock()))
        yield


def note(visit: Visit, **fields: Any) -> None:
    """Log one line for each change, with the client that made it."""
    action = visit.record.path.rpartition("/")[2]
    who = {"client": visit.client.name, "id": visit.record.id}
    _log.info(Line("admin", {"action": action, **who, **fields}))


def loader_of(proxy: Proxy, route: Route) -> Loader:
    """Return who loads and unloads the model of *route* there."""
    if route.device is not None:
        return Loader.DMAP
    return Loader.NODE if route.key.backend in proxy.nodes else Loader.PERSON
