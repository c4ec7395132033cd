"""W3C trace context (https://www.w3.org/TR/trace-context/): which trace a call belongs to."""

from functools import cache
from typing import Any

KEYS = ("traceparent", "tracestate")


def current_trace() -> dict[str, str]:
    """That of OpenTelemetry's current span; empty without a span, or without OpenTelemetry."""
    propagator = _propagator()
    carrier: dict[str, str] = {}
    if propagator is not None:
        propagator.inject(carrier)
    return carrier


@cache
def _propagator() -> Any:
    try:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
    except ImportError:
        return None
    return TraceContextTextMapPropagator()
