"""Checks of a classification bundle: logits and labels, at several batch sizes, bit for bit.

Letters: B batch, C labels.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from export.quantization import Floats
from export.verify.report import Bounds, Check, compare_int8
from export.verify.stepping import open_checked
from export.vit import VisionTransformer
from export.weights import load_bundle_model
from service.bundle import Bundle

BATCH_SIZES = (1, 3, 8)
NUM_PICTURES = 24


def check_classification(
    bundle: Bundle, pictures: Tensor | None, bounds: Bounds
) -> Iterator[Check]:
    """Check every precision of a bundle against its PyTorch model."""
    model = load_bundle_model(bundle.folder, VisionTransformer)
    pictures = _smooth_pictures(model.config.image_size) if pictures is None else pictures
    with torch.no_grad():
        expected: Floats = model(pictures).numpy()  # (B, C)
    for precision in bundle.precisions:
        batches = [_classify(bundle, precision, pictures.numpy(), size) for size in BATCH_SIZES]
        yield from _closeness(precision, expected, batches[0], bounds)
        same = [
            all(np.array_equal(batches[0][row], batch[row]) for batch in batches)
            for row in range(len(pictures))
        ]
        yield Check.all_of(precision, "bits, alone = batch", same)


def _closeness(precision: str, expected: Floats, found: Floats, bounds: Bounds) -> Iterator[Check]:
    if precision != "fp32":
        yield from compare_int8(precision, expected, found, bounds)
        return
    error = float(np.abs(expected - found).max())
    same = expected.argmax(-1) == found.argmax(-1)
    yield Check.at_most(precision, "logits", error, bounds.fp32_error)
    yield Check.all_of(precision, "labels", same.tolist())


def _classify(bundle: Bundle, precision: str, pictures: Floats, batch_size: int) -> Floats:
    session = open_checked(bundle, precision, "classifier")
    batches = [
        session.run(["logits"], {"pixel_values": pictures[start : start + batch_size]})[0]
        for start in range(0, len(pictures), batch_size)
    ]
    return np.concatenate(batches)  # (B, C)


def _smooth_pictures(size: int) -> Tensor:
    """Blurred noise with the mean and the spread of normalised pictures, (B, 3, size, size)."""
    noise = torch.randn(NUM_PICTURES, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(noise, size=(size, size), mode="bicubic")
