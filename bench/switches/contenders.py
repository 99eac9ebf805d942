"""Those that are compared: how each is told which models there are, on which port, with which engine."""

import hashlib
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import xllamacpp

from bench.switches.models import THEMES

PARALLEL = 4
"""Answers that an engine gives at once: dmap's default."""
CONTEXT = 512
ENGINE = f"-np {PARALLEL} -c {PARALLEL * CONTEXT} -t 1 --host 127.0.0.1 --offline --cache-ram 0"
QUANTIZER = "llama-quantize"
"""Stands beside llama.cpp's server; Ollama copies a model with it."""
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Place:
    """Where one contender runs: a *folder* of its own, *ports*, of which the first is its door."""

    folder: Path
    models: Path
    ports: tuple[int, ...]

    @property
    def url(self) -> str:
        """Where it is asked."""
        return f"http://127.0.0.1:{self.ports[0]}"


@dataclass(frozen=True)
class Contender:
    """
    One that is compared.

    *version* tells what it is.  *command* writes what it has to read into its place, and returns what
    starts it; *environment* is added to ours.  Once *ready*, a path, is answered, *teach* tells it of the
    models, where it cannot read them from the folder.
    """

    name: str
    version: str
    command: Callable[[Place], list[str]]
    ready: str
    environment: Callable[[Place], Mapping[str, str]] = lambda place: {}
    teach: Callable[[Place], None] = lambda place: None


def dmap() -> Contender:
    """Return this tree's daemon, with the defaults, and its own engine, which is llama.cpp too."""

    def command(place: Place) -> list[str]:
        config = place.folder / "config.yaml"
        config.write_text(f"""\
listen: {{port: {place.ports[0]}}}
state: {place.folder}/state.json
devices: {{gpu0: {{max_models: 1}}}}
backends:
  engine: {{kind: gguf, path: {place.models}, device: gpu0, context_length: {CONTEXT}, threads: 1}}
""")
        return [sys.executable, "-m", "dmap", "serve", str(config)]

    commit = _said("git", "-C", str(ROOT), "describe", "--always", "--dirty")
    return Contender("dmap", f"{commit}, xllamacpp {xllamacpp.__version__}", command, "/v1/models")


def llama_swap(program: Path, engine: Path) -> Contender:
    """Return llama-swap, which starts *engine*; more than 10 at a model are not refused, as by default."""

    def command(place: Place) -> list[str]:
        models = {
            name: {
                "cmd": f"{engine} --model {place.models}/{name}.gguf --port {port} {ENGINE}",
                "proxy": f"http://127.0.0.1:{port}",
                "concurrencyLimit": 1000,
            }
            for name, port in zip(THEMES, place.ports[1:], strict=False)
        }
        config = place.folder / "config.yaml"
        config.write_text(json.dumps({"models": models}))
        return [str(program), "-config", str(config), "-listen", f"127.0.0.1:{place.ports[0]}"]

    return Contender("llama-swap", _said(str(program), "-version"), command, "/v1/models")


def router(engine: Path) -> Contender:
    """Return llama.cpp's own router, which starts *engine* once more for each model."""

    def command(place: Place) -> list[str]:
        door = f"--models-dir {place.models} --models-max 1 --port {place.ports[0]}"
        return [str(engine), *door.split(), *ENGINE.split()]

    def environment(place: Place) -> Mapping[str, str]:
        return {"LLAMA_CACHE": str(place.folder), "HOME": str(place.folder)}

    return Contender("router", _said(str(engine), "--version"), command, "/models", environment)


def ollama(program: Path, engine: Path) -> Contender:
    """Return Ollama, with as many answers at once as the others; it finds *engine* where it starts."""

    def command(place: Place) -> list[str]:
        folder = place.folder / "build/lib/ollama"
        folder.mkdir(parents=True)
        (folder / "llama-server").symlink_to(engine)
        (folder / QUANTIZER).symlink_to(engine.with_name(QUANTIZER))
        return [str(program), "serve"]

    def environment(place: Place) -> Mapping[str, str]:
        return {
            "HOME": str(place.folder),
            "OLLAMA_HOST": place.url,
            "OLLAMA_MODELS": str(place.folder / "ollama"),
            "OLLAMA_MAX_LOADED_MODELS": "1",
            "OLLAMA_NUM_PARALLEL": str(PARALLEL),
            "OLLAMA_CONTEXT_LENGTH": str(CONTEXT),
            "OLLAMA_NO_CLOUD": "1",
            "LLAMA_ARG_THREADS": "1",
        }

    version = _said(str(program), "--version")
    return Contender("ollama", version, command, "/api/version", environment, _create)


def _create(place: Place) -> None:
    """Have Ollama take the models of the place's folder over."""
    for name in THEMES:
        content = (place.models / f"{name}.gguf").read_bytes()
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        model = {"model": name, "files": {f"{name}.gguf": digest}, "stream": False}
        for path, body in ((f"blobs/{digest}", content), ("create", json.dumps(model).encode())):
            request = urllib.request.Request(f"{place.url}/api/{path}", body, method="POST")
            urllib.request.urlopen(request, timeout=30).close()


def _said(*command: str) -> str:
    """Return the line in which a program tells its version."""
    done = subprocess.run(
        command, env={**os.environ, "HOME": "/nonexistent"}, capture_output=True, text=True, check=True
    )
    lines = (done.stdout + done.stderr).splitlines()
    named = (line[line.index("version") :] for line in lines if "version" in line)
    return next(named, lines[0])
