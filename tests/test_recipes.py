"""The recipes of `docs/recipes.md`, above all a real nginx in front of the production server."""

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.conftest import config_of
from tests.fakes import (
    DONE,
    END,
    HERE_S,
    SSE,
    FakeBackend,
    RawClient,
    chat,
    chunk,
    delta,
    holding,
    post,
    told,
)
from tests.ports import free_port
from tests.programs import find, why_not

PAGE = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text()
RECIPES = dict(re.findall(r"^### ([^\n]+)\n+```nginx\n(.+?)^```$", PAGE, re.MULTILINE | re.DOTALL))
SETTINGS = re.findall(r"^```yaml\n(.+?)^```$", PAGE, re.MULTILINE | re.DOTALL)
TRUSTED = "access: {trusted_proxies: [127.0.0.1]}"

Front = Callable[..., Awaitable["Nginx"]]

_MAIN = """
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/error.log info;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {recipe}
}}
"""


class Nginx:
    """A running nginx at *port*, in front of *proxy*."""

    def __init__(self, proxy: Any, port: int) -> None:
        self.proxy = proxy
        self.port = port

    async def client(self) -> RawClient:
        """Open a raw connection, from an address that no proxy has."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=("127.0.0.5", 0))
        self.proxy._stack.callback(writer.close)
        return RawClient(reader, writer)


@asynccontextmanager
async def nginx(folder: Path, recipe: str, proxy: Any) -> AsyncGenerator[Nginx]:
    """Run *recipe* as the page has it but for the two ports; wait until it accepts."""
    port = free_port()
    recipe = recipe.replace("listen 80;", f"listen 127.0.0.1:{port};")
    recipe = recipe.replace("127.0.0.1:8000", f"127.0.0.1:{proxy.daemon.addresses[0][1]}")
    path = folder / "nginx.conf"
    path.write_text(_MAIN.format(folder=folder, recipe=recipe))
    child = await asyncio.create_subprocess_exec(
        *(find("nginx") or "nginx", "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(path))
    )
    try:
        await accepting(port, child)
        yield Nginx(proxy, port)
    finally:
        if child.returncode is None:
            child.terminate()
        await asyncio.wait_for(child.wait(), HERE_S)


async def accepting(port: int, child: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(HERE_S):
        while child.returncode is None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.01)
            else:
                writer.close()
                return
    raise AssertionError("nginx ended at once")


@pytest.fixture(params=RECIPES)
def recipe(request: pytest.FixtureRequest) -> str:
    return RECIPES[request.param]


@pytest.fixture
async def front(start: Any, backend: FakeBackend, tmp_path: Path, recipe: str) -> AsyncGenerator[Front]:
    """Start dmap with what is given of its configuration, and nginx before it; nothing may be left over."""
    if why_not("nginx"):
        pytest.skip(why_not("nginx"))
    backend.script = backend.by_hand
    running: list[Any] = []

    async def run(access: str = TRUSTED) -> Nginx:
        proxy = await start(f"backends: {{fake: {{kind: openai, url: '{backend.url}'}}}}\n{access}")
        running.append(nginx(tmp_path, recipe, proxy))
        return await running[-1].__aenter__()  # type: ignore[no-any-return]

    yield run
    for one in running:
        await one.__aexit__(None, None, None)


def test_the_page_has_all_four() -> None:
    """With and without buffering, HTTP/1.0 and 1.1: each is on the page, and so runs below."""
    assert list(RECIPES) == ["HTTP/1.1", "HTTP/1.1, buffering off", "HTTP/1.0", "HTTP/1.0, buffering off"]


@pytest.mark.parametrize("settings", SETTINGS)
def test_its_settings(settings: str) -> None:
    """What the page has of the configuration is one."""
    config_of(f"backends: {{fake: {{kind: openai, url: 'http://127.0.0.1:1'}}}}\n{settings}")


async def test_what_open_webui_sends(start: Any, backend: FakeBackend) -> None:
    """With the page's key the list can be read and a chat streamed, by an app that adds fields of its own."""
    backend.script = backend.by_hand
    keys = next(settings for settings in SETTINGS if "webui" in settings)
    proxy = await start(f"backends: {{fake: {{kind: openai, url: '{backend.url}'}}}}\n{keys}")
    headers = {"Authorization": "Bearer the-key", "X-OpenWebUI-User-Name": "Ann"}
    body = chat(stream_options={"include_usage": True}, metadata={"chat_id": "1"})

    async with aiohttp.ClientSession(proxy.url, headers=headers) as app:
        listed = await (await app.get("/v1/models")).json()
        asking = asyncio.ensure_future(app.post("/v1/chat/completions", json=body))
        exchange = await backend.next()
        await exchange.write(SSE, chunk(delta("one")))
        answer = await asking
        first = await answer.content.readuntil(b"\n\n")
        await exchange.end(chunk(DONE), END)
        rest = await answer.content.read()

    assert [model["id"] for model in listed["data"]] == ["m"]
    assert (answer.status, first, rest) == (200, delta("one"), DONE)
    assert "x-openwebui-user-name" not in exchange.headers


async def test_chunks_arrive_one_by_one(front: Front, backend: FakeBackend) -> None:
    """Each record is with the client while the backend still holds back the next."""
    client = await (await front()).client()
    await client.send(post(chat()))
    exchange = await backend.next()

    await exchange.write(SSE, chunk(delta("one")))
    head = await client.head()
    await client.until(delta("one"))
    await exchange.write(chunk(delta("two")))
    await client.until(delta("two"))
    await exchange.end(chunk(DONE), END)

    assert (head.status, head.headers["transfer-encoding"]) == (200, "chunked")
    assert DONE in await client.until(b"0\r\n\r\n")


async def test_a_backend_that_dies(front: Front, backend: FakeBackend) -> None:
    """A stream that broke does not end well behind nginx either: an error, and no last chunk."""
    client = await (await front()).client()
    await client.send(post(chat()))
    exchange = await backend.next()
    await exchange.write(SSE, chunk(delta("one")))
    await client.until(delta("one"))

    exchange.cut()
    rest = await client.all()

    assert told(rest)["error"]["code"] == "backend_broke"
    assert not rest.endswith(END) and DONE not in rest


async def test_a_client_that_leaves(front: Front, backend: FakeBackend) -> None:
    """A client that leaves in mid-stream frees its place, and the backend stops."""
    server = await front()
    client = await server.client()
    await client.send(post(chat()))
    exchange = await backend.next()
    await exchange.write(SSE, chunk(delta("one")))
    await client.until(delta("one"))

    client.close()

    await exchange.abandoned(HERE_S)
    await server.proxy.settled()


async def test_a_client_that_leaves_early(front: Front, backend: FakeBackend) -> None:
    """A client that leaves before the first byte frees its place too."""
    server = await front()
    client = await server.client()
    await client.send(post(chat(stream=False)))
    exchange = await backend.next()
    await holding(server.proxy, 1)

    client.close()

    await exchange.abandoned(HERE_S)
    await server.proxy.settled()


async def test_a_refusal_comes_whole(front: Front) -> None:
    """A refusal of dmap's keeps its status, its body and its id."""
    client = await (await front()).client()
    await client.send(post(chat(model="nope"), headers="x-request-id: mine\r\n"))

    answer = await client.answer()

    assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    assert answer.head.headers["x-request-id"] == "mine"


async def test_a_large_body(front: Front, backend: FakeBackend) -> None:
    """A request with an image in it, over nginx's own limit of 1 MB, gets through."""
    client = await (await front()).client()
    await client.send(post(chat(user="x" * 3_000_000)))

    exchange = await backend.next()
    await exchange.end(SSE, chunk(DONE), END)

    assert len(exchange.body) > 3_000_000
    assert (await client.answer()).status == 200


class TestWhoAsks:
    @pytest.mark.parametrize(
        ("forwarded", "status"), [("10.0.0.9", 200), ("203.0.113.7", 403)], ids=["listed", "foreign"]
    )
    async def test_a_trusted_proxy(
        self, front: Front, backend: FakeBackend, forwarded: str, status: int
    ) -> None:
        """A chain of trusted proxies is followed to who began it, and that address has to be allowed."""
        backend.script = backend.finish
        access = "access: {trusted_proxies: [127.0.0.0/8], allow: [10.0.0.0/8]}"
        client = await (await front(access)).client()

        await client.send(post(chat(), headers=f"X-Forwarded-For: {forwarded}\r\n"))

        assert (await client.answer()).status == status

    async def test_what_a_client_says_of_itself(
        self, front: Front, backend: FakeBackend, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Who is no proxy is known by its own address, whatever it wrote into the header."""
        backend.script = backend.finish
        client = await (await front()).client()
        caplog.set_level("INFO", "dmap.requests")

        await client.send(post(chat(), headers="X-Forwarded-For: 10.0.0.9\r\n"))
        await client.answer()

        assert [r.getMessage() for r in caplog.records if "client=127.0.0.5 " in r.getMessage()]

    async def test_a_proxy_that_nobody_trusts(self, front: Front) -> None:
        """Without `trusted_proxies` every request through nginx is refused, with the key to set."""
        client = await (await front("access: {}")).client()

        await client.send(post(chat()))
        answer = await client.answer()

        assert answer.status == 403
        assert "access.trusted_proxies" in answer.error["message"]
