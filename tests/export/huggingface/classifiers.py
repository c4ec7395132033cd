"""Small classifiers of every family, saved by transformers: real switches, random weights."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from torch import nn

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "id2label": {index: f"label {index}" for index in range(12)},
    "image_size": 32,
    "patch_size": 8,
}


@dataclass(frozen=True, slots=True)
class Classifier:
    """A checkpoint's folder, and what made it."""

    folder: Path
    model: Any
    processor: Any

    def logits(self, files: list[bytes]) -> np.ndarray:
        """What transformers answers (B, C), each picture by itself."""
        found = []
        with torch.no_grad():
            for file in files:
                image = Image.open(io.BytesIO(file))
                pixels = self.processor(image, return_tensors="pt")["pixel_values"]
                found.append(self.model(pixels.float()).logits[0].numpy())
        return np.stack(found)


def vit(folder: Path, processing: dict[str, Any] | None = None, **changes: Any) -> Classifier:
    """google/vit-base-patch16-224's config.json and preprocessor_config.json."""
    config = transformers.ViTConfig(**SIZES | {"intermediate_size": 48} | changes)
    processor = transformers.ViTImageProcessorPil(
        **{"size": {"height": 32, "width": 32}} | (processing or {})
    )
    return _save(transformers.ViTForImageClassification(config), processor, folder)


def deit(folder: Path, processing: dict[str, Any] | None = None, **changes: Any) -> Classifier:
    """facebook/deit-base-distilled-patch16-224's, of which only the class token is read."""
    return _deit(transformers.DeiTForImageClassification, folder, processing, changes)


def deit_with_teacher(
    folder: Path, processing: dict[str, Any] | None = None, **changes: Any
) -> Classifier:
    """facebook/deit-base-distilled-patch16-224's, whose answer is the mean of two heads."""
    return _deit(transformers.DeiTForImageClassificationWithTeacher, folder, processing, changes)


def _deit(
    kind: Any, folder: Path, processing: dict[str, Any] | None, changes: dict[str, Any]
) -> Classifier:
    config = transformers.DeiTConfig(**SIZES | {"intermediate_size": 48} | changes)
    processor = transformers.DeiTImageProcessorPil(
        **{"size": {"height": 37, "width": 37}, "crop_size": {"height": 32, "width": 32}}
        | (processing or {})
    )
    return _save(kind(config), processor, folder)


def dinov2(folder: Path, processing: dict[str, Any] | None = None, **changes: Any) -> Classifier:
    """facebook/dinov2-base-imagenet1k-1-layer's: trained on larger pictures than it is given."""
    config = transformers.Dinov2Config(**SIZES | {"mlp_ratio": 2, "image_size": 72} | changes)
    processor = transformers.BitImageProcessorPil(
        **{
            "size": {"shortest_edge": 48},
            "crop_size": {"height": 40, "width": 40},
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
        }
        | (processing or {})
    )
    return _save(transformers.Dinov2ForImageClassification(config), processor, folder)


CLASSIFIERS: dict[str, Callable[..., Classifier]] = {
    "vit": vit,
    "deit": deit,
    "deit-with-teacher": deit_with_teacher,
    "dinov2": dinov2,
}


def _save(model: Any, processor: Any, folder: Path) -> Classifier:
    torch.manual_seed(6)
    for name, parameter in model.eval().named_parameters():
        with torch.no_grad():
            if "norm" in name and name.endswith("weight"):
                nn.init.normal_(parameter, mean=1.0, std=0.2)
            elif "lambda" in name:
                nn.init.uniform_(parameter, 0.1, 2.0)
            elif parameter.ndim == 1 or "token" in name or "position" in name:
                nn.init.normal_(parameter, std=0.5)
            else:
                inputs = parameter[0].numel()
                nn.init.normal_(parameter, std=1.5 * inputs**-0.5)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return Classifier(folder, model, processor)


def pictures(count: int = 12, size: tuple[int, int] | None = None) -> list[bytes]:
    """Files of many sizes, JPEG and PNG, without two that look alike."""
    random = np.random.default_rng(4)
    files = []
    for index in range(count):
        shape = size or (int(random.integers(9, 140)), int(random.integers(9, 140)))
        coarse = Image.fromarray(random.integers(0, 256, (4, 4, 3), np.uint8))
        file = io.BytesIO()
        image = coarse.resize(shape, Image.Resampling.BICUBIC)
        image.save(file, "JPEG" if index % 2 else "PNG")
        files.append(file.getvalue())
    return files
