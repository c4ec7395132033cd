"""The classifier's sessions: pixel values in, logits out. The only user of ONNX Runtime here.

B images, N labels, H height, W width.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from service.bundle import Bundle, expected_tensors
from service.errors import BundleError
from service.runtime import Device, check_tensors, open_session

logger = logging.getLogger(__name__)

# What one timed run may take when a bundle is opened; larger batches are then not tried.
_LONGEST_PROBE_SECONDS = 0.25
_NUM_TIMED_RUNS = 3
# How much less an image has to cost for a batch twice as large, or for several threads.
_WORTHWHILE_GAIN = 1.1


@dataclass(frozen=True, slots=True)
class Batching:
    """How a classifier uses its device."""

    threads: int  # cores to use: one run at a time on each, or one run on all of them
    max_batch: int
    fixed: bool = (
        False  # every batch is filled up, so that a GPU picks the same kernels at any load
    )


class ClassifierRunner:
    """Runs batches of preprocessed images; any thread may call `run`.

    Measured on ViT-B/16 and two cores: a run a core does 10 % more images per second than runs on
    both cores, one after the other, and both cores answer an image that is alone 1.7 times faster.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        size: tuple[int, int],
        device: Device,
        precision: str,
        batching: Batching,
    ) -> None:
        """Open the graph, check it, find how to run it. Raises BundleError."""
        self._bundle, self._device, self._precision = bundle, device, precision
        self._image_shape = (3, *size)
        self._fixed_batch = batching.max_batch if batching.fixed else 0
        self._session = self._open(threads=1)
        self._on_all_cores: onnxruntime.InferenceSession | None = None
        self.max_batch = batching.max_batch
        self.num_runs = batching.threads if device == "cpu" else 1
        self._warm_up(num_labels=len(bundle.classification.labels))
        if device == "cpu":
            self._tune(batching.threads)

    def run(
        self, images: Sequence[NDArray[np.float32]], alone: bool = False
    ) -> NDArray[np.float32]:
        """B arrays (3, H, W) -> logits (B, N); on all cores if nobody else needs one."""
        pixel_values = np.stack(images)  # (B, 3, H, W)
        num_missing = self._fixed_batch - len(images)
        if num_missing > 0:
            pixel_values = np.pad(pixel_values, ((0, num_missing), (0, 0), (0, 0), (0, 0)))
        session = self._on_all_cores if alone and self._on_all_cores else self._session
        (logits,) = session.run(["logits"], {"pixel_values": pixel_values})
        return np.asarray(logits)[: len(images)]

    def _open(self, threads: int) -> onnxruntime.InferenceSession:
        path = self._bundle.path(self._precision, "classifier")
        session = open_session(path, device=self._device, threads=threads)
        expected = expected_tensors(self._bundle.card, "classifier", precision=self._precision)
        check_tensors(session, inputs=expected.inputs, outputs=expected.outputs, graph=str(path))
        return session

    def _warm_up(self, *, num_labels: int) -> None:
        try:
            logits = self.run([np.zeros(self._image_shape, np.float32)])
        except Exception as error:  # onnxruntime's exceptions share no base class but this one
            raise BundleError(
                f"expected a graph that takes (1, {self._image_shape}): {error}"
            ) from error
        if logits.shape != (1, num_labels):
            raise BundleError(
                f"expected logits of shape (1, {num_labels}), found {tuple(logits.shape)}"
            )

    def _tune(self, threads: int) -> None:
        """Measure what is worth while on this CPU, among what changes no answer."""
        name = f"{self._bundle.name}/{self._bundle.version}"
        if not self._is_isolated():
            logger.warning("%s: answers depend on the batch; images run one by one", name)
            self.max_batch = 1
        self.max_batch = self._worthwhile_batch()
        if threads > 1:
            self._keep_all_cores_if_faster(threads)
        logger.info(
            "%s: batches of up to %d images, %d at a time; an image that is alone runs on %d "
            "threads",
            name,
            self.max_batch,
            self.num_runs,
            threads if self._on_all_cores else 1,
        )

    def _worthwhile_batch(self) -> int:
        """The size up to which each doubling lowers the seconds an image takes."""
        size, seconds = 1, self._seconds(1)
        while 2 * size <= self.max_batch and 2 * size * seconds < _LONGEST_PROBE_SECONDS:
            doubled = self._seconds(2 * size) / (2 * size)
            if seconds < doubled * _WORTHWHILE_GAIN:
                break
            size, seconds = 2 * size, doubled
        return size

    def _keep_all_cores_if_faster(self, threads: int) -> None:
        """Keep a session on several threads if it answers one image faster, with the same bits."""
        one_thread, expected = self._seconds(1), self.run(self._noise(1))
        self._on_all_cores = self._open(threads)
        gain = one_thread / self._seconds(1, alone=True)
        same = np.array_equal(self.run(self._noise(1), alone=True), expected)
        if not same or gain < _WORTHWHILE_GAIN:
            self._on_all_cores = None

    def _seconds(self, num_images: int, alone: bool = False) -> float:
        images = self._noise(num_images)
        seconds = []
        for _ in range(_NUM_TIMED_RUNS):
            started = perf_counter()
            self.run(images, alone)
            seconds.append(perf_counter() - started)
        return min(seconds)

    def _is_isolated(self) -> bool:
        """Whether an image's logits are the same bits alone and beside others.

        Measured: they are, for fp32 and for int8 with scales that do not depend on the batch. A
        graph with one activation scale for the whole tensor fails: hence the loud neighbours.
        """
        (image,) = self._noise(1)
        started = perf_counter()
        alone = self.run([image])
        seconds = perf_counter() - started
        for size in sorted({2, self.max_batch} - {1}):
            if size * seconds > _LONGEST_PROBE_SECONDS and size > 2:
                break
            if not np.array_equal(self.run([image, *[image * 100] * (size - 1)])[:1], alone):
                return False
        return True

    def _noise(self, num_images: int) -> list[NDArray[np.float32]]:
        shape = (num_images, *self._image_shape)
        return list(np.random.default_rng(0).standard_normal(shape, np.float32))
