"""Classify a folder of pictures with the server's engine and compare with the folders' names."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from export.data.images import picture_files
from export.data.sampling import evenly_spaced
from export.evaluate.figures import Evaluation
from service.bundle import Bundle
from service.classification.engine import ClassificationEngine
from service.metrics import Metrics
from service.settings import Precision, Settings

PICTURES_PER_CALL = 256


def evaluate_classification(
    bundle: Bundle, precisions: Sequence[Precision], folder: Path, limit: int | None = None
) -> Evaluation:
    """Measure every precision on FOLDER/LABEL/*, or on `limit` pictures spread over them.

    Raises ValueError where a folder is no label of the model, AttendantError where a picture cannot
    be read.
    """
    files = picture_files(folder)
    unknown = {label for label, _ in files} - set(bundle.classification.labels)
    if unknown:
        raise ValueError(f"{folder} has labels the model does not: {', '.join(sorted(unknown))}")
    chosen = evenly_spaced(files, limit)
    figures: dict[str, dict[str, float]] = {}
    for precision in precisions:
        found, seconds = _classify(bundle, precision, [path for _, path in chosen])
        right = sum(label == best for (label, _), best in zip(chosen, found, strict=True))
        figures[precision] = {
            "accuracy": round(right / len(chosen), 4),
            "images_per_second": round(len(chosen) / seconds, 1),
        }
    return Evaluation(figures)


def _classify(
    bundle: Bundle, precision: Precision, paths: Sequence[Path]
) -> tuple[list[str], float]:
    """The most probable label of every picture, and the seconds all of them took."""
    settings = Settings.model_validate(
        {"precision": precision, "max_queued_images": PICTURES_PER_CALL}
    )
    engine = ClassificationEngine(bundle, settings=settings, metrics=Metrics.create())

    async def run() -> tuple[list[str], float]:
        engine.start()
        try:
            begun = time.perf_counter()
            labels: list[str] = []
            for start in range(0, len(paths), PICTURES_PER_CALL):
                contents = [path.read_bytes() for path in paths[start : start + PICTURES_PER_CALL]]
                for result in (await engine.classify(contents, 1)).results:
                    if result.error is not None:
                        raise result.error
                    labels.append(result.labels[0].label)
            return labels, time.perf_counter() - begun
        finally:
            await engine.stop()

    return asyncio.run(run())
