"""A classifier's runner through its faults: who fails, fails alone; batches shrink where memory
lacks; and where a GPU is lost, the CPU goes on. Knows neither files of images nor who waits.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.errors import AttendantError, InternalError, NoMemory
from service.faults import Failures, run_by_halves
from service.runtime import Device

logger = logging.getLogger(__name__)

Pixels = NDArray[np.float32]
Logits = NDArray[np.float32]

# Where a model runs: a device and a precision.
Placement = tuple[Device, str]


class BatchRunner(Protocol):
    """What is needed of a runner; see `ClassifierRunner`."""

    max_batch: int
    num_runs: int

    def run(self, images: Sequence[Pixels], alone: bool = False) -> Logits:
        """B arrays (3, H, W) -> logits (B, N)."""


class Classifier:
    """Runs batches; any thread may call `run` and `move`. Constructing it opens the model."""

    def __init__(
        self, open_runner: Callable[[Placement], BatchRunner], placement: Placement
    ) -> None:
        """Raises BundleError."""
        self._open_runner = open_runner
        self._moving = threading.Lock()
        self._use(placement)

    def run(self, images: Sequence[Pixels], alone: bool) -> list[Logits | AttendantError]:
        """Each image's logits (N,), or its error. Raises DeviceLost."""
        runner = self._runner
        results: list[Logits | AttendantError] = [InternalError() for _ in images]

        def run(indices: Sequence[int]) -> None:
            logits = runner.run([images[index] for index in indices], alone)
            for index, row in zip(indices, logits, strict=True):
                results[index] = row

        failures = run_by_halves(run, range(len(images)))
        for index in failures.starved:
            results[index] = NoMemory("the server has no memory for this image now")
        self._learn(failures, len(images), runner.max_batch)
        return results

    def move(self, placement: Placement) -> BatchRunner | None:
        """Open the model anew, unless it is there already; returns what ran it until then.

        Whoever calls it meanwhile waits. Raises BundleError.
        """
        with self._moving:
            if self.placement == placement:
                return None
            former = self._runner
            self._use(placement)
            return former

    def _use(self, placement: Placement) -> None:
        self._runner = self._open_runner(placement)
        self.placement = placement
        self.num_runs = self._runner.num_runs
        # A run that finds no memory halves it, one that does adds an image.
        self.max_batch = self._runner.max_batch

    def _learn(self, failures: Failures[int], num_images: int, max_batch: int) -> None:
        if failures.errors:
            logger.error(
                "a run of %d images failed, again by halves for %d of them",
                *(num_images, len(failures.members) + len(failures.starved)),
                exc_info=failures.errors[-1],
            )
        if failures.lack_memory:
            self.max_batch = max(1, num_images // 2)
            logger.warning("no memory for %d images; %d from now", num_images, self.max_batch)
        else:
            self.max_batch = min(self.max_batch + 1, max_batch)
