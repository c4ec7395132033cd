"""Pictures as nobody should send them, and odd ones that are pictures all the same."""

import io
import random
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

from bench.pictures import jpeg, waves

SIDE = 64  # pixels
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def corpus(seed: int) -> dict[str, bytes]:
    """By name; the same for the same seed."""
    picture = waves(np.random.default_rng(seed), SIDE)
    image = Image.fromarray(picture)
    good = {
        "JPEG": jpeg(picture),
        **{kind: _file(image, kind) for kind in ("PNG", "WEBP", "BMP", "GIF")},
    }
    return {
        **good,
        **{f"{name} cut off": content[: len(content) // 2] for name, content in good.items()},
        **{f"{name}, header alone": content[:32] for name, content in good.items()},
        **_odd(image),
        **_bombs(),
        "PNG with a wrong checksum": _wrong_checksum(good["PNG"]),
        "nothing": b"",
        "one byte": b"\xff",
        "zero bytes": bytes(4096),
        "noise": random.Random(seed).randbytes(4096),
        "text": b"hello, world",
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg' width='1' height='1'/>",
        "TIFF": _file(image, "TIFF"),
        "PDF": _file(image, "PDF"),
        "JPEG's mark and noise": b"\xff\xd8\xff\xe0" + random.Random(seed).randbytes(2000),
        "PNG that goes on as a JPEG": good["PNG"][:100] + good["JPEG"],
    }


def _odd(image: Image.Image) -> dict[str, bytes]:
    """Of other colours, sizes and numbers of frames."""
    deep = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    flipped = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    moving: dict[str, Any] = {"save_all": True, "append_images": [flipped], "duration": 100}
    return {
        "1 x 1": _file(image.resize((1, 1)), "PNG"),
        "1 x 4096": _file(image.resize((1, 4096)), "PNG"),
        "CMYK": _file(image.convert("CMYK"), "JPEG"),
        "grey": _file(image.convert("L"), "JPEG"),
        "16 bits": _file(deep, "PNG"),
        "palette": _file(image.quantize(200), "PNG"),
        "with alpha": _file(image.convert("RGBA"), "PNG"),
        "animated GIF": _file(image, "GIF", **moving),
        "animated WebP": _file(image, "WEBP", **moving),
        "animated PNG": _file(image, "PNG", **moving),
        "progressive JPEG": _file(image, "JPEG", progressive=True),
    }


def _bombs() -> dict[str, bytes]:
    """Small files that say that they are large, or unpack to much."""
    much = zlib.compress(bytes(64 << 20))
    return {
        "PNG that says 60 000 x 60 000": _png(60_000, 60_000, b""),
        "PNG that says 2^31 - 1 squared": _png(2**31 - 1, 2**31 - 1, b""),
        "PNG of 0 x 0": _png(0, 0, zlib.compress(b"\0")),
        "PNG with more pixels than it says": _png(1, 1, much),
        "PNG with a text of 64 MiB": _png(1, 1, zlib.compress(bytes(2)), b"zTXt", b"k\0\0" + much),
        "PNG with a profile of 64 MiB": _png(
            1, 1, zlib.compress(bytes(2)), b"iCCP", b"k\0\0" + much
        ),
        "WebP that says 16 383 x 16 383": b"RIFF\x1e\0\0\0WEBPVP8X\n\0\0\0\0\0\0\0"
        b"\xfe\x3f\0\xfe\x3f\0VP8 \0\0\0\0",
        "BMP that says 2^31 - 1 wide": b"BM"
        + struct.pack("<IHHI", 54, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, 2**31 - 1, -(2**31), 1, 24, 0, 0, 0, 0, 0, 0),
        "GIF that says 65 535 squared": b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0;",
    }


def _file(image: Image.Image, kind: str, **save: Any) -> bytes:
    written = io.BytesIO()
    image.save(written, kind, **save)
    return written.getvalue()


def _png(width: int, height: int, pixels: bytes, name: bytes = b"", extra: bytes = b"") -> bytes:
    """Grey, 8 bits, by hand; `pixels` are compressed already."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [
        (b"IHDR", header),
        *([(name, extra)] if name else []),
        (b"IDAT", pixels),
        (b"IEND", b""),
    ]
    return PNG_SIGNATURE + b"".join(_chunk(*part) for part in parts)


def _chunk(name: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + check


def _wrong_checksum(png: bytes) -> bytes:
    place = png.index(b"IDAT") + 4 + struct.unpack(">I", png[png.index(b"IDAT") - 4 :][:4])[0]
    return png[:place] + bytes([png[place] ^ 0xFF]) + png[place + 1 :]
