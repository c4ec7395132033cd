"""Give a bundle its golden answers: what the server's engines say here, each sample alone.

Knows the engines through the self-test alone, which asks them the same way on other machines.
"""

import asyncio
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from service.bundle import Bundle, Direction, Precision
from service.golden import GoldenImages, GoldenTexts, ImageAnswer, TextAnswer
from service.languages import sample_directions
from service.selftest.images import WAY, ImageTrial
from service.selftest.machine import origin_here
from service.selftest.texts import TextTrial
from service.settings import Settings

NUM_TEXTS = 16
NUM_IMAGES = 10
# Every clone of a repository with a bundle in it has them.
MAX_IMAGE_BYTES = 4_000
MAX_BYTES_OF_ALL = 40_000


def golden_texts(bundle: Bundle, texts: Sequence[str]) -> str:
    """golden.json of a translation bundle. Raises what translating a text raises.

    A multilingual model translates the texts, which are English, into several languages.
    """
    directions = sample_directions(bundle.translation, len(texts))
    languages = tuple(direction.pair for direction in directions)
    golden = GoldenTexts(
        origin=origin_here(),
        texts=tuple(texts),
        languages=languages if bundle.translation.languages is not None else (),
        answers={
            precision: asyncio.run(_translate(bundle, precision, texts, directions))
            for precision in _precisions(bundle)
        },
    )
    return golden.model_dump_json(indent=1)


def golden_images(bundle: Bundle, images: Sequence[bytes]) -> str:
    """golden.json of a classification bundle. Raises what classifying an image raises."""
    golden = GoldenImages(
        origin=origin_here(),
        images=tuple(images),
        answers={
            precision: asyncio.run(_classify(bundle, precision, images))
            for precision in _precisions(bundle)
        },
    )
    return golden.model_dump_json(indent=1)


def read_small(paths: Sequence[Path], side: int) -> list[bytes]:
    """Image files, the larger ones as JPEGs of `side` pixels, as many as fit into the limit."""
    contents: list[bytes] = []
    for path in paths:
        content = path.read_bytes()
        if len(content) > MAX_IMAGE_BYTES:
            content = _shrunk(path, side)
        if contents and sum(map(len, contents)) + len(content) > MAX_BYTES_OF_ALL:
            break
        contents.append(content)
    return contents


async def _translate(
    bundle: Bundle, precision: Precision, texts: Sequence[str], directions: Sequence[Direction]
) -> dict[str, tuple[TextAnswer, ...]]:
    trial = TextTrial(bundle, _settings(precision), texts, directions)
    trial.start()
    try:
        return {way: tuple(await trial.alone(way)) for way in trial.ways}
    finally:
        await trial.stop()


async def _classify(
    bundle: Bundle, precision: Precision, images: Sequence[bytes]
) -> dict[str, tuple[ImageAnswer, ...]]:
    trial = ImageTrial(bundle, _settings(precision), images)
    trial.start()
    try:
        return {WAY: tuple(answer.kept() for answer in await trial.alone(WAY))}
    finally:
        await trial.stop()


def _precisions(bundle: Bundle) -> list[Precision]:
    """Those that a CPU runs; the others are held against fp32's answers."""
    return [precision for precision in bundle.card.precisions if precision != "fp16"]


def _settings(precision: Precision) -> Settings:
    return Settings.model_validate({"device": "cpu", "precision": precision})


def _shrunk(path: Path, side: int) -> bytes:
    file = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS).save(file, "JPEG")
    return file.getvalue()
