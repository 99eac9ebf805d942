"""What the admin API has answered is on the disk, however the daemon ends."""

import asyncio
import json
import os
import random
import signal
import sys
from pathlib import Path

import aiohttp

from dmap.state import StateFile

CONFIG = """
listen: {{port: {port}}}
backends:
  a: {{kind: openai, url: 'http://127.0.0.1:9'}}
models:
  one: {{backend: a}}
  two: {{backend: a}}
state: {state}
"""
KILLS = int(os.environ.get("DMAP_TEST_KILLS", "3"))


async def test_killed_between_two_orders(tmp_path: Path) -> None:
    """A daemon that is killed at any moment leaves the last order it answered, or the one under way."""
    chance, state = random.Random(4), tmp_path / "state.json"
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(port=0, state=state))
    for kill in range(KILLS):
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dmap", "serve", str(path)), stderr=asyncio.subprocess.PIPE
        )
        assert child.stderr is not None
        while b"listening url=" not in (line := await child.stderr.readline()):
            assert line
        url = line.decode().split("url=")[1].split()[0]
        answered, under_way = None, None
        asyncio.get_running_loop().call_later(chance.uniform(0.005, 0.15), child.send_signal, signal.SIGKILL)
        async with aiohttp.ClientSession(url) as session:
            try:
                for number in range(1_000_000):
                    under_way = {"seed": 1000 * kill + number}
                    order = {"modelKey": chance.choice(["one", "two"]), "defaultInference": under_way}
                    async with session.post("/admin/models/activate", json=order) as answer:
                        assert answer.status == 200
                        await answer.read()
                    answered = (order["modelKey"], under_way)
            except (aiohttp.ClientError, ConnectionError):
                pass
        await child.wait()
        saved = StateFile(state).read()
        if answered is not None:
            model, defaults = answered
            kept = (saved.models[model].defaults, saved.active)
            assert kept == (defaults, model) or under_way in [dict(m.defaults) for m in saved.models.values()]
        assert answered is None or json.loads(state.read_text())["version"] == 1
