"""
OpenTelemetry's own collector, built from its Go modules, as a process between dmap and `tests.otlp`.

It takes what a real collector takes, and sends that on over OTLP, so that a test reads it without a word of
the collector's output being understood.
"""

import asyncio
import os
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.programs import find

BUILDER = "go.opentelemetry.io/collector/cmd/builder@v0.150.0"
BUILD_S = 1500.0
"""Some hundred packages are compiled for the first time, on two busy cores."""
_MANIFEST = Path(__file__).with_name("otelcol.yaml")
_CONFIG = """
receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{port}'}}}}}}}}
exporters:
  debug: {{verbosity: basic}}
  otlphttp: {{endpoint: '{to}', compression: none, sending_queue: {{queue_size: 100000}}}}
service:
  telemetry: {{metrics: {{level: none}}}}
  pipelines: {{traces: {{receivers: [otlp], exporters: [debug, otlphttp]}}}}
"""


def build(folder: Path) -> None:
    """Build the collector as `otelcol` in *folder*; skip where its modules cannot be had."""
    command = (find("go") or "go", "run", BUILDER, "--config", _MANIFEST)
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=BUILD_S)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as exc:
        said = (exc.stderr or b"").decode().splitlines()
        pytest.skip(f"the collector cannot be built: {said[-3:] or exc}")


@dataclass
class Otelcol:
    """A collector that takes spans at *port* and sends them on *to* another; one at a time."""

    program: Path
    folder: Path
    to: str
    port: int = 0

    def __post_init__(self) -> None:
        """Choose a port, the same for each start."""
        self.port = free_port()

    @property
    def url(self) -> str:
        """Where dmap sends to."""
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[asyncio.subprocess.Process]:
        """Run it; in the end it is killed, if that has not happened yet."""
        config = self.folder / "otelcol.yaml"
        config.write_text(_CONFIG.format(port=self.port, to=self.to))
        with (self.folder / "otelcol.log").open("ab") as log:
            child = await asyncio.create_subprocess_exec(
                *(str(self.program), "--config", f"file:{config}"), stdout=log, stderr=log, env=_clean()
            )
        try:
            await self._listens(child)
            yield child
        finally:
            with suppress(ProcessLookupError):
                child.kill()
            await child.wait()

    async def _listens(self, child: asyncio.subprocess.Process) -> None:
        async with asyncio.timeout(60):
            while child.returncode is None:
                with suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    return writer.close()
                await asyncio.sleep(0.05)
        raise AssertionError((self.folder / "otelcol.log").read_text()[-2000:])


def _clean() -> dict[str, str]:
    """Return an environment without what an owner says to OpenTelemetry."""
    return {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
