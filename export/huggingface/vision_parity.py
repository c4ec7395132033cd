"""An exported classifier beside the checkpoint in transformers: from a picture's file to logits.

Both sides read the file, each with its own preprocessing. Letters: B pictures, C labels.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from export.huggingface.checkpoint import Checkpoint
from export.huggingface.errors import CheckpointError
from export.huggingface.parity import RELATIVE_ERROR
from export.quantization import Floats
from export.verify.stepping import open_checked
from service.bundle import Bundle, ImagePreprocessing
from service.classification.image import Preprocessor

# Width and height: both directions, smaller and larger than what models take, one thin.
SIZES = ((640, 427), (333, 500), (224, 224), (96, 61), (32, 32), (900, 300), (517, 518), (48, 64))
TOP = 5
MAX_PIXELS = 10_000_000


@dataclass(frozen=True, slots=True)
class PictureParity:
    """One precision beside the checkpoint."""

    logits_error: float  # the largest difference
    largest_logit: float
    top_alike: int  # pictures with the same best labels in the same order
    pictures: int

    @property
    def alike(self) -> tuple[int, int]:
        """How many pictures, of how many."""
        return self.top_alike, self.pictures


@dataclass(frozen=True, slots=True)
class PictureReference:
    """What transformers answers, by picture."""

    files: Sequence[bytes]
    logits: Floats  # (B, C)


def ask_classifier(
    checkpoint: Checkpoint, class_name: str, processor: Any, image: ImagePreprocessing
) -> PictureReference:
    """Classify pictures by the checkpoint itself, a processor of transformers before it."""
    import transformers

    kind: Any = getattr(transformers, class_name)
    model = kind.from_pretrained(
        str(checkpoint.folder), local_files_only=True, dtype=torch.float32, low_cpu_mem_usage=True
    ).eval()
    any_size = image.resize or image.center_crop is not None
    sizes = SIZES if any_size else [(image.size, image.size)] * len(SIZES)
    files = [_picture(size, seed) for seed, size in enumerate(sizes)]
    logits = []
    with torch.no_grad():
        for file in files:
            pixels = processor(Image.open(io.BytesIO(file)), return_tensors="pt")["pixel_values"]
            logits.append(model(pixels.to(torch.float32)).logits[0].numpy())
    return PictureReference(files, np.stack(logits))


def compare_classifier(
    bundle: Bundle, precision: str, reference: PictureReference
) -> PictureParity:
    """A precision's logits. Raises CheckpointError for fp32 logits that are off."""
    preprocess = Preprocessor(bundle.classification.image, max_pixels=MAX_PIXELS)
    session = open_checked(bundle, precision, "classifier", mapped=True)
    found: Floats = np.concatenate(
        [
            session.run(["logits"], {"pixel_values": preprocess(file)[None]})[0]
            for file in reference.files
        ]
    )  # (B, C)
    expected = reference.logits
    error, largest = float(np.abs(found - expected).max()), float(np.abs(expected).max())
    if precision == "fp32" and not error <= RELATIVE_ERROR * max(1.0, largest):
        raise CheckpointError(
            f"logits of up to {largest:.3g} differ from the checkpoint's by {error:.3g}"
        )
    same = (_top(found) == _top(expected)).all(axis=1)
    return PictureParity(error, largest, int(same.sum()), len(same))


def _top(logits: Floats) -> Any:
    """The best labels, best first. (B, C) -> (B, TOP)."""
    return np.argsort(-logits, axis=1, kind="stable")[:, :TOP]


def _picture(size: tuple[int, int], seed: int) -> bytes:
    """A PNG of smooth colours with some noise on them."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (5, 5, 3), np.uint8))
    levels = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), np.int16)
    noisy = (levels + random.integers(-20, 21, levels.shape)).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "PNG")
    return file.getvalue()
