"""A real Prometheus that reads a real daemon: what the first failure looks like, and what the board shows."""

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web

from tests import nvml
from tests.fakes import chat
from tests.ports import free_port
from tests.process import Process, daemon
from tests.programs import find, why_not
from tests.redis_server import redis_server
from tests.test_alerts import ALERTS, panels

pytestmark = pytest.mark.skipif(bool(why_not("prometheus")), reason=why_not("prometheus"))
CHAT = "/v1/chat/completions"
BROKEN = """
devices: {gpu0: {cooldown_s: 0}}
backends: {box: {kind: process, device: gpu0}}
models: {broken: {backend: box, cmd: "false"}}
"""
WHOLE = """
devices: {{gpu0: {{max_models: 1, cooldown_s: 0, patience_s: 1, gpus: [0]}}}}
backends:
  engine: {{kind: gguf, path: {models}, device: gpu0, parallel: 1, context_length: 2048, threads: 1}}
  away: {{kind: openai, url: "http://127.0.0.1:{port}"}}
nodes:
  box1: {{url: "http://127.0.0.1:9", api_key: k}}
access: {{keys: [{{name: app, sha256: "{sha256}"}}]}}
redis: {{url: "{redis}", timeout_ms: 500}}
cache: {{}}
"""


@dataclass
class Prometheus:
    """A server that has scraped the daemon at least once; it asks every second."""

    url: str
    session: aiohttp.ClientSession

    async def ask(self, query: str) -> list[Any]:
        """Return what *query* gives now."""
        async with self.session.get(f"{self.url}/api/v1/query", params={"query": query}) as answered:
            told = await answered.json()
        assert told["status"] == "success", told
        return told["data"]["result"]  # type: ignore[no-any-return]

    async def until(self, query: str, *, is_there: bool = True) -> list[Any]:
        """Ask until *query* gives something, or nothing any more."""
        async with asyncio.timeout(90):
            while bool(found := await self.ask(query)) is not is_there:
                await asyncio.sleep(0.2)
        return found


@asynccontextmanager
async def prometheus(folder: Path, process: Process, key: str = "") -> AsyncGenerator[Prometheus]:
    """Run Prometheus with the alerts, sped up, for the daemon *process*."""
    rules = re.sub(r"for: \d+m", "for: 2s", ALERTS.read_text()).replace("[10m]", "[15s]")
    (folder / "alerts.yml").write_text(rules)
    job: dict[str, Any] = {
        "job_name": "dmap",
        "static_configs": [{"targets": [process.url.partition("//")[2]]}],
    }
    if key:
        job["authorization"] = {"credentials": key}
    config = {"global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "rule_files": ["alerts.yml"]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump({**config, "scrape_configs": [job]}))
    address = f"127.0.0.1:{free_port()}"
    child = await asyncio.create_subprocess_exec(
        str(find("prometheus")),
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/tsdb",
        f"--web.listen-address={address}",
        "--log.level=error",
    )
    try:
        async with aiohttp.ClientSession() as session:
            made = Prometheus(f"http://{address}", session)
            async with asyncio.timeout(60):
                while not await _is_ready(made):
                    await asyncio.sleep(0.1)
            await made.until('up{job="dmap"} == 1')
            yield made
    finally:
        child.terminate()
        await child.wait()


async def _is_ready(server: Prometheus) -> bool:
    try:
        async with server.session.get(f"{server.url}/-/ready") as answered:
            return answered.status == 200
    except aiohttp.ClientError:
        return False


async def asked(process: Process, model: str, key: str = "", **fields: Any) -> int:
    """Ask *model* for a short answer; return the status."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    body = chat(model=model, stream=False, max_tokens=5, **fields)
    async with (
        aiohttp.ClientSession(process.url) as session,
        session.post(CHAT, json=body, headers=headers) as answered,
    ):
        await answered.read()
        return answered.status


async def test_the_first_failed_switch_is_seen(tmp_path: Path) -> None:
    """The first failure of a fresh daemon is an increase of one: the series was there before, at 0."""
    async with daemon(tmp_path, BROKEN) as process, prometheus(tmp_path, process) as server:
        await server.until("dmap_switch_failures_total == 0")

        assert await asked(process, "broken") == 502

        # Which extrapolates to the end of the time: by much while there are two samples, by little later.
        (found,) = await server.until("round(increase(dmap_switch_failures_total[2m])) == 1")
    assert found["metric"]["device"] == "gpu0"


@asynccontextmanager
async def somebody(port: int) -> AsyncGenerator[None]:
    """Listen on *port* of loopback, and know no path."""
    runner = web.AppRunner(web.Application())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield
    finally:
        await runner.cleanup()


@asynccontextmanager
async def load(process: Process) -> AsyncGenerator[None]:
    """Ask two models in turn as long as the context is open, now and then with a wrong key or model."""

    async def go_on() -> None:
        while True:
            for model, key in (("tiny-sea", "k"), ("tiny-kitchen", "k"), ("nobody", "k"), ("tiny-sea", "x")):
                await asked(process, model, key)
            await asked(process, "tiny-sea", "k", temperature=0, seed=1)

    task = asyncio.create_task(go_on())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.soak
@pytest.mark.skipif(bool(why_not("redis-server")), reason=why_not("redis-server"))
async def test_the_board_and_an_alert(models: Path, tmp_path: Path) -> None:
    """Under load every expression of the board shows something; an alert fires, and ends when it is over."""
    port = free_port()
    alert = 'ALERTS{alertname="DmapBackendDown", backend="away", alertstate="firing"}'
    expressions = [target["expr"] for panel in panels() for target in panel["targets"]]

    sha256 = hashlib.sha256(b"k").hexdigest()
    variables = nvml.described(tmp_path, nvml.gpu(2**30, children=1))
    async with (
        redis_server(tmp_path) as redis,
        daemon(
            tmp_path,
            WHOLE.format(models=models, sha256=sha256, port=port, redis=redis.url),
            **variables,
        ) as process,
        prometheus(tmp_path, process, "k") as server,
        load(process),
    ):
        for expression in expressions:
            await server.until(expression.replace("$__rate_interval", "15s").replace("$model", ".*"))
        await server.until(alert)
        async with somebody(port):
            await server.until(alert, is_there=False)

    assert len(expressions) > 25
