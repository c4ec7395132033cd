"""What the GPUs of this machine are doing, by NVML; nothing where nvidia-ml-py is not installed.

Of the whole machine: NVML knows nothing of CUDA_VISIBLE_DEVICES.
"""

import logging
from typing import Any, Self

from service.metrics import Metrics

logger = logging.getLogger(__name__)


class Gpus:
    """The GPUs as NVML sees them; `library` is its module, initialised."""

    def __init__(self, library: Any, metrics: Metrics) -> None:
        self._library = library
        self._metrics = metrics
        self._devices = [
            library.nvmlDeviceGetHandleByIndex(number)
            for number in range(library.nvmlDeviceGetCount())
        ]

    @classmethod
    def find(cls, metrics: Metrics) -> Self | None:
        """Those of this machine; None without nvidia-ml-py or without a driver."""
        try:
            import pynvml
        except ImportError:
            return None
        try:
            pynvml.nvmlInit()
            return cls(pynvml, metrics)
        except pynvml.NVMLError as error:
            logger.info("no figures of GPUs: %s", error)
            return None

    def observe(self) -> None:
        """Set the gauges to what is so now; there are none of what a GPU does not tell any more."""
        for number, device in enumerate(self._devices):
            used, total = self._metrics.gpu_memory_used_bytes, self._metrics.gpu_memory_total_bytes
            try:
                memory = self._library.nvmlDeviceGetMemoryInfo(device)
                used.labels(number).set(memory.used)
                total.labels(number).set(memory.total)
            except self._library.NVMLError:
                used.remove(number)
                total.remove(number)
            utilization = self._metrics.gpu_utilization_ratio
            try:
                percent = self._library.nvmlDeviceGetUtilizationRates(device).gpu
                utilization.labels(number).set(percent / 100)
            except self._library.NVMLError:
                utilization.remove(number)
