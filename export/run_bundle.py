"""From a run folder to a bundle: the weights, the calibration data, and where all of it comes from.

Knows run folders and their config.json; what a bundle is made of is bundling.py's.
"""

import random
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from export.bundling import (
    ClassificationDescription,
    Storage,
    TranslationDescription,
    export_classification,
    export_translation,
)
from export.data.images import normalise, picture_files, read_pictures
from export.data.parallel import Pair, read_parallel
from export.data.perturb import perturb
from export.data.sampling import evenly_spaced
from export.golden import NUM_IMAGES, NUM_TEXTS, read_small
from export.training.run_folder import RunFolder
from export.training.runs import TOKENIZER, load_classification_run, load_translation_run
from service.bundle import Bundle, Decoding, ImagePreprocessing, Precision, Provenance

DEFAULT_DECODING = Decoding(beam_size=4, max_target_tokens=256)
CALIBRATION_PAIRS = 200
CALIBRATION_PICTURES = 200


@dataclass(frozen=True, slots=True)
class BundleOptions:
    """What a bundle says and ships beside the trained weights."""

    name: str
    precisions: Sequence[Precision]
    data: str | None = None  # texts of the card; None: made from the configuration
    licence: str = "not stated"
    calibration: Sequence[Path] = ()  # SRC and TGT, or FOLDER; empty: those of the configuration
    golden: Path | None = None  # sentences, or FOLDER; None: those of the configuration
    snapshots: int | None = None  # average so many of the last snapshots, of a run still going on
    decoding: Decoding = DEFAULT_DECODING
    max_source_tokens: int = 96


def bundle_run(run_path: Path, output: Path, options: BundleOptions) -> Bundle:
    """Export a run as the bundle `output` (.../NAME/VERSION).

    Raises ValueError or FileNotFoundError for a run that cannot be exported, BundleError for a
    bundle that cannot be written.
    """
    run = RunFolder(run_path)
    config = run.read_config()
    if config["task"] == "translation":
        return _bundle_translation(run, config, output, options)
    return _bundle_classification(run, config, output, options)


def _bundle_translation(
    run: RunFolder, config: dict[str, Any], output: Path, options: BundleOptions
) -> Bundle:
    return export_translation(
        load_translation_run(run, options.snapshots),
        run.path / TOKENIZER,
        output,
        description=TranslationDescription(
            name=options.name,
            language_pairs=[tuple(config["languages"])],
            provenance=_provenance(run, config, options),
            decoding=options.decoding,
            max_source_tokens=options.max_source_tokens,
            max_target_tokens=options.decoding.max_target_tokens,
        ),
        calibration_pairs=_calibration_pairs(config, options),
        storage=Storage(options.precisions),
        golden=_golden_texts(config, options),
    )


def _bundle_classification(
    run: RunFolder, config: dict[str, Any], output: Path, options: BundleOptions
) -> Bundle:
    image = ImagePreprocessing(
        size=config["architecture"]["image_size"],
        resample="bilinear",  # as `export.data.images` reads them
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
    return export_classification(
        load_classification_run(run, options.snapshots),
        output,
        description=ClassificationDescription(
            options.name, config["labels"], image, _provenance(run, config, options)
        ),
        calibration_pictures=_calibration_pictures(config, options),
        storage=Storage(options.precisions),
        golden=_golden_pictures(config, options),
    )


def _calibration_pairs(config: dict[str, Any], options: BundleOptions) -> list[Pair]:
    """Some of the training pairs, changed as in training: ranges must hold for those too."""
    if "int8" not in options.precisions:
        return []
    paths = list(options.calibration or map(Path, config["train"]))
    if len(paths) != 2:
        raise ValueError(f"calibration needs two parallel files, not {len(paths)}")
    pairs = evenly_spaced(read_parallel(*_existing(paths)), CALIBRATION_PAIRS)
    return perturb(pairs, random.Random(0)) if config["data"]["perturb"] else pairs


def _calibration_pictures(config: dict[str, Any], options: BundleOptions) -> torch.Tensor | None:
    if "int8" not in options.precisions:
        return None
    paths = list(options.calibration or [Path(config["train"])])
    if len(paths) != 1:
        raise ValueError(f"calibration needs one folder of pictures, not {len(paths)}")
    size = config["architecture"]["image_size"]
    files = evenly_spaced(picture_files(_existing(paths)[0]), CALIBRATION_PICTURES)
    pixels = read_pictures([path for _, path in files], size)
    return normalise(pixels, torch.tensor(config["mean"]), torch.tensor(config["std"]))


def _golden_texts(config: dict[str, Any], options: BundleOptions) -> list[str]:
    """Some sentences in the source language; none where the data of the run is gone."""
    named = [config["valid"][0], *options.calibration[:1], config["train"][0]]
    path = options.golden or _first_existing(named)
    if path is None:
        return []
    sentences = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return evenly_spaced(list(filter(None, sentences)), NUM_TEXTS)


def _golden_pictures(config: dict[str, Any], options: BundleOptions) -> list[bytes]:
    """Some pictures, as above."""
    named = [config["valid"], *options.calibration, config["train"]]
    path = options.golden or _first_existing(named)
    if path is None:
        return []
    files = evenly_spaced(picture_files(path), NUM_IMAGES)
    return read_small([file for _, file in files], config["architecture"]["image_size"])


def _first_existing(paths: Sequence[str | Path | None]) -> Path | None:
    return next((Path(path) for path in paths if path and Path(path).exists()), None)


def _existing(paths: Sequence[Path]) -> Sequence[Path]:
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(
                f"{path}, to calibrate int8 with, is not there; name the training data by "
                "--calibration, or leave int8 out by --precision fp32"
            )
    return paths


def _provenance(run: RunFolder, config: dict[str, Any], options: BundleOptions) -> Provenance:
    hours, outcome = _outcome(run, options.snapshots)
    command = textwrap.indent(training_command(config), "    ")  # code, in Markdown
    recipe = f"{command}\n\n{outcome}"
    if earlier := config.get("earlier"):  # what the run started from was trained, too
        recipe = f"{earlier['recipe']}\n\nThen, from those weights:\n\n{recipe}"
        hours += earlier["trained_hours"] or 0.0
    return Provenance(
        data=options.data or f"Files {_named(config['train'])}; validation {_validation(config)}.",
        licence=options.licence,
        recipe=recipe,
        trained_hours=round(hours, 2),
    )


def _outcome(run: RunFolder, snapshots: int | None) -> tuple[float, str]:
    """Hours of training, and a sentence on what came of it."""
    epochs = run.read_log()
    if snapshots is not None:
        state = run.load_checkpoint() or {"seconds": 0.0}
        count = len(run.snapshot_epochs()[-snapshots:])
        figures = {name: value for name, value in epochs[-1].items() if name.startswith("valid_")}
        return state["seconds"] / 3600, (
            f"Training had not ended: the average of the weights after the last {count} of "
            f"{len(epochs)} epochs. The last of them: {_shown(figures)}."
        )
    figures = run.read_progress()
    hours, count = figures["hours"], round(figures["averaged"])
    measured = {k: v for k, v in figures.items() if k not in ("finished", "hours", "averaged")}
    return hours, (
        f"The average of the weights after the last {count} of {len(epochs)} epochs. On validation "
        f"data: {_shown(measured)}."
    )


def _shown(figures: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in figures.items())


def training_command(config: dict[str, Any]) -> str:
    """The command line that trains what a config.json describes, every option of it."""
    words = ["attendant-export", "train", config["task"], "--run", "RUN"]
    words += ["--train", _named(config["train"])]
    if config["valid"] is not None:
        words += ["--valid", _named(config["valid"])]
    if config["task"] == "translation":
        words += ["--languages", *config["languages"]]
    if config["init"] is not None:
        words += ["--init", "/".join(Path(config["init"]).parts[-2:])]
    sections = {**config["data"], **config["optimization"], **config["architecture"]}
    words += [_option(name, value) for name, value in sections.items() if name != "num_labels"]
    lines = textwrap.wrap(" ".join(words), 90, break_long_words=False, break_on_hyphens=False)
    return " \\\n    ".join(lines)


def _option(name: str, value: object) -> str:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return f"--{flag} {value}"


def _named(paths: str | Sequence[str]) -> str:
    """File names without the folders of the machine that trained."""
    paths = [paths] if isinstance(paths, str) else paths
    return " ".join(Path(path).name for path in paths)


def _validation(config: dict[str, Any]) -> str:
    if config["valid"] is not None:
        return _named(config["valid"])
    return f"{config['data']['valid_share']:.0%} of it"
