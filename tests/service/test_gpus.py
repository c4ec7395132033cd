"""What is told of GPUs, while they answer."""

from typing import Any

from service.gpus import Gpus
from service.metrics import Metrics
from tests.observability.nvml import pynvml


class Library:
    """NVML as tests/observability has it, until the GPU falls off its bus."""

    NVMLError = pynvml.NVMLError

    def __init__(self) -> None:
        self.is_gone = False

    def __getattr__(self, name: str) -> Any:
        if self.is_gone:
            raise self.NVMLError("GPU is lost")
        return getattr(pynvml, name)


def test_a_gpu_that_no_longer_answers_has_no_figures() -> None:
    """Regression: it kept its last ones for as long as the process lived."""
    metrics, library = Metrics.create(), Library()
    gpus = Gpus(library, metrics)
    names = ("memory_used_bytes", "memory_total_bytes", "utilization_ratio")

    def shown() -> list[float | None]:
        values = metrics.registry.get_sample_value
        return [values(f"attendant_gpu_{name}", {"gpu": "0"}) for name in names]

    gpus.observe()
    assert shown() == [20 << 30, 80 << 30, 0.6]
    library.is_gone = True
    gpus.observe()
    gpus.observe()
    assert shown() == [None] * 3
    library.is_gone = False
    gpus.observe()
    assert shown() == [20 << 30, 80 << 30, 0.6]
