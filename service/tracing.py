"""Spans of calls, by OpenTelemetry's own libraries; without the extra `otel`, or unless asked for,
nothing but the caller's trace id, for the log.

A call's span is made when the call is over, with the stages of its timeline inside. Texts and
images are in none.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from service.logs import current_trace_id
from service.timeline import Fact, Timeline

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

# https://www.w3.org/TR/trace-context/#traceparent-header
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class Span:
    """What was begun for a call; `real` is OpenTelemetry's, if any."""

    real: Any = None


class Tracing:
    """Makes spans with a provider of OpenTelemetry's SDK, or without one none."""

    def __init__(self, provider: Any = None) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("attendant") if provider is not None else None

    @classmethod
    def of(cls, endpoint: str) -> Self:
        """Spans to this endpoint, or to that of the OTEL_* environment, or none.

        Raises ValueError where they are asked for and the extra is not installed.
        """
        is_off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
        if is_off or not (endpoint or any(os.environ.get(name) for name in _ENDPOINTS)):
            return cls()
        try:
            return cls(_exporting_provider(endpoint))
        except ImportError as error:
            raise ValueError(
                "spans are asked for, and the extra otel is not installed: "
                f"python -m pip install --constraint constraints.txt '.[otel]' ({error})"
            ) from error

    def begin(self, name: str, headers: Mapping[str, str], timeline: Timeline) -> Span:
        """A call begins, with these headers or metadata; its trace id goes into the log."""
        if self._tracer is None:
            found = _TRACEPARENT.fullmatch(headers.get("traceparent", ""))
            current_trace_id.set(found[1] if found else "")
            return Span()
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        real = self._tracer.start_span(
            name,
            context=TraceContextTextMapPropagator().extract(headers),
            kind=SpanKind.SERVER,
            start_time=timeline.begun_ns,
        )
        current_trace_id.set(f"{real.get_span_context().trace_id:032x}")
        return Span(real)

    def end(
        self,
        span: Span,
        timeline: Timeline,
        attributes: Mapping[str, Fact],
        *,
        error: str = "",
    ) -> None:
        """The call is over; `error` says what was our fault, if anything."""
        if span.real is None or not span.real.is_recording():
            return
        assert self._tracer is not None
        self._add_stages(span.real, timeline)
        facts = {f"attendant.{name}": value for name, value in timeline.facts.items()}
        span.real.set_attributes({**attributes, **facts})
        if error:
            from opentelemetry.trace import Status, StatusCode

            span.real.set_status(Status(StatusCode.ERROR, error))
        span.real.end(timeline.nanoseconds(timeline.ended))

    def close(self) -> None:
        """Send what was not sent yet; blocks, for seconds where nobody takes it."""
        if self._provider is not None:
            self._provider.shutdown()

    def _add_stages(self, real: Any, timeline: Timeline) -> None:
        from opentelemetry.trace import set_span_in_context

        assert self._tracer is not None
        inside = set_span_in_context(real)
        for stage in timeline.stages:
            begun, ended = map(timeline.nanoseconds, (stage.begun, stage.ended))
            self._tracer.start_span(stage.name, context=inside, start_time=begun).end(ended)


def _exporting_provider(endpoint: str) -> Any:
    """Sends spans in batches, from a thread of its own; all else is OTEL_*'s."""
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource({"service.name": "attendant"}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint or None)))
    return provider
