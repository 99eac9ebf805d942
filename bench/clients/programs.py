"""The clients: what each is called, where it comes from, and how its driver is run."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

DRIVERS = Path(__file__).parent / "drivers"
INSTALL_S = 600


@dataclass(frozen=True)
class Program:
    """
    One client: its *title* in the table, the file of its *driver*.

    *package* is what pip, npm or Debian calls it, with the range of versions that is meant; *environment* is
    added to ours.  `install` returns the command of the driver and the version that it got.
    """

    title: str
    driver: str
    package: str
    install: Callable[["Program", Path], tuple[tuple[str, ...], str]]
    environment: dict[str, str] = field(default_factory=dict)

    def command(self, python: str) -> tuple[str, ...]:
        return python, str(DRIVERS / self.driver)


def _by_pip(program: Program, folder: Path) -> tuple[tuple[str, ...], str]:
    """Make a venv for the client alone, for some of them bind one another's versions."""
    python = folder / "bin/python"
    if not python.exists():
        _done(sys.executable, "-m", "venv", str(folder))
    quiet = ("--quiet", "--disable-pip-version-check", "--prefer-binary")
    _done(str(python), "-m", "pip", "install", *quiet, program.package)
    name = re.split(r"[\[>]", program.package)[0]
    version = f"import importlib.metadata as m; print(m.version({name!r}))"
    return program.command(str(python)), _done(str(python), "-c", version)


def _by_npm(program: Program, folder: Path) -> tuple[tuple[str, ...], str]:
    """Install it beside a copy of the driver, for Node looks for packages where the program is."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    _done("npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", program.package, cwd=folder)
    copy = folder / program.driver
    copy.write_bytes((DRIVERS / program.driver).read_bytes())
    name = program.package.rpartition("@")[0]
    version = json.loads((folder / "node_modules" / name / "package.json").read_text())["version"]
    return ("node", str(copy)), f"{version}, Node {_done('node', '--version').removeprefix('v')}"


def _by_debian(program: Program, folder: Path) -> tuple[tuple[str, ...], str]:
    """Take it from the `PATH`."""
    words = _done(program.package, "--version").split()
    return program.command(sys.executable), next(word for word in words if word[0].isdigit())


def _done(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=INSTALL_S, env={**os.environ}
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()


PROGRAMS = (
    Program("OpenAI, Python", "openai_python.py", "openai>=3.3,<4", _by_pip),
    Program("OpenAI, Node", "openai_node.mjs", "openai@>=6.49 <8", _by_npm),
    Program("Anthropic, Python", "anthropic_python.py", "anthropic>=0.70,<2", _by_pip),
    Program("LangChain", "langchain_python.py", "langchain-openai>=1,<3", _by_pip),
    Program("LiteLLM", "litellm_python.py", "litellm[mcp]>=1.106,<3", _by_pip),
    Program("`llm`", "llm_command.py", "llm>=0.27,<1", _by_pip),
    Program("curl, HTTP/1.0", "curl_command.py", "curl", _by_debian, {"HTTP": "1.0"}),
    Program("curl, HTTP/1.1", "curl_command.py", "curl", _by_debian, {"HTTP": "1.1"}),
    Program("a page in Chromium", "browser_page.py", "chromium", _by_debian),
    Program("LM Studio, Python", "lmstudio_python.py", "lmstudio>=1.5,<2", _by_pip),
)
