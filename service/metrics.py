"""Every collector of the process, its labels and buckets. The only user of prometheus_client.

The `grpc_server_*` names are those of go-grpc-middleware's and py-grpc-prometheus's dashboards.
Labels come from closed sets only: `model` is "NAME/VERSION".
"""

from dataclasses import dataclass
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

CONTENT_TYPE = CONTENT_TYPE_LATEST

# A decode step of a small model takes 0.2 ms, a call of a long text a minute.
_CALL_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_STEP_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
_LOAD_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

_MODEL = ("model",)
_METHOD = ("grpc_type", "grpc_service", "grpc_method")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """The collectors, by the name of what they count; `registry` is what /metrics shows."""

    registry: CollectorRegistry

    calls_started: Counter
    calls_handled: Counter
    call_seconds: Histogram

    requests_waiting: Gauge
    sequences_running: Gauge
    rows_running: Gauge
    queue_seconds: Histogram
    encode_seconds: Histogram
    decode_step_seconds: Histogram
    decode_step_rows: Histogram
    time_to_first_token_seconds: Histogram
    source_tokens: Counter
    target_tokens: Counter
    padding_tokens: Counter
    wasted_tokens: Counter
    sequences_finished: Counter
    requests_rejected: Counter
    deadlines: Counter
    predicted_wait_seconds: Gauge
    decode_thread_deaths: Counter

    images: Counter
    classification_batch_size: Histogram
    preprocess_seconds: Histogram
    inference_seconds: Histogram

    device_losses: Counter
    model_degraded: Gauge
    model_info: Gauge
    model_load_seconds: Histogram

    @classmethod
    def create(cls, registry: CollectorRegistry | None = None) -> Self:
        """Make every collector, in a registry of its own unless one is given."""
        registry = CollectorRegistry() if registry is None else registry

        def counter(name: str, text: str, labels: tuple[str, ...] = _MODEL) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def gauge(name: str, text: str, labels: tuple[str, ...] = _MODEL) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        def histogram(
            name: str,
            text: str,
            buckets: tuple[float, ...] = _CALL_SECONDS,
            labels: tuple[str, ...] = _MODEL,
        ) -> Histogram:
            return Histogram(name, text, labels, registry=registry, buckets=buckets)

        return cls(
            registry=registry,
            calls_started=counter("grpc_server_started_total", "Calls begun.", _METHOD),
            calls_handled=counter(
                "grpc_server_handled_total", "Calls ended, by status.", (*_METHOD, "grpc_code")
            ),
            call_seconds=histogram(
                "grpc_server_handling_seconds", "Seconds from begin to end.", labels=_METHOD
            ),
            requests_waiting=gauge("attendant_requests_waiting", "Sequences or images queued."),
            sequences_running=gauge("attendant_sequences_running", "Sequences being decoded."),
            rows_running=gauge("attendant_rows_running", "Rows (beams) being decoded."),
            queue_seconds=histogram("attendant_queue_seconds", "Seconds from arrival to start."),
            encode_seconds=histogram(
                "attendant_encode_seconds", "Seconds of one encoder run.", _STEP_SECONDS
            ),
            decode_step_seconds=histogram(
                "attendant_decode_step_seconds", "Seconds of one decode step.", _STEP_SECONDS
            ),
            decode_step_rows=histogram(
                "attendant_decode_step_rows", "Rows of one decode step.", _SIZES
            ),
            time_to_first_token_seconds=histogram(
                "attendant_time_to_first_token_seconds", "Seconds from arrival to the first token."
            ),
            source_tokens=counter("attendant_source_tokens_total", "Source tokens encoded."),
            target_tokens=counter("attendant_target_tokens_total", "Target tokens returned."),
            padding_tokens=counter("attendant_padding_tokens_total", "Padding tokens encoded."),
            wasted_tokens=counter(
                "attendant_wasted_tokens_total",
                "Target tokens decoded and not returned, by why.",
                ("model", "reason"),
            ),
            sequences_finished=counter(
                "attendant_sequences_finished_total",
                "Sequences ended, by how.",
                ("model", "reason"),
            ),
            requests_rejected=counter(
                "attendant_requests_rejected_total",
                "Calls refused at the door, by why.",
                ("model", "reason"),
            ),
            deadlines=counter(
                "attendant_deadlines_total",
                "Calls with a deadline that were let in and not cancelled, by whether it was met.",
                ("model", "outcome"),
            ),
            predicted_wait_seconds=gauge(
                "attendant_predicted_wait_seconds",
                "Seconds that an interactive call would wait that came now.",
            ),
            decode_thread_deaths=counter(
                "attendant_decode_thread_deaths_total", "Decode threads that a bug has ended."
            ),
            images=counter("attendant_images_total", "Images classified."),
            classification_batch_size=histogram(
                "attendant_classification_batch_size", "Images of one classifier run.", _SIZES
            ),
            preprocess_seconds=histogram(
                "attendant_preprocess_seconds", "Seconds to decode and scale one image."
            ),
            inference_seconds=histogram(
                "attendant_inference_seconds", "Seconds of one classifier run."
            ),
            device_losses=counter(
                "attendant_device_losses_total", "GPUs lost; the CPU goes on.", labels=()
            ),
            model_degraded=gauge(
                "attendant_model_degraded", "1 while a model does not serve as it was meant to."
            ),
            model_info=gauge(
                "attendant_model_info",
                "1 for each model that is loaded.",
                ("model", "task", "precision", "device"),
            ),
            model_load_seconds=histogram(
                "attendant_model_load_seconds", "Seconds to load a model.", _LOAD_SECONDS
            ),
        )

    def add_process_collectors(self) -> None:
        """Add memory, CPU and garbage collection of this process; once a process."""
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def render(self) -> bytes:
        """The text that /metrics answers with, as CONTENT_TYPE."""
        return generate_latest(self.registry)
