"""The bytes of an image file -> the array that a model takes, as Hugging Face's PIL processors do.

Pure functions and one immutable object; safe in any thread. Knows no model and no batch.
"""

import math
import warnings
from io import BytesIO
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from service.bundle import ImagePreprocessing
from service.errors import ImageTooLarge, InvalidImage

FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "GIF")

# We have a limit of our own, checked before a pixel is decoded.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

# The formats, and what people send instead of them, by the first bytes.
_KNOWN_BEGINNINGS: Final = (
    (b"\xff\xd8\xff", "a JPEG"),
    (b"\x89PNG\r\n\x1a\n", "a PNG"),
    (b"GIF8", "a GIF"),
    (b"BM", "a BMP"),
    (b"%PDF", "a PDF"),
    (b"II*\0", "a TIFF"),
    (b"MM\0*", "a TIFF"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"<svg", "an SVG"),
    (b"<?xml", "XML"),
    (b"<!DOCTYPE", "HTML"),
    (b"<html", "HTML"),
    (b"\x00\x00\x01\x00", "an ICO"),
    (b"data:", "a data: URL"),
)


class Preprocessor:
    """Turns image files into `pixel_values` of one model."""

    def __init__(self, card: ImagePreprocessing, *, max_pixels: int) -> None:
        self._card = card
        self._max_pixels = max_pixels
        self._levels = _normalized_levels(card)
        edge = card.size if card.center_crop is None else card.center_crop
        self.size = (edge, edge)

    def __call__(self, content: bytes) -> NDArray[np.float32]:
        """Decode, resize, crop, rescale, normalise -> (3, height, width). Raises InvalidImage."""
        image = decode(content, max_pixels=self._max_pixels)
        if self._card.resize:
            image = resize(image, self._card)
        levels = np.asarray(image)  # (height, width, 3) uint8
        if self._card.center_crop is not None:
            levels = center_crop(levels, self._card.center_crop)
        if levels.shape[:2] != self.size:
            height, width = levels.shape[:2]
            raise InvalidImage(
                f"expected {self.size[1]} x {self.size[0]} pixels, found {width} x {height}"
            )
        # (height, width, 3) -> (3, height, width)
        return np.stack([self._levels[channel][levels[..., channel]] for channel in range(3)])


def decode(content: bytes, *, max_pixels: int) -> Image.Image:
    """Decode an image file into upright RGB. Raises InvalidImage, ImageTooLarge."""
    try:
        with Image.open(BytesIO(content), formats=FORMATS) as image:
            _check_size(image, max_pixels)
            image.load()
            return to_rgb(ImageOps.exif_transpose(image))
    except InvalidImage:
        raise
    except UnidentifiedImageError as error:
        raise InvalidImage(
            f"expected a JPEG, PNG, WebP, BMP or GIF image, found {describe(content)}"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(f"{error}; the limit is {max_pixels} pixels") from error
    except Exception as error:  # a decoder fed hostile bytes may fail in any way
        raise InvalidImage(f"{describe(content)} is broken or cut off: {error}") from error


def _check_size(image: Image.Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise ImageTooLarge(
            f"image has {image.width} x {image.height} = {image.width * image.height} pixels, "
            f"the limit is {max_pixels}"
        )


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB, as Hugging Face does: transparency is dropped, not blended.

    Only 16-bit grey differs: Pillow would clip it at 255; it is scaled instead.
    """
    if image.mode.startswith("I"):
        high_bytes = np.asarray(image).astype(np.int64).clip(0, 0xFFFF) >> 8
        image = Image.fromarray(high_bytes.astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def resize(image: Image.Image, card: ImagePreprocessing) -> Image.Image:
    """To size x size, or so that the shorter edge is `size`."""
    width, height = card.size, card.size
    if card.shortest_edge:
        long = int(card.size * max(image.size) / min(image.size))
        width, height = (card.size, long) if image.width <= image.height else (long, card.size)
    return image.resize((width, height), resample=Image.Resampling[card.resample.upper()])


def center_crop(levels: NDArray[np.uint8], edge: int) -> NDArray[np.uint8]:
    """(height, width, 3) -> (edge, edge, 3): the middle; what is too small gets a black border."""
    height, width = levels.shape[:2]
    if height < edge or width < edge:
        above = math.ceil((max(edge, height) - height) / 2)
        left = math.ceil((max(edge, width) - width) / 2)
        below, right = max(edge, height) - height - above, max(edge, width) - width - left
        levels = np.pad(levels, ((above, below), (left, right), (0, 0)))
        height, width = levels.shape[:2]
    top, left = (height - edge) // 2, (width - edge) // 2
    return levels[top : top + edge, left : left + edge]


def _normalized_levels(card: ImagePreprocessing) -> NDArray[np.float32]:
    """What each of the 256 levels becomes in each channel -> (3, 256).

    The roundings are Hugging Face's: rescaled in float64 and stored, normalised in float32.
    """
    rescaled = (np.arange(256, dtype=np.float64) * card.rescale_factor).astype(np.float32)
    mean = np.array(card.mean, dtype=np.float32)[:, None]
    std = np.array(card.std, dtype=np.float32)[:, None]
    return (rescaled - mean) / std


def describe(content: bytes) -> str:
    """What these bytes seem to be, for an error message."""
    if not content:
        return "no bytes"
    size = f"({len(content)} bytes)"
    if content[:4] == b"RIFF":
        return f"a {content[8:12].decode('ascii', 'replace')} file {size}"
    if content[4:8] == b"ftyp":
        return f"a {content[8:12].decode('ascii', 'replace').strip()} file {size}"
    for beginning, name in _KNOWN_BEGINNINGS:
        if content.lstrip()[: len(beginning)].lower() == beginning.lower():
            return f"{name} {size}"
    return f"{len(content)} bytes that begin with {content[:8].hex(' ')}"
