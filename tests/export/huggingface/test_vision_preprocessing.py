"""Every picture becomes what transformers' PIL image processors make of it, pixel by pixel."""

import io
from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image

from export.huggingface.preprocessing import read_preprocessing
from service.classification.image import Preprocessor

SQUARE, EDGE = {"height": 40, "width": 40}, {"shortest_edge": 37}
CROP = {"do_center_crop": True, "crop_size": {"height": 32, "width": 32}}
PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "ViT": ("ViT", {}),
    "ViT, every step's opposite": (
        "ViT",
        {"do_rescale": False, "do_normalize": False, "size": SQUARE, "resample": 5},
    ),
    "ViT, normalised levels": ("ViT", {"do_rescale": False, "size": SQUARE, "image_mean": 99.5}),
    "ViT, RGB": ("ViT", {"do_convert_rgb": True, "size": 33, "resample": 0}),
    "ViT, crop alone": ("ViT", {"do_resize": False, **CROP}),
    "DeiT": ("DeiT", {}),
    "DeiT, rescaled alone": ("DeiT", {"do_normalize": False, "size": 50, "crop_size": 33}),
    "DeiT, a crop larger than the picture": ("DeiT", {"size": 21, "crop_size": 32}),
    "DeiT, a factor": ("DeiT", {"rescale_factor": 1 / 127.5, "resample": 4, **CROP}),
    "Bit": ("Bit", {}),
    "Bit, odd": ("Bit", {"size": EDGE, "resample": 2, "crop_size": {"height": 32, "width": 32}}),
    "Bit, a crop larger than the edge": ("Bit", {"size": {"shortest_edge": 20}, "crop_size": 33}),
    "Bit, square": ("Bit", {"size": SQUARE, "do_center_crop": False, "resample": 1}),
}  # fmt: skip


def colours(width: int, height: int) -> Image.Image:
    random = np.random.default_rng(width * height)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))


def translucent(width: int, height: int) -> Image.Image:
    levels = np.random.default_rng(1).integers(0, 256, (height, width, 4), np.uint8)
    return Image.fromarray(levels)


def as_file(image: Image.Image, kind: str = "PNG", **save: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **save)
    return file.getvalue()


def palette(width: int, height: int) -> Image.Image:
    return colours(width, height).quantize(60)


PICTURES = {
    "JPEG": as_file(colours(83, 61), "JPEG"),
    "CMYK JPEG": as_file(colours(44, 61).convert("CMYK"), "JPEG"),
    "grey JPEG": as_file(colours(50, 40).convert("L"), "JPEG"),
    "PNG": as_file(colours(70, 31)),
    "WebP": as_file(colours(60, 80), "WEBP"),
    "BMP": as_file(colours(64, 48), "BMP"),
    "GIF": as_file(colours(45, 67), "GIF"),
    "translucent GIF": as_file(palette(45, 67), "GIF", transparency=7),
    "palette": as_file(palette(51, 38)),
    "one colour of a palette clear": as_file(palette(51, 38), transparency=3),
    "a palette translucent": as_file(palette(38, 51), transparency=bytes(range(0, 240, 4))),
    "grey": as_file(colours(41, 29).convert("L")),
    "one grey clear": as_file(colours(41, 29).convert("L"), transparency=100),
    "translucent grey": as_file(translucent(33, 44).convert("LA")),
    "black and white": as_file(colours(41, 29).convert("1")),
    "translucent": as_file(translucent(57, 43)),
    "translucent and high": as_file(translucent(19, 150)),
    "translucent WebP": as_file(translucent(43, 57), "WEBP", lossless=True),
    "one colour clear": as_file(Image.new("RGB", (30, 40), (9, 8, 7)), transparency=(9, 8, 7)),
    "a pixel": as_file(colours(1, 1)),
    "tiny": as_file(colours(3, 2)),
    "exact": as_file(colours(32, 32)),
    "thin": as_file(colours(2, 90)),
    "flat": as_file(colours(120, 1)),
    "large": as_file(colours(1801, 1203), "JPEG"),
}


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize("picture", PICTURES)
def test_pixels_are_those_of_the_processor(processor: str, picture: str) -> None:
    kind, options = PROCESSORS[processor]
    theirs = getattr(transformers, f"{kind}ImageProcessorPil").from_dict(dict(options))
    ours = read_preprocessing(theirs, None)
    image = Image.open(io.BytesIO(PICTURES[picture]))
    if not theirs.do_convert_rgb:  # it then takes RGB alone: its pipeline converts before
        image = image.convert("RGB")
    expected = theirs(image, return_tensors="np")["pixel_values"][0]
    found = Preprocessor(ours, max_pixels=10**8)(PICTURES[picture])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected.astype(np.float32))
