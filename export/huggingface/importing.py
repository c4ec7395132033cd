"""From a checkpoint's folder to a bundle and its report."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from export.huggingface.checkpoint import Checkpoint
from export.huggingface.families import Pair, is_classifier
from export.huggingface.report import Found, Report
from service.bundle import Bundle, Precision


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What the command line says beside the folders."""

    precisions: Sequence[Precision] = ("fp32", "int8")
    calibration: Path | None = None  # lines in the source language; a folder of pictures
    languages: Pair | None = None
    licence: str = "not stated"


DEFAULT_OPTIONS = ImportOptions()


def import_checkpoint(
    folder: Path, output: Path, options: ImportOptions = DEFAULT_OPTIONS
) -> Report:
    """Write the bundle `output` (.../NAME/VERSION) of a checkpoint.

    Raises CheckpointError for one that Attendant cannot serve exactly, before anything is written,
    and BundleError where the bundle exists already.
    """
    from export.huggingface.quiet import quiet_transformers
    from export.huggingface.translation import import_translation
    from export.huggingface.vision import import_vision

    begun = time.monotonic()
    checkpoint = Checkpoint(folder)
    bundle: Bundle
    parity: Mapping[str, Found]
    with quiet_transformers():
        import_task = import_vision if is_classifier(checkpoint) else import_translation
        bundle, parity = import_task(checkpoint, output, options)
    return Report.of(checkpoint, bundle, parity, seconds=time.monotonic() - begun)
