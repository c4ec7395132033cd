"""A classifier's real runner, with faults to order."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle import Bundle
from service.classification.runner import ClassifierRunner


class FaultyRunner:
    """The real runner, with faults; its device is the CPU, whatever it is called."""

    def __init__(self, bundle: Bundle, *, device: str, **given: Any) -> None:
        self.real = ClassifierRunner(bundle, device="cpu", **given)
        self.device = device
        self.max_batch, self.num_runs = 16, 1
        self.batches: list[int] = []
        self.fault: Callable[[Sequence[NDArray[np.float32]]], str | None] = lambda images: None

    def run(
        self, images: Sequence[NDArray[np.float32]], alone: bool = False
    ) -> NDArray[np.float32]:
        self.batches.append(len(images))
        if (words := self.fault(images)) is not None:
            raise RuntimeError(words)
        return self.real.run(images, alone)
