"""
Every module can be imported first, in a fresh interpreter, without a warning.

A process per module takes half a minute.  So the promise is derived: what begins to run while others are
half run can only fail if it needs one of them, and that is a circle in the graph of imports.
`tests/test_layers.py` leaves one kind of circle open, that by way of a package: who imports `dmap.a.b` runs
`dmap.a` first, and what that imports.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.test_layers import FILES, ROOT, module_of
from tests.trees import parsed

MODULES = {module_of(file): file for file in FILES if file.name != "__main__.py"}
KINDS = {name for name in MODULES if name.count(".") == 2 and (ROOT / name[5:].replace(".", "/")).is_dir()}
BY_NAME = {"dmap.kinds": {name for name in KINDS if name.startswith("dmap.backends.")}}
"""What is imported by a name that is made at run time."""


def at_once(node: ast.AST) -> Iterator[ast.ImportFrom]:
    """Yield what runs of the imports in *node* when it is imported: not those in functions."""
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.ImportFrom):
            yield inner
        elif not isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            assert not isinstance(inner, ast.Import) or not inner.names[0].name.startswith("dmap.")
            yield from at_once(inner)


def parents_of(module: str) -> set[str]:
    """Return the packages that *module* is in, without `dmap` itself, which imports nothing."""
    parts = module.split(".")
    return {".".join(parts[:length]) for length in range(2, len(parts))} & MODULES.keys()


def needs(module: str, text: str) -> set[str]:
    """Return what must have run before *module*, of *text*, has: modules, and packages that it is not in."""
    imported = [(str(node.module), alias.name) for node in at_once(parsed(text)) for alias in node.names]
    found = {f"{name}.{part}" if f"{name}.{part}" in MODULES else name for name, part in imported}
    found = (found & MODULES.keys()) | BY_NAME.get(module, set())
    return found | {parent for name in found for parent in parents_of(name)} - {module, *parents_of(module)}


def texts() -> dict[str, str]:
    return {module: (ROOT / file).read_text(encoding="utf-8") for module, file in MODULES.items()}


def check(texts: dict[str, str]) -> None:
    """Raise CycleError, which names them, if modules need each other."""
    TopologicalSorter({module: needs(module, text) for module, text in texts.items()}).prepare()


def test_each_module_can_be_the_first():
    """No module needs another to be imported before it."""
    check(texts())


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("dmap.wire.limits", "from dmap.wire.body import peek"),
        ("dmap.models", "from dmap.backends.base import Target"),
        ("dmap.backends.sections", "from dmap.kinds import ROUTES"),
        ("dmap.sections.section", "from dmap import config"),
        ("dmap.gate.lease", "from dmap.gate import Gate"),
    ],
)
def test_a_circle_is_found(module, line):
    """An import that makes a circle, also one by way of a package only, is found."""
    with pytest.raises(CycleError):
        check(texts() | {module: f"{texts()[module]}\n{line}\n"})


@pytest.mark.parametrize("backwards", [False, True])
def test_all_are_imported(backwards):
    """Every module can be imported, and none warns."""
    modules = sorted(MODULES, reverse=backwards)
    command = [sys.executable, "-W", "error", "-c", "import sys\nfor one in sys.argv[1:]: __import__(one)"]

    ended = subprocess.run([*command, *modules], cwd=ROOT.parent, capture_output=True, text=True)

    assert (ended.returncode, ended.stderr) == (0, "")
