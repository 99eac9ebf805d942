"""A kind of server is one folder: nobody outside knows it by name, and a new one takes no other line."""

import ast
import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

import dmap
from dmap.backends import Kind
from dmap.kinds import KINDS
from tests.fakes import END, SSE, chunk
from tests.process import daemon
from tests.trees import parsed

ROOT = Path(dmap.__file__).parent
OUTSIDE = sorted(
    path.relative_to(ROOT) for path in ROOT.rglob("*.py") if ROOT / "backends" not in path.parents
)
WRITERS = [file for file in OUTSIDE if file.parts[0] == "moving"]
"""What an owner would write they write: configurations, which name kinds.  They decide nothing by them."""

TOY = '''
"""A kind of server that a test made up: another name for a list, a route and a word of its own."""

from typing import Literal

from dmap.backends.kind import Kind
from dmap.backends.sections import PassingSection
from dmap.wire.dialects import Dialect
from dmap.wire.routes import InferenceRoute, KindWords


class ToySection(PassingSection):
    kind: Literal["toy"]
    port: int


def _make(name, section, connect_s):
    from dmap.backends.toy.backend import ToyBackend

    return ToyBackend(name, section.port)


KIND = Kind(
    "toy",
    ToySection,
    _make,
    ends_by_finish=True,
    routes=(InferenceRoute("/toy/play", Dialect.CHAT),),
    lacks=frozenset(("/v1/embeddings",)),
    words=KindWords(sent={Dialect.CHAT: {"max_tokens": ("toys",)}}),
)
'''
TOY_BACKEND = '''
"""It has one model, `ball`."""

from dmap.backends.base import Target
from dmap.models import ModelInfo


class ToyBackend:
    url = None

    def __init__(self, name, port):
        self.name, self.port, self.report = name, port, None

    async def models(self):
        return [ModelInfo("ball", resident=True)]

    def target(self, model, path):
        return Target("127.0.0.1", self.port, False, "/wonderland" + path)

    async def confirm(self):
        """Nothing changes."""

    def means(self, model, named):
        return True

    def made_of(self, model):
        return ""

    async def close(self):
        """Nothing is open."""
'''
DAEMON = """
import sys
import dmap.backends

dmap.backends.__path__.append(sys.argv.pop(1))
from dmap.cli import main

main()
"""


@pytest.mark.parametrize("file", [file for file in OUTSIDE if file not in WRITERS], ids=str)
def test_nobody_outside_names_a_kind(file):
    """No file outside `dmap/backends/` has a kind's name as a word of its own."""
    tree = parsed((ROOT / file).read_text(encoding="utf-8"))
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    words = {word for text in texts if isinstance(text, str) for word in (text, *_of_yaml(text))}

    assert words & KINDS.keys() == set()


@pytest.mark.parametrize("file", WRITERS, ids=str)
def test_who_writes_a_configuration_compares_no_kind(file):
    """What names kinds because it writes configurations has no comparison with one."""
    tree = parsed((ROOT / file).read_text(encoding="utf-8"))
    compared = [node for node in ast.walk(tree) if isinstance(node, ast.Compare | ast.MatchValue)]
    inner = [part for each in compared for part in ast.walk(each)]

    assert {part.value for part in inner if isinstance(part, ast.Constant)} & KINDS.keys() == set()


@pytest.mark.parametrize("file", OUTSIDE, ids=str)
def test_nobody_outside_imports_a_kind(file):
    """No file outside `dmap/backends/` imports from a kind's folder."""
    tree = parsed((ROOT / file).read_text(encoding="utf-8"))
    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}

    assert [
        name for name in imported if name.startswith(tuple(f"dmap.backends.{kind}" for kind in KINDS))
    ] == []


def _of_yaml(text: str) -> list[str]:
    """Return the kinds that *text* names as a configuration does."""
    return re.findall(r"kind: *(\w+)", text)


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_a_kind_is_its_folder(kind: Kind):
    """A kind has the name of its folder, in the configuration too."""
    (name,) = kind.section.model_fields["kind"].annotation.__args__

    assert kind.name == name == kind.section.__module__.split(".")[2]
    assert kind.has("/v1/chat/completions")


@pytest.fixture
def toys(tmp_path: Path) -> Path:
    """A folder with one kind in it."""
    folder = tmp_path / "kinds" / "toy"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(TOY)
    (folder / "backend.py").write_text(TOY_BACKEND)
    return folder.parent


@asynccontextmanager
async def playing(tmp_path: Path, toys: Path) -> AsyncGenerator[tuple[aiohttp.ClientSession, list[bytes]]]:
    """Run a daemon that finds *toys* beside its own kinds; yield a session, and what its toy server heard."""
    heard: list[bytes] = []

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"Content-Length: (\d+)", head)[1])  # type: ignore[index]
        heard.append(head + await reader.readexactly(length))
        writer.write(SSE + chunk(b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n') + END)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(play, "127.0.0.1", 0)
    config = f"backends: {{box: {{kind: toy, port: {server.sockets[0].getsockname()[1]}}}}}"
    async with (
        server,
        daemon(tmp_path, config, ("-c", DAEMON, str(toys))) as process,
        aiohttp.ClientSession(process.url) as session,
    ):
        yield session, heard


async def test_a_new_kind_is_one_folder(tmp_path, toys):
    """A folder on `dmap.backends.__path__` is a kind: it is configured, listed, asked in its own words."""
    async with playing(tmp_path, toys) as (session, heard), asyncio.timeout(60):
        async with session.get("/v1/models") as listed:
            models = [model["id"] for model in (await listed.json())["data"]]
        async with session.post(
            "/toy/play", json={"model": "ball", "maxTokens": 5, "stream": True}
        ) as played:
            answer = await played.read()
        async with session.post("/v1/embeddings", json={"model": "ball", "input": "x"}) as lacking:
            refusal = await lacking.json()

    assert models == ["ball"]
    assert (played.status, b'"finish_reason":"stop"' in answer) == (200, True)
    assert heard[0].startswith(b"POST /wonderland/toy/play ")
    assert heard[0].endswith(b'\r\n\r\n{"model":"ball","stream":true,"toys":5}')
    assert (lacking.status, "'ball' is on a backend of toy" in refusal["error"]["message"]) == (404, True)
