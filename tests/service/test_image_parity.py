"""Pixel values are Hugging Face's, to the last bit."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.bundle import ImagePreprocessing
from service.classification.image import Preprocessor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("width", "height"), [(37, 23), (640, 481), (100, 300), (20, 20)])
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"size": {"height": 32, "width": 32}, "resample": 2}, {"size": 32}),
        (
            {
                "size": {"shortest_edge": 33},
                "crop_size": {"height": 28, "width": 28},
                "do_center_crop": True,
                "resample": 3,
            },
            {"size": 33, "shortest_edge": True, "center_crop": 28, "resample": "bicubic"},
        ),
        (
            {
                "size": {"shortest_edge": 9},
                "crop_size": {"height": 28, "width": 28},
                "do_center_crop": True,
                "resample": 2,
            },
            {"size": 9, "shortest_edge": True, "center_crop": 28},
        ),
    ],
    ids=["square", "crop", "border"],
)
def test_pixel_values_equal_hugging_faces(
    width: int, height: int, theirs: dict[str, Any], ours: dict[str, Any]
) -> None:
    pil = pytest.importorskip("transformers.models.bit.image_processing_pil_bit")
    crops = {"do_center_crop": False, **theirs}
    processor = pil.BitImageProcessorPil(image_mean=list(MEAN), image_std=list(STD), **crops)
    levels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image, file = Image.fromarray(levels), io.BytesIO()
    image.save(file, "PNG")
    expected = processor(image, return_tensors="np")["pixel_values"][0]
    card = ImagePreprocessing(**{"resample": "bilinear", "mean": MEAN, "std": STD, **ours})
    found = Preprocessor(card, max_pixels=10**6)(file.getvalue())
    assert np.array_equal(found, expected)
