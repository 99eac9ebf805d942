"""
The plan of the house (design, section 2) as data: who may import whom, and where third-party packages live.

A room (`wire`, `arbiter`, `backends`, `web`) counts as one; its files may import each other.
"""

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import dmap
from tests.trees import parsed

LAYERS = (
    "errors extras logfmt arbiter placement",  # 0, pure
    "tasks reads hosts standstill",  # 0 too: asyncio and nothing else
    "wire",  # 0 too, pure: its refusals are errors
    "models record notify events lines aiohttp_insides",  # 1
    "process",  # 1 too: the life of a child process, whatever it runs
    "sections",  # 1 too: what sections of the configuration are made of
    "backends",  # 2: each kind brings its own section
    "kinds",  # 2 too: all kinds, found by their folders
    "config",  # 2 too: the whole file
    "state",  # 2 too: it reads its files as config does
    "memory",  # 3: metrics show it
    "access tls sockets metrics tokens traces engines moving owner",  # 3
    "shared",  # 3 too: it counts what access knows, and holds what owner names
    "activity",  # 3 too: it knows the codes that metrics counts
    "catalog",  # 3 too: it asks an access.Client what it may use
    "inventory gate survey",  # 4
    "relay",  # 5 and 6: the client side and the server side of passing an answer on
    "web",  # 7
    "daemon simulate",  # 8
    "demo",  # 9: a daemon with models of its own
    "remote",  # 9: commands that ask a running daemon
    "origin",  # 9: what a command's configuration is read from
    "check",  # 9: what is wrong with it
    "local",  # 9: commands that work here
    "cli",  # 9
    "__main__",
)
PURE = ("errors", "extras", "logfmt", "arbiter", "placement", "wire")
IMPURE = {"asyncio", "logging", "random", "time", "socket", "threading", "os"}
HOMES = {
    "aiohttp": {"aiohttp_insides", "relay", "web", "daemon", "remote"},
    "aiohttp_sse": {"web"},
    "gguf": {"demo"},
    "httptools": {"backends", "relay"},
    "matplotlib": {"simulate"},
    "msgspec": {"activity", "events", "shared", "wire"},
    "multidict": {"access", "wire", "relay", "web"},
    "numpy": {"demo", "simulate"},
    "prometheus_async": {"metrics", "web"},
    "prometheus_client": {"metrics", "web"},
    "pydantic": {"backends", "config", "sections", "simulate", "state", "web"},
    "opentelemetry": {"traces"},
    "pynvml": {"memory"},
    "pydantic_core": {"config"},
    "redis": {"shared"},
    "tokenizers": {"tokens"},
    "uvloop": {"check", "local", "origin"},
    "xllamacpp": {"backends"},
    "yaml": {"config", "moving"},
}

ROOT = Path(dmap.__file__).parent
LAYER = {room: layer for layer, rooms in enumerate(LAYERS) for room in rooms.split()}
FILES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def room_of(file: Path) -> str:
    """Return the module right under `dmap` that *file* is or belongs to."""
    return file.parts[0].removesuffix(".py")


def imports_of(file: Path) -> Iterator[str]:
    """Yield the dotted name of everything that *file* imports, at its top or anywhere in it."""
    for node in ast.walk(parsed((ROOT / file).read_text(encoding="utf-8"))):
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom():
                assert node.level == 0, f"{file}: write imports in full"
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_of(file: Path) -> str:
    """Return the dotted name of *file*."""
    return ".".join(("dmap", *file.with_suffix("").parts)).removesuffix(".__init__")


def needed_by(file: Path) -> set[str]:
    """Return the modules of dmap that *file* imports, for type checks only or at run time."""
    modules = {module_of(other) for other in FILES}
    names = set(imports_of(file))
    return {name if name in modules else name.rpartition(".")[0] for name in names} & modules


def complaint(file: Path, name: str) -> str | None:
    """Tell why *file* may not import *name*; None if it may."""
    room, (top, *rest) = room_of(file), name.split(".")
    if top == "dmap":
        lower = rest[0] in ("__version__", room) or LAYER.get(rest[0], len(LAYERS)) < LAYER.get(room, 0)
        return None if lower else f"{rest[0]} is not below {room}: import only from a lower layer"
    if top in sys.stdlib_module_names:
        return f"{room} is pure: give it {top}'s part as a value" if room in PURE and top in IMPURE else None
    homes = HOMES.get(top, set())
    return None if room in homes else f"{top} is at home in {sorted(homes) or 'no module yet'}"


def test_the_table_is_the_house():
    """Every module of dmap has a layer, and every layer's modules exist."""
    assert {room_of(file) for file in FILES} == LAYER.keys()


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_go_down(file):
    """A module imports only from lower layers and its own room, and third-party packages only at home."""
    complaints = {name: complaint(file, name) for name in imports_of(file)}

    assert {name: reason for name, reason in complaints.items() if reason} == {}


@pytest.mark.parametrize("file", [file for file in FILES if file != Path("tasks.py")], ids=str)
def test_tasks_are_made_in_one_place(file):
    """Only `tasks` makes tasks: one made elsewhere could die unheard."""
    tree = parsed((ROOT / file).read_text(encoding="utf-8"))
    named = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}

    assert not named & {"create_task", "ensure_future"}


def test_no_circle():
    """No modules import each other, directly or by way of others, not even for type checks."""
    order = TopologicalSorter({module_of(file): needed_by(file) for file in FILES})

    order.prepare()  # raises CycleError, which names them


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("errors.py", "dmap.wire.body"),
        ("arbiter/core.py", "asyncio"),
        ("wire/body.py", "time.monotonic"),
        ("catalog.py", "aiohttp.web"),
        ("backends/openai/backend.py", "dmap.gate.Gate"),
        ("gate.py", "left_pad"),
    ],
)
def test_a_wrong_import_is_told(file, name):
    """An import that goes up, out of its home, or out of the pure layer is told with its reason."""
    assert complaint(Path(file), name)


@pytest.mark.parametrize("file", [file for file in FILES if room_of(file) == "backends"], ids=str)
def test_kinds_of_backends_do_not_know_each_other(file):
    """A kind of backend is a folder, and what is in it imports no other kind."""
    kinds = {path.name for path in (ROOT / "backends").iterdir() if path.is_dir()}
    own = file.parts[1]

    known = {name.split(".")[2] for name in imports_of(file) if name.startswith("dmap.backends.")}

    assert known & kinds <= {own}
