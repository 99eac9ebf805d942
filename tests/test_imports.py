"""
Every module can be imported first, in a fresh interpreter, without a warning.

A process per module takes 30 s of CPU.  Here one process imports the third-party packages once and forks
itself for each module: what a child imports of dmap, nobody else has imported before it.
"""

import subprocess
import sys
from pathlib import Path

import dmap

_EACH = """
import os, sys, traceback
import aiohttp.web, asyncio, httptools, msgspec, pydantic, uvloop, yaml

failed = []
for module in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        try:
            assert not [name for name in sys.modules if name.partition(".")[0] == "dmap"]
            __import__(module)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    if os.waitpid(child, 0)[1]:
        failed.append(module)
sys.exit(f"cannot be imported alone: {failed}" if failed else 0)
"""

ROOT = Path(dmap.__file__).parent.parent


def _modules() -> list[str]:
    parts = [path.relative_to(ROOT).with_suffix("").parts for path in (ROOT / "dmap").rglob("*.py")]
    names = {".".join(each).removesuffix(".__init__") for each in parts}
    return sorted(names - {"dmap.__main__"})  # the one that is run, not imported


def test_each_module_can_be_the_first():
    """No module needs another to be imported before it, and none warns."""
    command = [sys.executable, "-W", "error", "-c", _EACH, *_modules()]

    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110)

    assert (ended.returncode, ended.stderr) == (0, "")
