"""
`ops/compose.fleet.yaml` as an owner runs it, on this host's Docker: up, asked, something killed, down.

It builds dmap's image and takes those of others, so it is part of `make soak`.  It needs Compose 2.24, and
the network of that file unused; no GPU.
"""

import json
import os
import resource
import secrets
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from tests.ports import free_port
from tests.programs import find

FLEET = Path(__file__).parents[1] / "ops" / "compose.fleet.yaml"
KEYS = {name: secrets.token_hex(16) for name in ("DMAP_KEY", "FRONT_KEY", "METRICS_KEY")}
PARTS = ("haproxy", "prometheus")
"""What requests pass, by what depends on it, and who looks at it; Grafana and the collector are left out."""
SEALED = ("haproxy", "front1", "node1", "redis")
DMAPS = ("front1", "front2", "node1", "node2")
IMAGE = "dmap-test"
MODELS = ("tiny-sea", "tiny-kitchen")
PROJECT = f"dmap-test-{os.getpid()}"
SECONDS = 900

Compose = Callable[..., str]


def _docker(*words: str, **environment: str) -> str:
    """Run Docker; return what it says."""
    command = [find("docker") or "docker", *words]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return done.stdout.decode()


def _why_not() -> str:
    """Return why no containers can be run here; empty if they can."""
    try:
        _docker("version")
        _docker("compose", "version")
    except (AssertionError, OSError, subprocess.TimeoutExpired) as exc:
        return f"no Docker with Compose here: {str(exc).splitlines()[0]}"
    return ""


def _here(folder: Path) -> Path:
    """Write what differs from the file: dmap's image, no GPU, no more descriptors than this host lets be."""
    most = min(65536, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    services: dict[str, dict[str, Any]] = {
        **{name: {"ulimits": {"nofile": most}} for name in ("haproxy", "redis", "prometheus")},
        **{name: {"ulimits": {"nofile": most}, "image": IMAGE} for name in DMAPS},
    }
    for name in ("node1", "node2"):
        services[name]["deploy"] = {"resources": {"reservations": {"devices": []}}}
    path = folder / "here.yaml"
    path.write_text(json.dumps({"services": services}).replace('"devices": []', '"devices": !override []'))
    return path


def _readable(models: Path, folder: Path) -> Path:
    """Copy *models* to where the user in the containers may read them."""
    readable = folder / "models"
    shutil.copytree(models, readable)
    readable.chmod(0o755)
    for each in readable.iterdir():
        each.chmod(0o644)
    return readable


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def compose(models: Path, port: int, tmp_path_factory: pytest.TempPathFactory) -> Generator[Compose]:
    """Run the fleet under a name of its own; return what gives Compose further commands."""
    if why := _why_not():
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("compose")
    given = {
        **KEYS,
        **{f"{name}_SHA256": sha256(key.encode()).hexdigest() for name, key in KEYS.items()},
        **{"REDIS_PASSWORD": secrets.token_hex(16), "GRAFANA_PASSWORD": secrets.token_hex(16)},
        **{"NODE_MEMORY": "1g", "NODE_CPUS": "1", "DMAP_PUBLISH": f"127.0.0.1:{port}"},
        **{"MODELS": str(_readable(models, folder)), "COMPOSE_PROJECT_NAME": PROJECT},
    }
    run = partial(_docker, "compose", "-f", str(FLEET), "-f", str(_here(folder)), **given)
    try:
        run("up", "-d", "--build", "--wait", *PARTS)
        yield run
    finally:
        run("down", "--volumes", "--timeout", "5")


@pytest.fixture
def client(port: int) -> Generator[OpenAI]:
    """OpenAI's client, at HAProxy's port."""
    with OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=KEYS["DMAP_KEY"], max_retries=5) as client:
        yield client


def said(client: OpenAI, model: str) -> str | None:
    """Ask *model*; return how its answer ended."""
    chat: Any = client.chat.completions.create(
        model=model, max_tokens=4, messages=[{"role": "user", "content": "hi"}], stream=True
    )
    return [piece.choices[0].finish_reason for piece in chat if piece.choices][-1]


def up(compose: Compose) -> list[str]:
    """Return what Prometheus says of each dmap: 1 if it answers it."""
    query = "http://127.0.0.1:9090/api/v1/query?query=up"
    told = json.loads(compose("exec", "-T", "prometheus", "wget", "-qO-", query))
    return [each["value"][1] for each in told["data"]["result"]]


def address(compose: Compose, part: str) -> str:
    """Return where *part* is in the network of the fleet."""
    return compose("exec", "-T", part, "hostname", "-i").strip()


@contextmanager
def holding(place: str) -> Generator[None]:
    """Have a container of no use at the address *place* of the fleet's network."""
    where = ("--network", f"{PROJECT}_default", "--ip", place)
    holder = _docker("run", "-d", *where, "--entrypoint", "sleep", IMAGE, "600").strip()
    try:
        yield
    finally:
        _docker("rm", "--force", holder)


@pytest.mark.soak
@pytest.mark.timeout(SECONDS * 2)
class TestFleet:
    @pytest.mark.parametrize("model", MODELS)
    def test_an_app_is_answered(self, compose: Compose, client: OpenAI, model: str) -> None:
        """All come up in their order, and an app gets its answers."""
        assert said(client, model) == "length"

    def test_prometheus_reads_all(self, compose: Compose) -> None:
        """All four dmaps let Prometheus in."""
        end = time.monotonic() + 60
        while (seen := up(compose)) != ["1"] * 4 and time.monotonic() < end:
            time.sleep(1)

        assert seen == ["1"] * 4

    @pytest.mark.parametrize("part", ["front1", "node1", "redis"])
    def test_one_is_killed(self, compose: Compose, client: OpenAI, part: str) -> None:
        """Its name and its address are gone; an app that asks again, as OpenAI's client does, is answered."""
        compose("kill", part)

        assert [said(client, model) for _ in range(8) for model in MODELS] == ["length"] * 16
        compose("up", "-d", "--wait", *PARTS)

    def test_a_node_has_another_address(self, compose: Compose, client: OpenAI) -> None:
        """Both fronts find it there, and have it alone when the other node is gone."""
        was = address(compose, "node1")
        compose("rm", "--stop", "--force", "node1")
        with holding(was):
            compose("up", "-d", "--no-deps", "--wait", "node1")
            compose("kill", "node2")

            assert address(compose, "node1") != was
            assert [said(client, model) for _ in range(4) for model in MODELS] == ["length"] * 8
        compose("up", "-d", "--wait", *PARTS)

    def test_nobody_is_root_or_writes(self, compose: Compose) -> None:
        """No process is root, and none but Prometheus's has a file system that it may write to."""
        users = [compose("exec", "-T", part, "id", "-u").strip() for part in (*SEALED, "prometheus")]
        touch = ("sh", "-c", "touch /etc/x 2>&1 || true")
        writes = [compose("exec", "-T", part, *touch).strip()[-21:] for part in SEALED]

        assert "0" not in users
        assert writes == ["Read-only file system"] * 4

    def test_it_is_ready(self, compose: Compose, port: int) -> None:
        """Anybody may see that, without a key."""
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=10) as ready:
            assert ready.status == 200
