"""Image files of every kind, good and bad, from one photograph."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from tests.service.bad_input.conftest import SHIP

PHOTO = Image.open(io.BytesIO(SHIP)).convert("RGB")
FLIPPED = PHOTO.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
PALETTE = PHOTO.quantize(200)
GREY = PHOTO.convert("L")
CMYK = PHOTO.convert("CMYK")

# How the camera must have been held for an upright photograph, by what EXIF says of it.
HELD = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def file(image: Image.Image, kind: str = "PNG", **save: Any) -> bytes:
    written = io.BytesIO()
    image.save(written, kind, **save)
    return written.getvalue()


def animation(kind: str, first: Image.Image = PHOTO, **save: Any) -> bytes:
    return file(first, kind, save_all=True, append_images=[FLIPPED], duration=100, **save)


def rotated(orientation: int) -> bytes:
    """The photograph as a phone stores it that was held so."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    held = HELD[orientation]
    return file(PHOTO if held is None else PHOTO.transpose(held), exif=exif)


def see_through(image: Image.Image) -> Image.Image:
    """With a transparency that differs from pixel to pixel, and hides some entirely."""
    image = image.copy()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def chunk(name: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + check


def png(
    width: int, height: int, *, bits: int, colours: int, pixels: bytes, extra: bytes = b""
) -> bytes:
    """A PNG by hand; `pixels` are compressed already."""
    header = struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def sixteen_bits(image: Image.Image) -> bytes:
    """The same colours in 16 bits a channel; grey, grey with alpha, RGB or RGBA."""
    levels = np.asarray(image).astype(">u2") * 257
    levels = levels.reshape(image.height, -1)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    colours = {"L": 0, "RGB": 2, "LA": 4, "RGBA": 6}[image.mode]
    return png(*image.size, bits=16, colours=colours, pixels=zlib.compress(rows))


def zeros(num_bytes: int) -> bytes:
    """So many zero bytes, compressed a thousandfold."""
    compressor = zlib.compressobj()
    block = bytes(1 << 20)
    parts = [compressor.compress(block) for _ in range(num_bytes >> 20)]
    return b"".join(parts) + compressor.compress(bytes(num_bytes % len(block))) + compressor.flush()


def black(width: int, height: int, *, bits: int = 1) -> bytes:
    """A grey PNG without any light, which compresses well."""
    return png(
        width, height, bits=bits, colours=0, pixels=zeros(height * (1 + -(-width * bits // 8)))
    )


def with_exif(content: bytes) -> bytes:
    """The photograph as a JPEG with these bytes for EXIF."""
    exif = b"Exif\0\0" + content
    jpeg = file(PHOTO, "JPEG")
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


BOMB = zeros(200 << 20)  # of 200 MiB

# What gives the same labels: the file, and a plain one with the same pixels.
SAME = {
    "WebP": (file(PHOTO, "WEBP", lossless=True), file(PHOTO)),
    "BMP": (file(PHOTO, "BMP"), file(PHOTO)),
    "JPEG in CMYK": (file(CMYK, "JPEG", quality=100, subsampling=0), file(PHOTO)),
    "animated GIF": (animation("GIF", PALETTE), file(PALETTE.convert("RGB"))),
    "animated WebP": (animation("WEBP", lossless=True), file(PHOTO)),
    "animated PNG": (animation("PNG"), file(PHOTO)),
    "two pictures in a JPEG": (animation("MPO", quality=90), file(PHOTO, "JPEG", quality=90)),
    "RGB with alpha": (file(see_through(PHOTO)), file(PHOTO)),
    "grey with alpha": (file(see_through(GREY)), file(GREY.convert("RGB"))),
    "palette": (file(PALETTE), file(PALETTE.convert("RGB"))),
    "palette with alpha": (
        file(PALETTE, transparency=bytes(range(200))),
        file(PALETTE.convert("RGB")),
    ),
    "palette with a transparent colour": (
        file(PALETTE, transparency=3),
        file(PALETTE.convert("RGB")),
    ),
    "grey": (file(GREY), file(GREY.convert("RGB"))),
    "16-bit grey": (sixteen_bits(GREY), file(GREY)),
    "16-bit grey with alpha": (sixteen_bits(see_through(GREY)), file(GREY)),
    "16-bit RGB": (sixteen_bits(PHOTO), file(PHOTO)),
    "16-bit RGB with alpha": (sixteen_bits(see_through(PHOTO)), file(PHOTO)),
    "garbage behind a JPEG": (file(PHOTO, "JPEG") + b"\0 garbage" * 99, file(PHOTO, "JPEG")),
    "EXIF that is cut off": (
        with_exif(b"MM\0*\0\0\0\x08\0\x09\x01\x12\0\x03"),
        file(PHOTO, "JPEG"),
    ),
    "EXIF that is none": (with_exif(b"garbage" * 9), file(PHOTO, "JPEG")),
    **{f"EXIF orientation {held}": (rotated(held), file(PHOTO)) for held in HELD},
}

# What is refused: the file, the reason, and what the message says.
BAD = {
    "empty": (b"", "INVALID_IMAGE", "found no bytes"),
    "text": (b"hello, world", "INVALID_IMAGE", "12 bytes that begin with 68 65 6c 6c 6f 2c 20 77"),
    "JSON": (b'{"a": 1}', "INVALID_IMAGE", "8 bytes that begin with"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "INVALID_IMAGE", "an SVG (41 bytes)"),
    "TIFF": (file(PHOTO, "TIFF"), "INVALID_IMAGE", "found a TIFF ("),
    "PDF": (file(PHOTO, "PDF"), "INVALID_IMAGE", "found a PDF ("),
    "icon": (file(PHOTO, "ICO"), "INVALID_IMAGE", "found an ICO ("),
    "JPEG 2000": (b"\0\0\0\x0cjP  \r\n\x87\n", "INVALID_IMAGE", "12 bytes that begin with"),
    "AVIF": (b"\0\0\0\x1cftypavif" + bytes(16), "INVALID_IMAGE", "a file of type avif (28 bytes)"),
    "truncated JPEG": (SHIP[:-500], "INVALID_IMAGE", "bytes) is broken or cut off: image file is"),
    "JPEG without its body": (SHIP[:40], "INVALID_IMAGE", "a JPEG (40 bytes) is broken or cut off"),
    "truncated PNG": (file(PHOTO)[:-900], "INVALID_IMAGE", "is broken or cut off"),
    "truncated WebP": (
        file(PHOTO, "WEBP")[:200],
        "INVALID_IMAGE",
        "type WEBP (200 bytes) is broken",
    ),
    "PNG of 0 x 0": (
        png(0, 0, bits=8, colours=2, pixels=zeros(1)),
        *("INVALID_IMAGE", "bytes) is broken or cut off"),
    ),
    "20 000 x 20 000": (
        png(20_000, 20_000, bits=1, colours=0, pixels=b""),
        *("IMAGE_TOO_LARGE", "image has 400000000 pixels, the limit is 50000000"),
    ),
    "8 000 x 8 000": (
        png(8_000, 8_000, bits=1, colours=0, pixels=b""),
        *("IMAGE_TOO_LARGE", "image has 8000 x 8000 = 64000000 pixels, the limit is 50000000"),
    ),
    "WebP of 16 383 x 16 383": (
        b"RIFF\x1e\0\0\0WEBPVP8X\n\0\0\0\0\0\0\0\xfe\x3f\0\xfe\x3f\0VP8 \0\0\0\0",
        *("IMAGE_TOO_LARGE", "image has 268402689 pixels, the limit is 50000000"),
    ),
    "66 000 x 1": (
        black(66_000, 1),
        *("IMAGE_TOO_LARGE", "image has 66000 x 1 pixels, the limit is 65535 a side"),
    ),
    "1 x 40 000 000": (
        png(1, 40_000_000, bits=1, colours=0, pixels=b""),
        *("IMAGE_TOO_LARGE", "image has 1 x 40000000 pixels, the limit is 65535 a side"),
    ),
    "bomb in a text": (
        png(1, 1, bits=8, colours=0, pixels=zeros(2), extra=chunk(b"zTXt", b"k\0\0" + BOMB)),
        *("INVALID_IMAGE", "Decompressed data too large"),
    ),
    "bomb in a colour profile": (
        png(1, 1, bits=8, colours=0, pixels=zeros(2), extra=chunk(b"iCCP", b"k\0\0" + BOMB)),
        *("INVALID_IMAGE", "Decompressed data too large"),
    ),
}

# Small, thin and black pictures are pictures.
ODD = {
    "1 x 1": black(1, 1),
    "1 x 65 535": black(1, 65_535),
    "65 535 x 1": black(65_535, 1),
    "3 x 2 000": black(3, 2_000, bits=8),
    "more pixels than the header has": png(1, 1, bits=8, colours=0, pixels=BOMB),
}
