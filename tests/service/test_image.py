"""Every kind of image file, and every kind of file that is none."""

import io
import queue
import subprocess
import sys
import textwrap
import threading
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.bundle import ImagePreprocessing
from service.classification.image import Preprocessor, decode
from service.classification.pixels import SMALL_PIXELS, PixelBudget
from service.errors import ImageTooLarge, InvalidImage
from tests.service.bad_input.conftest import ROOT
from tests.service.bad_input.pictures import black
from tests.service.conftest import image_file

LIMIT = 1_000_000
PATIENCE_SECONDS = 30


def card(**fields: Any) -> ImagePreprocessing:
    means = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    return ImagePreprocessing(**{"size": 16, "resample": "bilinear", **means, **fields})


def photo(width: int = 37, height: int = 23) -> Image.Image:
    levels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def as_file(image: Image.Image, kind: str, **save: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **save)
    return file.getvalue()


def first_pixel(content: bytes) -> tuple[int, ...]:
    pixel = decode(content, max_pixels=LIMIT).getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return pixel


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "WEBP", "JPEG"])
def test_every_format_is_decoded(kind: str) -> None:
    save = {"lossless": True} if kind == "WEBP" else {}
    assert np.allclose(
        first_pixel(image_file((200, 30, 90), kind=kind, **save)), (200, 30, 90), 2, 2
    )


@pytest.mark.parametrize(
    ("mode", "colour", "kind", "expected"),
    [
        ("L", 77, "PNG", (77, 77, 77)),
        ("LA", (77, 0), "PNG", (77, 77, 77)),
        ("1", 1, "PNG", (255, 255, 255)),
        ("RGBA", (9, 8, 7, 0), "PNG", (9, 8, 7)),
        ("I;16", 0x4D00, "PNG", (77, 77, 77)),
        ("CMYK", (0, 255, 255, 0), "JPEG", (254, 0, 0)),
    ],
)
def test_every_colour_mode_becomes_rgb(
    mode: str, colour: Any, kind: str, expected: tuple[int, ...]
) -> None:
    found = first_pixel(image_file(colour, mode=mode, kind=kind))
    assert np.allclose(found, expected, atol=2)


def test_a_palette_with_transparency_keeps_its_colours() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    content = as_file(image, "PNG", transparency=bytes([255, 0]))
    assert first_pixel(content) == (10, 20, 30)


@pytest.mark.parametrize(
    ("mode", "colour", "save", "expected"),
    [
        ("RGBA", (200, 100, 0, 0), {}, (255, 255, 255)),
        ("RGBA", (200, 100, 0, 255), {}, (200, 100, 0)),
        ("RGBA", (200, 100, 0, 51), {}, (244, 224, 204)),
        ("LA", (100, 51), {}, (224, 224, 224)),
        ("L", 9, {"transparency": 9}, (255, 255, 255)),
        ("RGB", (9, 8, 7), {"transparency": (9, 8, 7)}, (255, 255, 255)),
        ("RGB", (9, 8, 7), {}, (9, 8, 7)),
    ],
)
def test_transparency_is_blended_onto_white_where_the_card_says_so(
    mode: str, colour: Any, save: dict[str, Any], expected: tuple[int, ...]
) -> None:
    content = as_file(Image.new(mode, (3, 150), colour), "PNG", **save)
    image = decode(content, max_pixels=LIMIT, transparency="white")
    assert image.getcolors() == [(450, expected)]


def test_exif_orientation_is_applied() -> None:
    image = photo(4, 2)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    content = as_file(image, "PNG", exif=exif)
    assert decode(content, max_pixels=LIMIT).size == (2, 4)
    assert first_pixel(content) == image.getpixel((0, 1))


def test_the_first_frame_of_a_gif_is_taken() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    content = as_file(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert first_pixel(content) == (255, 0, 0)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "no bytes"),
        (b"hello you", "9 bytes that begin with 68 65 6c 6c 6f 20 79 6f"),
        (b"%PDF-1.7 ...", "a PDF (12 bytes)"),
        (b"\n<html><body>", "HTML"),
        (b"\0\0\0\x1cftypavif" + bytes(8), "a file of type avif"),
        (as_file(photo(), "TIFF"), "a TIFF"),
        (as_file(photo(), "PNG")[:100], "a PNG (100 bytes) is broken or cut off"),
        (as_file(photo(), "JPEG")[:700], "a JPEG (700 bytes) is broken or cut off"),
        (as_file(photo(), "WEBP")[:200], "a file of type WEBP (200 bytes)"),
        (as_file(photo(), "BMP")[:200], "a BMP (200 bytes) is broken or cut off"),
        (as_file(photo(), "GIF")[:900], "a GIF (900 bytes) is broken or cut off"),
    ],
)
def test_what_is_no_image_is_refused_and_named(content: bytes, found: str) -> None:
    with pytest.raises(InvalidImage) as caught:
        decode(content, max_pixels=LIMIT)
    assert found in caught.value.message


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_any_prefix_and_any_flipped_byte_is_an_image_or_an_invalid_image(kind: str) -> None:
    content = as_file(photo(), kind)
    broken = [content[:end] for end in range(0, len(content), 41)]
    for position in range(0, min(len(content), 600), 7):
        flipped = bytearray(content)
        flipped[position] ^= 0xFF
        broken.append(bytes(flipped))
    for attempt in broken:
        try:
            assert decode(attempt, max_pixels=LIMIT).mode == "RGB"
        except InvalidImage as error:
            assert error.message  # noqa: PT017


def png_bomb(width: int, height: int) -> bytes:
    """A few bytes whose header announces many pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(name + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + name + content + crc

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100)))


@pytest.mark.parametrize("edge", [1001, 12_000, 60_000])
def test_a_bomb_is_refused_by_its_header(edge: int) -> None:
    with pytest.raises(ImageTooLarge) as caught:
        decode(png_bomb(edge, edge), max_pixels=LIMIT)
    assert str(edge * edge) in caught.value.message
    assert str(LIMIT) in caught.value.message


def test_pixels_are_normalised_in_float32() -> None:
    pixels = Preprocessor(card(), max_pixels=LIMIT)(image_file((255, 0, 128)))
    assert pixels.dtype == np.float32
    assert pixels.shape == (3, 16, 16)
    expected = (np.float32([1.0, 0.0, 128 / 255]) - np.float32(card().mean)) / np.float32(
        card().std
    )
    assert np.array_equal(pixels[:, 0, 0], expected)


def test_what_is_too_small_for_a_crop_gets_a_black_border() -> None:
    options = card(size=4, shortest_edge=True, center_crop=7)
    pixels = Preprocessor(options, max_pixels=LIMIT)(image_file((255, 255, 255), size=5))
    black, white = pixels[0, 0, 0], pixels[0, 3, 3]
    assert pixels.shape == (3, 7, 7)
    assert white > black


def test_a_picture_of_another_size_is_refused_where_nothing_is_resized() -> None:
    with pytest.raises(InvalidImage, match="expected 16 x 16 pixels, found 10 x 10"):
        Preprocessor(card(resize=False), max_pixels=LIMIT)(image_file())


@pytest.mark.parametrize(
    ("size", "too_large"), [((1, 2000), "16 x 32000 = 512000"), ((4, 20_000), "16 x 80000")]
)
def test_a_thin_picture_is_not_made_huge(size: tuple[int, int], too_large: str) -> None:
    """By its shorter edge a picture grows by any factor."""
    options = card(shortest_edge=True, center_crop=16)
    content = as_file(Image.new("RGB", size), "PNG")
    with pytest.raises(ImageTooLarge, match=f"resized image has {too_large}"):
        Preprocessor(options, max_pixels=200_000)(content)


def turned(mode: str, kind: str, **save: Any) -> bytes:
    """The largest picture, with a colour or a translucent one, to be turned."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new(mode, EDGES, (9, 8, 7, 0)[: len(Image.new(mode, (1, 1)).getbands())])
    return as_file(image, kind, exif=exif, **save)


EDGES = (7071, 7071)
LARGEST = {
    "1 bit": lambda: black(*EDGES, bits=1),
    "16 bits": lambda: black(*EDGES, bits=16),
    "translucent": lambda: turned("RGB", "PNG", transparency=(9, 8, 7), compress_level=1),
    "RGBA WebP": lambda: turned("RGBA", "WEBP", lossless=True, quality=0, method=0),
    "RGB WebP": lambda: turned("RGB", "WEBP", lossless=True, quality=0, method=0),
    "progressive CMYK": lambda: turned("CMYK", "JPEG", progressive=True),
}


def elsewhere(content: bytes, body: str) -> str:
    """What it prints in a process of its own, whose memory is its own."""
    script = """
        import resource, sys
        from concurrent.futures import ThreadPoolExecutor
        from service.classification.image import Preprocessor, decode
        from tests.service.test_image import card

        def status(name):
            lines = open("/proc/self/status").read().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024

        content = sys.stdin.buffer.read()
        before = status("VmRSS")
        """
    script = textwrap.dedent(script) + textwrap.dedent(body)
    command = [sys.executable, "-c", script]
    ran = subprocess.run(command, input=content, cwd=ROOT, capture_output=True, check=False)
    return (ran.stdout or ran.stderr).decode()


def bytes_a_pixel(content: bytes, body: str) -> float:
    """At the peak of what it does; the libraries of codecs take some megabytes beside them."""
    told = f"{textwrap.dedent(body)}\nprint(status('VmHWM') - before)"
    return (float(elsewhere(content, told)) - 16e6) / (EDGES[0] * EDGES[1])


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize("kind", LARGEST)
def test_the_largest_picture_takes_no_more_memory_than_is_said(kind: str) -> None:
    """The README says 16 bytes a pixel."""
    body = "decode(content, max_pixels=50_000_000, transparency='white')"
    assert bytes_a_pixel(LARGEST[kind](), body) <= 16


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_threads_together_take_no_more_memory_than_the_largest_picture() -> None:
    """Regression: with many threads a few small files took gigabytes."""
    body = """
        preprocess = Preprocessor(card(), max_pixels=50_000_000)
        with ThreadPoolExecutor(4) as threads:
            assert len(list(threads.map(preprocess, [content] * 4))) == 4
        """
    assert bytes_a_pixel(LARGEST["RGBA WebP"](), body) <= 16


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_what_is_kept_of_broken_pictures_has_none_of_their_pixels() -> None:
    """Regression: an error knew the frames that had them, for as long as its call lasted."""
    body = """
        preprocess = Preprocessor(card(), max_pixels=50_000_000)
        errors = []
        for _ in range(4):
            try:
                preprocess(content[:-100])
            except Exception as error:
                errors.append(error)
        assert {type(error).__name__ for error in errors} == {"InvalidImage"}
        """
    assert bytes_a_pixel(LARGEST["translucent"](), body) <= 16


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_small_pictures_that_are_made_large_wait_as_large_ones() -> None:
    """By its shorter edge a picture grows by any factor."""
    body = """
        options = card(shortest_edge=True, size=1000, center_crop=16)
        preprocess = Preprocessor(options, max_pixels=50_000_000)
        with ThreadPoolExecutor(6) as threads:
            assert len(list(threads.map(preprocess, [content] * 6))) == 6
        """
    thin = as_file(Image.new("RGB", (10, 400), (9, 8, 7)), "PNG")  # 40 million pixels then
    assert bytes_a_pixel(thin, body) <= 16


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process")
def test_a_picture_that_memory_lacks_for_is_not_called_broken() -> None:
    """Regression: it was INVALID_IMAGE, which nobody sends again."""
    body = """
        size = status("VmSize") + (64 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
        decode(content, max_pixels=50_000_000)
        """
    said = elsewhere(LARGEST["translucent"](), body)
    assert said.splitlines()[-1].startswith("MemoryError")


def test_pixels_beyond_the_budget_wait_in_line() -> None:
    """A large image is passed by nobody, and all get their turn."""
    budget = PixelBudget(100 * SMALL_PIXELS)
    entered: queue.SimpleQueue[int] = queue.SimpleQueue()
    leave = {size: threading.Event() for size in (60, 70, 10)}

    def hold(size: int) -> None:
        with budget.taken(size * SMALL_PIXELS):
            entered.put(size)
            assert leave[size].wait(PATIENCE_SECONDS)

    threads = [threading.Thread(target=hold, args=(size,)) for size in (60, 70, 10)]
    threads[0].start()
    assert entered.get(timeout=PATIENCE_SECONDS) == 60
    for number, thread in enumerate(threads[1:], 1):
        thread.start()
        while len(budget._line) < number:
            assert thread.is_alive()
    assert entered.empty()  # though 10 more would fit
    with budget.taken(SMALL_PIXELS):
        pass  # a small one waits for nobody
    leave[60].set()
    assert [entered.get(timeout=PATIENCE_SECONDS) for _ in range(2)] == [70, 10]
    for event in leave.values():
        event.set()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    with budget.taken(100 * SMALL_PIXELS):
        pass
