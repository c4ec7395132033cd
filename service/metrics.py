"""Every collector of the process, its labels and buckets. With metric_kinds.py the only user of
prometheus_client.

The `grpc_server_*` names are those of go-grpc-middleware's and py-grpc-prometheus's dashboards.
Labels come from closed sets only: `model` is "NAME/VERSION".
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from service.metric_kinds import Label, counter, declarations, gauge, histogram

CONTENT_TYPE = CONTENT_TYPE_LATEST

# A decode step of a small model takes 0.2 ms, a call of a long text a minute.
_CALL_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_STEP_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
_LOAD_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

HTTP_ROUTES = (
    *("/metrics", "/healthz", "/readyz", "/v1/translate", "/v1/classify"),
    "(no such path)",
)

# Of calls; those that an application makes at its start, or a rate would not see the first of them.
HTTP_CODES = (200, 400, 401, 404, 408, 413, 429, 499, 500, 503)

IMAGE_FAILURES = ("invalid", "error", "memory")

_MODEL = Label("model", "`NAME/VERSION` of the models folder")
_METHOD = (
    Label("grpc_type", "", ("unary", "server_stream", "bidi_stream")),
    Label("grpc_service", "a service on the gRPC port, with its package"),
    Label("grpc_method", "a method of it"),
)
_GPU = Label("gpu", "the number that NVML gives it")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """The collectors, by the name of what they count; `registry` is what /metrics shows."""

    registry: CollectorRegistry
    # Called before /metrics is rendered: to set what nobody tells of when it changes.
    observers: list[Callable[[], None]] = field(default_factory=list)

    calls_started: Counter = counter(
        "grpc_server_started_total",
        "Calls begun.",
        *_METHOD,
        example="sum by (grpc_method) (rate(grpc_server_started_total[5m]))",
    )
    calls_handled: Counter = counter(
        "grpc_server_handled_total",
        "Calls ended, by status.",
        *_METHOD,
        Label("grpc_code", "a status of gRPC, such as OK or RESOURCE_EXHAUSTED"),
        example='sum(rate(grpc_server_handled_total{grpc_code="INTERNAL"}[5m]))\n'
        "/ sum(rate(grpc_server_handled_total[5m]))",
    )
    call_seconds: Histogram = histogram(
        "grpc_server_handling_seconds",
        "Seconds from begin to end.",
        *_METHOD,
        buckets=_CALL_SECONDS,
        example="histogram_quantile(0.99, "
        "sum by (le, grpc_method) (rate(grpc_server_handling_seconds_bucket[5m])))",
    )
    http_requests: Counter = counter(
        "attendant_http_requests_total",
        "HTTP requests answered.",
        Label("route", "", HTTP_ROUTES),
        Label("code", "a status of HTTP"),
        example='sum by (route, code) (rate(attendant_http_requests_total{route=~"/v1/.*"}[5m]))',
    )

    requests_waiting: Gauge = gauge(
        "attendant_requests_waiting",
        "Sequences or images queued.",
        _MODEL,
        example="sum by (model) (attendant_requests_waiting)",
    )
    sequences_running: Gauge = gauge(
        "attendant_sequences_running", "Sequences being decoded.", _MODEL
    )
    rows_running: Gauge = gauge("attendant_rows_running", "Rows (beams) being decoded.", _MODEL)
    queue_seconds: Histogram = histogram(
        "attendant_queue_seconds",
        "Seconds from arrival to start.",
        _MODEL,
        buckets=_CALL_SECONDS,
        example="histogram_quantile(0.9, "
        "sum by (le, model) (rate(attendant_queue_seconds_bucket[5m])))",
    )
    encode_seconds: Histogram = histogram(
        "attendant_encode_seconds", "Seconds of one encoder run.", _MODEL, buckets=_STEP_SECONDS
    )
    decode_step_seconds: Histogram = histogram(
        "attendant_decode_step_seconds",
        "Seconds of one decode step.",
        _MODEL,
        buckets=_STEP_SECONDS,
        example="rate(attendant_decode_step_seconds_sum[5m])\n"
        "/ rate(attendant_decode_step_seconds_count[5m])",
    )
    decode_step_rows: Histogram = histogram(
        "attendant_decode_step_rows",
        "Rows of one decode step.",
        _MODEL,
        buckets=_SIZES,
        example="rate(attendant_decode_step_rows_sum[5m])\n"
        "/ rate(attendant_decode_step_rows_count[5m])",
    )
    time_to_first_token_seconds: Histogram = histogram(
        "attendant_time_to_first_token_seconds",
        "Seconds from arrival to the first token.",
        _MODEL,
        buckets=_CALL_SECONDS,
    )
    source_tokens: Counter = counter(
        "attendant_source_tokens_total", "Source tokens encoded.", _MODEL
    )
    target_tokens: Counter = counter(
        "attendant_target_tokens_total",
        "Target tokens returned.",
        _MODEL,
        example="sum by (model) (rate(attendant_target_tokens_total[5m]))",
    )
    goodput_tokens: Counter = counter(
        "attendant_goodput_tokens_total",
        "Target tokens of calls that were answered, by their deadline if they had one.",
        _MODEL,
        example="sum(rate(attendant_goodput_tokens_total[5m]))\n"
        "/ sum(rate(attendant_target_tokens_total[5m]))",
    )
    padding_tokens: Counter = counter(
        "attendant_padding_tokens_total",
        "Padding tokens encoded.",
        _MODEL,
        example="# the padding ratio\nrate(attendant_padding_tokens_total[5m])\n"
        "/ (rate(attendant_padding_tokens_total[5m]) + rate(attendant_source_tokens_total[5m]))",
    )
    wasted_tokens: Counter = counter(
        "attendant_wasted_tokens_total",
        "Target tokens decoded and not returned, by why.",
        _MODEL,
        Label("reason", "", ("beam", "cancelled", "deadline", "device", "error", "memory")),
        example="sum by (reason) (rate(attendant_wasted_tokens_total[5m]))",
    )
    sequences_finished: Counter = counter(
        "attendant_sequences_finished_total",
        "Sequences ended, by how.",
        _MODEL,
        Label("reason", "", ("eos", "length", "cancelled", "deadline", "error")),
        example="sum by (model, reason) (rate(attendant_sequences_finished_total[5m]))",
    )
    requests_rejected: Counter = counter(
        "attendant_requests_rejected_total",
        "Calls refused at the door, or given up when it was too late to begin, by why.",
        _MODEL,
        Label("reason", "", ("QUEUE_FULL", "CALLER_QUEUE_FULL", "DEADLINE_UNREACHABLE")),
        example="sum by (model, reason) (rate(attendant_requests_rejected_total[5m]))",
    )
    deadlines: Counter = counter(
        "attendant_deadlines_total",
        "Calls with a deadline that were let in and not cancelled, by whether it was met.",
        _MODEL,
        Label("outcome", "", ("met", "missed")),
        example="# the deadline-met ratio\n"
        'sum(rate(attendant_deadlines_total{outcome="met"}[5m]))\n'
        "/ sum(rate(attendant_deadlines_total[5m]))",
    )
    predicted_wait_seconds: Gauge = gauge(
        "attendant_predicted_wait_seconds",
        "Seconds that an interactive call would wait that came now.",
        _MODEL,
        example="max by (model) (attendant_predicted_wait_seconds)",
    )
    decode_thread_deaths: Counter = counter(
        "attendant_decode_thread_deaths_total", "Decode threads that a bug has ended.", _MODEL
    )

    images: Counter = counter(
        "attendant_images_total",
        "Images classified.",
        _MODEL,
        example="sum by (model) (rate(attendant_images_total[5m]))",
    )
    images_failed: Counter = counter(
        "attendant_images_failed_total",
        "Images without labels, by whose fault: the caller's, a bug, or too little memory.",
        _MODEL,
        Label("reason", "", IMAGE_FAILURES),
        example="sum by (model, reason) (rate(attendant_images_failed_total[5m]))",
    )
    goodput_images: Counter = counter(
        "attendant_goodput_images_total",
        "Images of calls that were answered, by their deadline if they had one.",
        _MODEL,
    )
    classification_batch_size: Histogram = histogram(
        "attendant_classification_batch_size",
        "Images of one classifier run.",
        _MODEL,
        buckets=_SIZES,
    )
    preprocess_seconds: Histogram = histogram(
        "attendant_preprocess_seconds",
        "Seconds to decode and scale one image.",
        _MODEL,
        buckets=_CALL_SECONDS,
    )
    inference_seconds: Histogram = histogram(
        "attendant_inference_seconds",
        "Seconds of one classifier run.",
        _MODEL,
        buckets=_CALL_SECONDS,
    )

    model_info: Gauge = gauge(
        "attendant_model_info",
        "1 for each model that is loaded.",
        _MODEL,
        Label("task", "", ("translation", "classification")),
        Label("precision", "", ("fp32", "int8", "fp16")),
        Label("device", "", ("cpu", "cuda")),
    )
    model_load_seconds: Histogram = histogram(
        "attendant_model_load_seconds", "Seconds to load a model.", _MODEL, buckets=_LOAD_SECONDS
    )
    device_losses: Counter = counter("attendant_device_losses_total", "GPUs lost; the CPU goes on.")
    model_degraded: Gauge = gauge(
        "attendant_model_degraded",
        "1 while a model does not serve as it was meant to.",
        _MODEL,
        example="attendant_model_degraded == 1",
    )
    model_failed: Gauge = gauge(
        "attendant_model_failed",
        "1 while a model cannot be called: it was refused, or its decode threads have died.",
        _MODEL,
        example="attendant_model_failed == 1",
    )
    model_refused: Gauge = gauge(
        "attendant_model_refused",
        "1 while what is in a model's folder was refused, whether or not an earlier one serves.",
        _MODEL,
        example="attendant_model_refused == 1",
    )

    runtime_info: Gauge = gauge(
        "attendant_runtime_info",
        "1; its labels say what computes.",
        Label("onnxruntime", "its version"),
        Label("providers", "what it could run on here, best first"),
        Label("decode_workers", "decoding threads a model"),
        Label("image_threads", "threads that decode images, and that run a classifier"),
    )
    gpu_memory_used_bytes: Gauge = gauge(
        "attendant_gpu_memory_used_bytes",
        "Memory of a GPU that is in use, by whatever process; needs nvidia-ml-py.",
        _GPU,
        example="attendant_gpu_memory_used_bytes / attendant_gpu_memory_total_bytes",
    )
    gpu_memory_total_bytes: Gauge = gauge(
        "attendant_gpu_memory_total_bytes", "Memory that a GPU has.", _GPU
    )
    gpu_utilization_ratio: Gauge = gauge(
        "attendant_gpu_utilization_ratio",
        "Share of the last second or so in which a GPU was computing, 0 to 1.",
        _GPU,
    )

    @classmethod
    def create(cls, registry: CollectorRegistry | None = None) -> Self:
        """Make every collector, in a registry of its own unless one is given."""
        registry = CollectorRegistry() if registry is None else registry
        made = {name: declaration.make(registry) for name, declaration in declarations(cls)}
        return cls(registry=registry, **made)  # type: ignore[arg-type]  # each is of its kind

    def add_process_collectors(self) -> None:
        """Add memory, CPU and garbage collection of this process; once a process."""
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def render(self) -> bytes:
        """The text that /metrics answers with, as CONTENT_TYPE."""
        for observe in self.observers:
            observe()
        return generate_latest(self.registry)
