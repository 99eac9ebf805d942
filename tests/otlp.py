"""A collector of OpenTelemetry as small as can be: OTLP over HTTP, as the specification has it."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.fakes import HERE_S, soon


@dataclass
class Collector:
    """What came to it; *status* is what it answers."""

    url: str = ""
    status: int = 200
    calls: int = 0
    spans: list[Any] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        """Take one batch."""
        self.calls += 1
        if self.status == 200:
            told = ExportTraceServiceRequest.FromString(await request.read())
            scopes = (scope for resource in told.resource_spans for scope in resource.scope_spans)
            self.spans += [span for scope in scopes for span in scope.spans]
        body = ExportTraceServiceResponse().SerializeToString()
        return web.Response(status=self.status, body=body, content_type="application/x-protobuf")

    async def trace(self, id: str, count: int) -> list[Any]:
        """Wait for *count* spans of the trace *id*; return all of it, in the order of their beginnings."""

        def found() -> list[Any]:
            return [span for span in self.spans if span.trace_id.hex() == id]

        await soon(lambda: len(found()) >= count, HERE_S)
        return sorted(found(), key=lambda span: (span.start_time_unix_nano, -span.end_time_unix_nano))


def about(span: Any) -> dict[str, Any]:
    """Return the attributes of *span*."""
    told = {each.key: each.value for each in span.attributes}
    return {name: getattr(value, value.WhichOneof("value")) for name, value in told.items()}


@asynccontextmanager
async def collector() -> AsyncGenerator[Collector]:
    """Run a collector on a free port of loopback."""
    made, app = Collector(), web.Application(client_max_size=2**26)
    app.router.add_post("/v1/traces", made.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield made
    finally:
        await runner.cleanup()
