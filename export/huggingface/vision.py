"""A vision checkpoint becomes a bundle."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from export.bundle_writer import write_bundle
from export.bundling import Storage, graph_paths, vision_architecture, write_precisions
from export.data.images import EXTENSIONS
from export.data.sampling import evenly_spaced
from export.graphs.builder import GraphBuilder
from export.graphs.products import Products
from export.graphs.vision import VisionGraph
from export.graphs.weights_file import WeightsFile
from export.huggingface.checkpoint import Checkpoint
from export.huggingface.description import bundle_name, provenance_of
from export.huggingface.errors import CheckpointError
from export.huggingface.families import VisionFamily, vision_family
from export.huggingface.preprocessing import open_processor, read_preprocessing
from export.huggingface.progress import Progress
from export.huggingface.vision_config import MULTI_LABEL, read_labels
from export.huggingface.vision_parity import PictureParity, ask_classifier, compare_classifier
from export.huggingface.vision_weights import (
    VisionWeights,
    build_vision_model,
    match_vision_weights,
)
from export.quantization import Calibration, calibrate_classification
from export.vit import ViTConfig
from service.bundle import Bundle, ClassificationCard, GraphName
from service.classification.image import Preprocessor
from service.errors import InvalidImage

if TYPE_CHECKING:
    from export.huggingface.importing import ImportOptions

MAX_CALIBRATION_PICTURES = 256
MAX_PIXELS = 200_000_000  # of a calibration picture


@dataclass(frozen=True, slots=True)
class _Plan:
    """Everything that is known before a byte is written."""

    class_name: str  # of transformers
    processor: Any
    config: ViTConfig
    weights: VisionWeights
    card: ClassificationCard
    half_weights: bool
    calibration_files: Sequence[Path]


def import_vision(
    checkpoint: Checkpoint, output: Path, options: "ImportOptions"
) -> tuple[Bundle, dict[str, PictureParity]]:
    """Write the bundle, and hold each precision against the checkpoint. Raises CheckpointError."""
    progress = Progress(3 + 2 * len(options.precisions) + (options.calibration is not None))
    with progress.step("reading the checkpoint"):
        plan = _plan(checkpoint, output, options)
    found: dict[str, PictureParity] = {}

    def populate(folder: Path) -> None:
        calibration = None
        if plan.calibration_files:
            with progress.step(f"calibrating with {len(plan.calibration_files)} pictures"):
                calibration = _calibrate(plan)
        for precision in options.precisions:
            with progress.step(f"writing {precision}"):
                storage = Storage((precision,), plan.half_weights)
                write_precisions(folder, storage, calibration, plan_graphs)

    def plan_graphs(products: Products, weights: WeightsFile) -> dict[GraphName, GraphBuilder]:
        builder = VisionGraph(plan.config, plan.weights, products, weights)
        return {"classifier": builder.classifier()}

    def check(bundle: Bundle) -> dict[str, str]:
        with progress.step("asking transformers"):
            checkpoint.tensors.release()  # it reads the files itself
            reference = ask_classifier(checkpoint, plan.class_name, plan.processor, plan.card.image)
        for precision in options.precisions:
            with progress.step(f"comparing {precision}"):
                found[precision] = compare_classifier(bundle, precision, reference)
        return {
            f"{name} beside transformers": f"logits within {one.logits_error:.2g}, top 5 of "
            f"{one.top_alike} of {one.pictures} pictures alike"
            for name, one in found.items()
        }

    bundle = write_bundle(output, plan.card, populate, check=check)
    with progress.step("reading the bundle"):
        return bundle, found


def _plan(checkpoint: Checkpoint, output: Path, options: "ImportOptions") -> _Plan:
    if options.languages is not None:
        raise CheckpointError(f"--languages: a {checkpoint.model_type} checkpoint has none")
    name, family, theirs = bundle_name(output), vision_family(checkpoint), checkpoint.config
    labels = read_labels(theirs)
    processor = open_processor(checkpoint, family.PROCESSOR)
    image = read_preprocessing(processor, family.image_size(theirs))
    class_name = _class_name(checkpoint, family)
    config = family.architecture(theirs, class_name, image.output_size)
    weights = match_vision_weights(
        checkpoint.tensors, config, family.NAMES, family.computed(theirs, config)
    )
    storage = Storage(tuple(options.precisions))
    try:
        card = ClassificationCard(
            name=name,
            precisions=graph_paths(storage, ClassificationCard),
            provenance=provenance_of(checkpoint, options.licence),
            architecture=vision_architecture(config),
            labels=labels,
            image=image,
            multi_label=theirs.problem_type == MULTI_LABEL,
        )
    except ValueError as error:  # pydantic's
        raise CheckpointError(f"{checkpoint.folder}: {error}") from error
    return _Plan(
        class_name=class_name,
        processor=processor,
        config=config,
        weights=weights,
        card=card,
        half_weights=weights.fit_float16,
        calibration_files=_pictures(options.calibration),
    )


def _class_name(checkpoint: Checkpoint, family: VisionFamily) -> str:
    """Of the model; where the checkpoint does not say, as AutoModelForImageClassification."""
    found = checkpoint.fields.get("architectures") or family.ARCHITECTURES
    return str(found[0])


def _pictures(folder: Path | None) -> list[Path]:
    """Picture files of a folder and those below it, some of many."""
    if folder is None:
        return []
    found = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in EXTENSIONS]
    if not found:
        kinds = ", ".join(sorted(EXTENSIONS))
        raise CheckpointError(f"expected a folder of pictures ({kinds}) at {folder}, found none")
    return evenly_spaced(found, MAX_CALIBRATION_PICTURES)


def _calibrate(plan: _Plan) -> Calibration:
    preprocess = Preprocessor(plan.card.image, max_pixels=MAX_PIXELS)

    def pictures() -> Iterator[Tensor]:
        for path in plan.calibration_files:
            try:
                yield torch.from_numpy(preprocess(path.read_bytes()))
            except InvalidImage as error:
                raise CheckpointError(f"{path}: {error.message}") from error

    return calibrate_classification(build_vision_model(plan.config, plan.weights), pictures())
