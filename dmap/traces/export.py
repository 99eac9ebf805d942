"""
Spans on their way to a collector: OTLP over HTTP, by OpenTelemetry's SDK, in a thread of its own.

The SDK batches and retries.  What it would tell of each failure is told once here, and once when it is over.
"""

import asyncio
import logging
import threading
from collections.abc import Sequence
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from dmap import __version__
from dmap.logfmt import Line
from dmap.traces.spans import Span

MOST = 4096
"""Spans that wait to be sent; with a collector that does not answer, further ones are lost."""
SEND_S = 5.0
"""How long one batch is tried."""
END_S = 2.0
"""How long the end of dmap waits for the last ones."""
BATCH = 512

_KINDS = {"client": SpanKind.SERVER, "server": SpanKind.CLIENT, "": SpanKind.INTERNAL}
_SCOPE = InstrumentationScope("dmap", __version__)

_log = logging.getLogger(__name__)


class Exporter:
    """Sends spans to the collector at *url*, with or without a closing `/v1/traces`."""

    def __init__(self, url: str) -> None:
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        at = f"{url.removesuffix('/v1/traces')}/v1/traces"
        self._sender = _Sender(OTLPSpanExporter(at, timeout=SEND_S), at)
        self._batches = BatchSpanProcessor(self._sender, max_queue_size=MOST, max_export_batch_size=BATCH)
        told = Resource.create({"service.name": "dmap", "service.version": __version__})
        self._resource = _Resource(told.attributes, told.schema_url)
        self._taken = 0

    def take(self, trace: str, spans: Sequence[Span]) -> None:
        """Send *spans* of the *trace* soon; they are lost where too many wait already."""
        if self._taken - self._sender.done + len(spans) > MOST:
            return self._sender.lose(len(spans), "too many wait")
        self._taken += len(spans)
        for span in spans:
            self._batches.on_end(self._readable(int(trace, 16), span))

    async def close(self) -> None:
        """Send what is left, for `END_S` at most; the thread ends with the process at the latest."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def shut() -> None:
            self._batches.shutdown()  # type: ignore[no-untyped-call]
            loop.call_soon_threadsafe(ended.set)

        threading.Thread(target=shut, daemon=True, name="traces' end").start()
        try:
            async with asyncio.timeout(END_S):
                await ended.wait()
        except TimeoutError:
            left = self._taken - self._sender.done
            _log.warning(Line("traces_lost", {"spans": left, "reason": "no answer at the end"}))

    def _readable(self, trace: int, span: Span) -> ReadableSpan:
        def context(id: str) -> SpanContext:
            return SpanContext(trace, int(id, 16), is_remote=False, trace_flags=TraceFlags(1))

        status = Status(StatusCode.ERROR, span.error[:256]) if span.error else Status()
        return ReadableSpan(
            span.name,
            context(span.id),
            context(span.parent) if span.parent is not None else None,
            self._resource,
            {name: _rounded(value) for name, value in span.about.items() if value is not None},
            kind=_KINDS[span.faces],
            status=status,
            start_time=int(span.since * 1e9),
            end_time=int(span.until * 1e9),
            instrumentation_scope=_SCOPE,
        )


def _rounded(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value


class _Resource(Resource):
    """The one resource of all spans: the encoder groups them by it, and would write it as JSON for each."""

    __hash__ = object.__hash__


class _Sender(SpanExporter):
    """Sends by *inner* to *at*, in the SDK's thread; *done* counts the spans that were sent or lost."""

    def __init__(self, inner: SpanExporter, at: str) -> None:
        self.done = 0
        self._inner, self._at = inner, at
        self._losing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send *spans*."""
        result = self._inner.export(spans)
        self.done += len(spans)
        if result is not SpanExportResult.SUCCESS:
            self.lose(len(spans), "the collector does not take them")
        elif self._losing:
            self._losing = False
            _log.warning(Line("traces_sent_again", {"url": self._at}))
        return result

    def lose(self, count: int, reason: str) -> None:
        """Tell that spans are lost, once until it is over."""
        if not self._losing:
            self._losing = True
            _log.warning(Line("traces_lost", {"spans": count, "url": self._at, "reason": reason}))

    def shutdown(self) -> None:
        """End."""
        self._inner.shutdown()
