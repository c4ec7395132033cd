"""The classifier's session: pixel values in, logits out. The only user of ONNX Runtime here.

B images, N labels, H height, W width.
"""

import logging
from collections.abc import Sequence
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from service.bundle import Bundle, expected_tensors
from service.errors import BundleError
from service.runtime import Device, check_tensors, open_session

logger = logging.getLogger(__name__)

# What the check of isolation may take at start, for each batch size that is tried.
_PROBE_SECONDS = 0.25


class ClassifierRunner:
    """Runs batches of preprocessed images; one `run` at a time."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        size: tuple[int, int],
        device: Device,
        precision: str,
        threads: int,
        max_batch: int,
        fixed_batch: bool = False,
    ) -> None:
        """Open the graph, check it and run it once. Raises BundleError.

        `fixed_batch` fills every batch up to `max_batch`, so that a GPU picks the same kernels
        at any load.
        """
        path = bundle.path(precision, "classifier")
        self._session = open_session(path, device=device, threads=threads)
        expected = expected_tensors(bundle.card, "classifier", precision=precision)
        check_tensors(
            self._session, inputs=expected.inputs, outputs=expected.outputs, graph=str(path)
        )
        self._image_shape = (3, *size)
        self._fixed_batch = max_batch if fixed_batch else 0
        self.max_batch = max_batch
        self._warm_up(num_labels=len(bundle.classification.labels))
        if device == "cpu" and not self._is_isolated():
            logger.warning("%s: answers depend on the batch; images run one by one", path)
            self.max_batch = 1

    def run(self, images: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """B arrays (3, H, W) -> logits (B, N)."""
        pixel_values = np.stack(images)  # (B, 3, H, W)
        num_missing = self._fixed_batch - len(images)
        if num_missing > 0:
            pixel_values = np.pad(pixel_values, ((0, num_missing), (0, 0), (0, 0), (0, 0)))
        (logits,) = self._session.run(["logits"], {"pixel_values": pixel_values})
        return np.asarray(logits)[: len(images)]

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

    def _is_isolated(self) -> bool:
        """Whether an image's logits are the same bits alone and beside others.

        Measured: they are, for fp32 and for int8 with scales that do not depend on the batch. A
        graph with one activation scale for the whole tensor fails: hence the loud neighbours.
        """
        image = np.random.default_rng(0).standard_normal(self._image_shape, np.float32)
        started = perf_counter()
        alone = self.run([image])
        seconds = perf_counter() - started
        for size in sorted({2, self.max_batch} - {1}):
            if size * seconds > _PROBE_SECONDS and size > 2:
                break
            if not np.array_equal(self.run([image, *[image * 100] * (size - 1)])[:1], alone):
                return False
        return True
