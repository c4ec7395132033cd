"""What every contender that classifies ready tensors does around its engine."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from bench.contenders.protocol import serve, timed

Classify = Callable[[Any], Any]  # pixel_values (B, 3, H, W) -> logits (B, N)
Open = Callable[..., Classify]


def serve_classifier(open_model: Open) -> None:
    """Answer `load`, whose arguments are `open_model`'s, and `classify`."""
    loaded: list[Classify] = []

    def load(**arguments: Any) -> dict[str, Any]:
        loaded[:] = []
        loaded.append(open_model(**arguments))
        return {}

    def classify(pictures: str, batch_size: int, count: int, num_callers: int) -> dict[str, Any]:
        """So many pictures, from the first again when there are no more, by threads that call."""
        ready = np.load(Path(pictures))
        batches = [
            ready[np.arange(at, min(at + batch_size, count)) % len(ready)]
            for at in range(0, count, batch_size)
        ]
        with ThreadPoolExecutor(num_callers) as callers, timed() as times:
            logits = list(callers.map(loaded[0], batches))
        return {**times, "labels": np.concatenate(logits).argmax(axis=1).tolist()}

    serve(load=load, classify=classify)
