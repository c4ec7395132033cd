"""The bytes of an image file -> the array that a model takes, as Hugging Face's PIL processors do.

Pure functions and one immutable object; safe in any thread. Knows no model and no batch.
"""

import math
import re
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from io import BytesIO
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from service.bundle import ImagePreprocessing
from service.classification.pixels import PixelBudget
from service.errors import ImageTooLarge, InvalidImage
from service.faults import is_out_of_memory

Transparency = Literal["dropped", "white"]

FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "GIF")

# The largest side of a JPEG or a GIF. Beyond it a thin image of few pixels takes a great deal of
# memory all the same: a pointer for each row, coefficients for each column when it is resized.
MAX_SIDE: Final = 65535

# Pillow warns of damage that it reads over, such as in EXIF, and of sizes, for which we have our
# own limit. What is wrong with a caller's image is the caller's to hear, not the log's.
warnings.filterwarnings("ignore", module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_STRIP_ROWS: Final = 64

# EXIF's orientations, as what makes them upright; 1 is.
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

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
    (b"u\xabZ\x8af\xa0", "a data: URL, its head decoded as base64"),
)

# How a file of FORMATS begins; a WebP has its name further on.
_OUR_BEGINNINGS: Final = tuple(beginning for beginning, _ in _KNOWN_BEGINNINGS[:4])


class Preprocessor:
    """Turns image files into `pixel_values` of one model."""

    def __init__(
        self, card: ImagePreprocessing, *, max_pixels: int, budget: PixelBudget | None = None
    ) -> None:
        self._card = card
        self._max_pixels = max_pixels
        self._budget = budget or PixelBudget(max_pixels)
        self._levels = _normalized_levels(card)
        self.size = (card.output_size, card.output_size)

    def __call__(self, content: bytes) -> NDArray[np.float32]:
        """Decode, resize, crop, rescale, normalise -> (3, height, width). Raises InvalidImage.

        Waits while other threads unpack so many pixels that these are not in the budget.
        """
        with ExitStack() as taken:

            def reserve(size: tuple[int, int]) -> None:
                taken.enter_context(self._budget.taken(self._num_pixels(size)))

            try:
                return self._pixel_values(
                    decode(
                        content,
                        max_pixels=self._max_pixels,
                        transparency=self._card.transparency,
                        reserve=reserve,
                    )
                )
            except (InvalidImage, MemoryError) as error:
                failure = _without_frames(error)
        try:
            raise failure
        finally:
            del failure  # it knows this frame, which knew it

    def _num_pixels(self, size: tuple[int, int]) -> int:
        """The most that it has on its way; beyond the limit it is refused."""
        largest = math.prod(size)
        if self._card.resize:
            largest = max(largest, math.prod(target_size(size, self._card)))
        return min(largest, self._max_pixels)

    def _pixel_values(self, image: Image.Image) -> NDArray[np.float32]:
        if self._card.resize:
            _check_pixels(target_size(image.size, self._card), self._max_pixels, "resized image")
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


def decode(
    content: bytes,
    *,
    max_pixels: int,
    transparency: Transparency = "dropped",
    reserve: Callable[[tuple[int, int]], object] = lambda size: None,
) -> Image.Image:
    """Decode an image file into upright RGB. Raises InvalidImage, ImageTooLarge, MemoryError.

    Upright is as EXIF says, which a Hugging Face processor leaves to its caller. Of an animation
    it is the first frame. `reserve` is called with width and height before the pixels take memory,
    up to 16 bytes each.
    """
    try:
        image, turn = _unpack(content, max_pixels, transparency, reserve)
        return image if turn is None else image.transpose(turn)
    except InvalidImage:
        raise
    except UnidentifiedImageError as error:
        if content.startswith(_OUR_BEGINNINGS) or content[8:12] == b"WEBP":
            raise InvalidImage(f"{describe(content)} is broken or cut off") from error
        raise InvalidImage(
            f"expected a JPEG, PNG, WebP, BMP or GIF image, found {describe(content)}"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        (num_pixels,) = re.findall(r"\((\d+) pixels\)", str(error)) or ["far more"]
        raise ImageTooLarge(f"image has {num_pixels} pixels, the limit is {max_pixels}") from error
    except Exception as error:  # a decoder fed hostile bytes may fail in any way
        if is_out_of_memory(error):
            raise MemoryError(str(error)) from error
        raise InvalidImage(f"{describe(content)} is broken or cut off: {error}") from error


def _unpack(
    content: bytes,
    max_pixels: int,
    transparency: Transparency,
    reserve: Callable[[tuple[int, int]], object],
) -> tuple[Image.Image, Image.Transpose | None]:
    """RGB, and what makes it upright. What the file's own decoder holds is free behind it."""
    with Image.open(BytesIO(content), formats=FORMATS) as image:
        _check_pixels(image.size, max_pixels, "image")
        _check_side(image.size)
        reserve(image.size)
        image.load()
        return to_rgb(image, transparency), turn_of(image)


def _without_frames(error: Exception) -> Exception:
    """Itself; what led to it is forgotten, and with it the pixels that its frames hold."""
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error


def _check_pixels(size: tuple[int, int], max_pixels: int, what: str) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"{what} has {width} x {height} = {width * height} pixels, the limit is {max_pixels}"
        )


def _check_side(size: tuple[int, int]) -> None:
    if max(size) > MAX_SIDE:
        width, height = size
        raise ImageTooLarge(f"image has {width} x {height} pixels, the limit is {MAX_SIDE} a side")


def turn_of(file: Image.Image) -> Image.Transpose | None:
    """What makes it upright, as its EXIF (or XMP) says; none where that cannot be read."""
    try:
        return _TURNS.get(file.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # the pixels are good, whatever stands beside them
        return None


def to_rgb(image: Image.Image, transparency: Transparency = "dropped") -> Image.Image:
    """Any mode to RGB, transparency dropped as `Image.convert` does, or blended onto white.

    White is what a Hugging Face processor with do_convert_rgb puts behind it; without, it takes
    nothing but RGB. Only 16-bit grey differs: Pillow would clip it at 255; it is scaled instead.
    """
    if image.mode.startswith("I"):
        levels = np.asarray(image)  # (height, width) uint16; int32 in mode I
        levels = levels if levels.itemsize == 2 else levels.clip(0, 0xFFFF)
        return Image.fromarray((levels >> 8).astype(np.uint8)).convert("RGB")
    is_marked = image.info.get("transparency") is not None
    if transparency == "white" and (is_marked or "A" in image.getbands()):
        return _on_white(image)
    if image.mode == "P" and is_marked:
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    """A strip at a time: whole, the four copies in RGBA would take more memory than is allowed."""
    blended = Image.new("RGB", image.size)
    for top in range(0, image.height, _STRIP_ROWS):
        box = (0, top, image.width, min(top + _STRIP_ROWS, image.height))
        strip = image.crop(box).convert("RGBA")
        behind = Image.new("RGBA", strip.size, "white")
        blended.paste(Image.alpha_composite(behind, strip).convert("RGB"), (0, top))
    return blended


def target_size(size: tuple[int, int], card: ImagePreprocessing) -> tuple[int, int]:
    """Width and height: size x size, or such that the shorter edge is `size`."""
    if not card.shortest_edge:
        return card.size, card.size
    width, height = size
    long = int(card.size * max(size) / min(size))
    return (card.size, long) if width <= height else (long, card.size)


def resize(image: Image.Image, card: ImagePreprocessing) -> Image.Image:
    """To its target size."""
    resample = Image.Resampling[card.resample.upper()]
    return image.resize(target_size(image.size, card), resample=resample)


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
    if content[:4] == b"RIFF" or content[4:8] == b"ftyp":
        return f"a file of type {content[8:12].decode('ascii', 'replace').strip()} {size}"
    head = content[:64].lstrip().lower()
    for beginning, name in _KNOWN_BEGINNINGS:
        if head.startswith(beginning.lower()):
            return f"{name} {size}"
    return f"{len(content)} bytes that begin with {content[:8].hex(' ')}"
