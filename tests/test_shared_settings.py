"""The active model and what is set for models, for several dmaps: over a real Redis, and without it."""

import asyncio
import re
from collections.abc import AsyncGenerator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dmap.daemon import listening
from dmap.state import Activation, Saved, StateFile
from tests.conftest import config_of
from tests.fakes import HERE_S, soon
from tests.programs import why_not
from tests.redis_server import RedisServer, redis_server

LACKS = why_not("redis-server")
pytestmark = pytest.mark.skipif(bool(LACKS), reason=LACKS)
PAGE = Path(__file__).parent.parent / "docs/redis.md"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncGenerator[RedisServer]:
    """Run a Redis."""
    async with redis_server(tmp_path) as made:
        yield made


def text_of(server: RedisServer, state: Path | None = None) -> str:
    """Return the configuration of one of several dmaps."""
    kept = f"state: {state}\n" if state is not None else ""
    models = "models: {one: {backend: a}, two: {backend: a}}\n"
    redis = f"redis: {{url: '{server.url}', timeout_ms: 1000}}\n"
    return f"backends: {{a: {{kind: openai, url: 'http://127.0.0.1:9'}}}}\n{models}{kept}{redis}"


@pytest.fixture
async def two(start: Any, server: RedisServer) -> list[Any]:
    """Run two dmaps that share a Redis."""
    return [await start(text_of(server)) for _ in range(2)]


async def order(proxy: Any, model: str, action: str = "activate", **fields: Any) -> tuple[int, Any]:
    """Give an order for *model*; return the status and the answer."""
    async with (
        aiohttp.ClientSession(proxy.url) as session,
        session.post(f"/admin/models/{action}", json={"model": model, **fields}) as answered,
    ):
        return answered.status, await answered.json()


def saved(proxy: Any) -> Saved:
    return proxy.proxy.saved


async def test_all_have_the_same_active_model(two: list[Any]) -> None:
    """What one dmap is told holds for the other one with its next beat."""
    one, other = two

    status, _ = await order(one, "one", defaultInference={"temperature": 0.5})

    await soon(lambda: saved(other).active == "one", HERE_S)
    assert status == 200
    assert saved(other).models == {"one": Activation({"temperature": 0.5})}
    assert other.proxy.catalog.active == "one"


async def test_orders_at_the_same_time_lose_nothing(two: list[Any]) -> None:
    """Of orders at both dmaps at once each is in effect, on both."""
    asked = [
        order(two[at % 2], name, defaultInference={"seed": at}) for at, name in enumerate(("one", "two"))
    ]

    statuses = [status for status, _ in await asyncio.gather(*asked)]

    await soon(lambda: saved(two[0]) == saved(two[1]), HERE_S)
    assert statuses == [200, 200]
    assert {name: dict(each.defaults) for name, each in saved(two[0]).models.items()} == {
        "one": {"seed": 0},
        "two": {"seed": 1},
    }


@pytest.mark.parametrize("action", ["load", "activate", "unload"])
async def test_without_redis_nothing_is_set(two: list[Any], server: RedisServer, action: str) -> None:
    """While Redis is away an order is refused, in OpenAI's shape, and the last copy holds."""
    await order(two[0], "one")
    await server.kill()
    await soon(lambda: not two[0].proxy.shared.is_up, HERE_S)

    status, told = await order(two[0], "two", action)

    assert (status, told["error"]["code"], told["src"]) == (503, "not_saved", "dmap")
    assert saved(two[0]).active == "one"


async def test_a_redis_that_lost_its_data_learns_it_again(two: list[Any], server: RedisServer) -> None:
    """A Redis that comes back empty gets the newest copy that a dmap has."""
    await order(two[0], "one")
    await order(two[0], "two")
    await server.kill()
    await soon(lambda: not two[0].proxy.shared.is_up, HERE_S)

    await server.start()

    await soon(lambda: server("HGET", "dmap:saved", "version") == "2", HERE_S)
    await soon(lambda: two[1].proxy.shared.is_up and saved(two[1]).active == "two", HERE_S)


async def test_what_was_set_without_redis_comes_along(server: RedisServer, tmp_path: Path) -> None:
    """The first dmap that gets a Redis brings along what was set there; the next one takes it over."""
    await StateFile(tmp_path / "one.json").write(Saved(active="one"))

    async with (
        listening(at_any_port(text_of(server, tmp_path / "one.json"))) as one,
        listening(at_any_port(text_of(server, tmp_path / "two.json"))) as two,
    ):
        await soon(lambda: two.proxy.saved.active == one.proxy.saved.active == "one", HERE_S)


async def test_the_last_copy_is_on_the_disk(two: list[Any], server: RedisServer, tmp_path: Path) -> None:
    """A dmap that starts while Redis is away goes by the last copy that it had."""
    state = tmp_path / "state.json"
    await order(two[0], "two")
    async with listening(at_any_port(text_of(server, state))):
        await soon(lambda: StateFile(state).read().active == "two", HERE_S)
    await server.kill()

    async with listening(at_any_port(text_of(server, state))) as later:
        assert (later.proxy.saved.active, later.proxy.saved.shared_version) == ("two", 1)


async def test_what_nobody_understands_changes_nothing(
    two: list[Any], server: RedisServer, caplog: Any
) -> None:
    """A copy in Redis that is none is told in the log, and the one that is here holds."""
    await order(two[0], "one")
    await soon(lambda: saved(two[1]).active == "one", HERE_S)

    server("HSET", "dmap:saved", "version", 7, "json", "{")

    await soon(lambda: saved(two[1]).shared_version == 7, HERE_S)
    assert saved(two[1]).active == "one"
    assert any("shared_settings_not_understood" in line for line in caplog.messages)


@pytest.mark.parametrize("version", ["abc", "-3", "1.5", "1e300", "9" * 40, ""])
async def test_a_version_that_is_none(two: list[Any], server: RedisServer, caplog: Any, version: str) -> None:
    """What somebody else has written as a version is replaced by the copy that the dmaps have."""
    await order(two[0], "one")
    await soon(lambda: saved(two[1]).active == "one", HERE_S)

    server("HSET", "dmap:saved", "version", version)

    await soon(lambda: server("HGET", "dmap:saved", "version") == "1", HERE_S)
    assert all(each.proxy.shared.is_up for each in two)
    assert "bug" not in caplog.text


async def test_what_is_of_one_dmap_stays_there(two: list[Any]) -> None:
    """What is drained, and what loads take, is each dmap's own."""
    two[0].proxy.saved = replace(saved(two[0]), drained=frozenset({"gpu0"}))

    await order(two[0], "one")

    await soon(lambda: saved(two[1]).active == "one", HERE_S)
    assert (saved(two[0]).drained, saved(two[1]).drained) == ({"gpu0"}, frozenset())


async def test_the_rights_that_the_page_names_are_enough(start: Any, server: RedisServer) -> None:
    """A user of Redis with the rights that `docs/redis.md` gives can do all that dmap asks for."""
    words = re.search(r"`ACL SETUSER (dmap .*)`", PAGE.read_text())
    assert words is not None
    server("ACL", "SETUSER", *words[1].split())
    server("ACL", "SETUSER", "default", "off")
    scopes = "scopes: [admin, inference]"
    key = f"access: {{keys: [{{name: k, sha256: {sha256(b'k').hexdigest()}, parallel: 2, {scopes}}}]}}"
    text = text_of(server).replace("redis://", "redis://dmap:PASSWORD@")

    one = await start(f"{text}{key}\ndebug: {{ring: 10}}")
    headers = {"x-api-key": "k"}
    async with aiohttp.ClientSession(one.url, headers=headers) as session:
        set_to = await session.post("/admin/models/activate", json={"model": "one"})
        asked = await session.post("/v1/chat/completions", json={"messages": []})

    assert (set_to.status, asked.status) == (200, 503)  # its server is nobody
    assert one.proxy.shared.is_up
    assert {"beat", "quota", "saved"} <= ops(one)
    await soon(lambda: "events" in ops(one), HERE_S)


def ops(proxy: Any) -> set[str]:
    """Return what was asked of Redis, and answered."""
    return {each["op"] for each in proxy.proxy.metrics.as_dict()["dmap_redis_seconds_count"]}


def at_any_port(text: str) -> Any:
    """Read a configuration, and have it listen where there is room."""
    config = config_of(text)
    return config.model_copy(update={"listen": config.listen.model_copy(update={"port": 0})})
