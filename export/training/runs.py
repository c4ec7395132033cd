"""From files and configurations to a trained run folder, and from there to its model."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch

from export.data.images import ImageSet, read_image_folder
from export.data.parallel import Pair, read_parallel
from export.data.tokens import encode_pairs, load_tokenizer, train_tokenizer
from export.seq2seq import Seq2SeqConfig, Transformer
from export.training.classification import (
    ClassificationDataConfig,
    ClassificationTask,
    fit_temperature,
)
from export.training.loop import OptimizationConfig, Trainer
from export.training.run_folder import RunFolder
from export.training.translation import TranslationDataConfig, TranslationTask
from export.vit import VisionTransformer, ViTConfig
from export.weights import load_bundle_model
from service.bundle import (
    ClassificationCard,
    SentencePieceTokenizer,
    TranslationCard,
    read_card,
)

TOKENIZER = "source.spm"
VALID_SPLIT_SEED = 0


def choose_device(name: str) -> torch.device:
    """Resolve "auto" to a GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def train_translation(  # noqa: PLR0913  # all by keyword
    *,
    train: tuple[Path, Path],
    valid: tuple[Path, Path],
    languages: tuple[str, str],
    run_path: Path,
    architecture: Seq2SeqConfig,
    data: TranslationDataConfig,
    optimization: OptimizationConfig,
    init: Path | None = None,
    device: str = "auto",
) -> dict[str, float]:
    """Train a translation model, or go on with a run that was killed. Returns its figures."""
    torch.manual_seed(optimization.seed)
    train_pairs, valid_pairs = read_parallel(*train), read_parallel(*valid)
    start = None if init is None else load_bundle_model(init, Transformer)
    if start is not None:
        architecture = dataclasses.replace(start.config, dropout=architecture.dropout)
    if data.max_length > architecture.max_positions:
        raise ValueError(
            f"max_length {data.max_length} is over max_positions {architecture.max_positions}"
        )
    run = RunFolder(run_path)
    run.write_config(
        {
            "task": "translation",
            "languages": list(languages),
            "train": [str(path) for path in train],
            "valid": [str(path) for path in valid],
            "init": None if init is None else str(init),
            "earlier": None if init is None else _earlier_training(init),
            "architecture": dataclasses.asdict(architecture),
            "data": dataclasses.asdict(data),
            "optimization": dataclasses.asdict(optimization),
        }
    )
    tokenizer_path = run_path / TOKENIZER
    if init is not None:
        tokenizer_path.write_bytes(_shared_tokenizer(init).read_bytes())
    elif not tokenizer_path.exists():
        sentences = [sentence for pair in train_pairs for sentence in pair]
        train_tokenizer(sentences, architecture.vocab_size, tokenizer_path)
    model = Transformer(architecture)
    if start is None:
        model.start_from_frequencies(target_counts(tokenizer_path, train_pairs, architecture))
    else:
        model.load_state_dict(start.state_dict())
    model.to(choose_device(device))
    task = TranslationTask(model, tokenizer_path, train_pairs, valid_pairs, data, optimization)
    return Trainer(task, optimization, run).train()


def train_classification(
    *,
    train: Path,
    valid: Path | None,
    run_path: Path,
    architecture: ViTConfig,
    data: ClassificationDataConfig,
    optimization: OptimizationConfig,
    init: Path | None = None,
    device: str = "auto",
) -> dict[str, float]:
    """Train a classifier, or go on with a run that was killed. Returns its figures."""
    torch.manual_seed(optimization.seed)
    start = None if init is None else load_bundle_model(init, VisionTransformer)
    if start is not None:
        architecture = dataclasses.replace(start.config, dropout=architecture.dropout)
    train_images, valid_images = _read_images(train, valid, architecture.image_size, data)
    architecture = dataclasses.replace(architecture, num_labels=len(train_images.labels))
    model = VisionTransformer(architecture)
    if init is not None and start is not None:
        card = cast(ClassificationCard, read_card(init))
        _start_from(model, start, card, train_images.labels)
    model.to(choose_device(device))
    task = ClassificationTask(model, train_images, valid_images, data, optimization)
    run = RunFolder(run_path)
    run.write_config(
        {
            "task": "classification",
            "labels": list(train_images.labels),
            "mean": task.mean.tolist(),
            "std": task.std.tolist(),
            "train": str(train),
            "valid": None if valid is None else str(valid),
            "init": None if init is None else str(init),
            "earlier": None if init is None else _earlier_training(init),
            "architecture": dataclasses.asdict(architecture),
            "data": dataclasses.asdict(data),
            "optimization": dataclasses.asdict(optimization),
        }
    )
    figures = Trainer(task, optimization, run).train()
    return {**figures, "temperature": _calibrate(task, run)}


def load_translation_run(run: RunFolder, snapshots: int | None = None) -> Transformer:
    """The trained model of a run, in evaluation mode; `snapshots` as in `final_weights`."""
    model = Transformer(Seq2SeqConfig(**run.read_config()["architecture"]))
    model.load_state_dict(run.final_weights(snapshots))
    return model.eval()


def load_classification_run(run: RunFolder, snapshots: int | None = None) -> VisionTransformer:
    """The trained model of a run, in evaluation mode; `snapshots` as in `final_weights`."""
    model = VisionTransformer(ViTConfig(**run.read_config()["architecture"]))
    model.load_state_dict(run.final_weights(snapshots))
    return model.eval()


def target_counts(
    tokenizer_path: Path, pairs: Sequence[Pair], architecture: Seq2SeqConfig
) -> torch.Tensor:
    """How often each token occurs in the targets: (V,)."""
    encoded = encode_pairs(load_tokenizer(tokenizer_path), pairs)
    tokens = torch.tensor([token for pair in encoded for token in pair.target])
    return torch.bincount(tokens, minlength=architecture.vocab_size)


def _earlier_training(bundle: Path) -> dict[str, str | float | None]:
    """How the weights came about that a run starts from."""
    provenance = read_card(bundle).provenance
    return {"recipe": provenance.recipe, "trained_hours": provenance.trained_hours}


def _shared_tokenizer(bundle: Path) -> Path:
    """The tokenizer of a bundle. Raises ValueError where source and target have their own."""
    tokenizer = cast(TranslationCard, read_card(bundle)).tokenizer
    if not isinstance(tokenizer, SentencePieceTokenizer):
        raise ValueError(f"{bundle} has a tokenizer of {tokenizer.kind}; training knows it not")
    source, target = (bundle / path for path in (tokenizer.source, tokenizer.target))
    if source.read_bytes() != target.read_bytes():
        raise ValueError(f"{bundle} has a tokenizer for each side; training knows one for both")
    return source


def _start_from(
    model: VisionTransformer,
    start: VisionTransformer,
    card: ClassificationCard,
    labels: tuple[str, ...],
) -> None:
    """Take over a bundle's weights; its head only where the labels are the same."""
    weights = start.state_dict()
    if card.labels != labels:
        weights = {name: value for name, value in weights.items() if not name.startswith("head.")}
    model.load_state_dict(weights, strict=False)
    model.temperature.fill_(1.0)


def _read_images(
    train: Path, valid: Path | None, image_size: int, data: ClassificationDataConfig
) -> tuple[ImageSet, ImageSet]:
    train_images = read_image_folder(train, image_size)
    if valid is None:
        parts = train_images.split(data.valid_share, VALID_SPLIT_SEED)
        if not all(map(len, parts)):
            raise ValueError(
                f"{train} has {len(train_images)} pictures, of which valid_share "
                f"{data.valid_share:g} leaves none for training or none for validation"
            )
        return parts
    valid_images = read_image_folder(valid, image_size)
    if valid_images.labels != train_images.labels:
        raise ValueError(f"{valid} has the labels {valid_images.labels}, not those of {train}")
    return train_images, valid_images


def _calibrate(task: ClassificationTask, run: RunFolder) -> float:
    with torch.no_grad():
        task.model.eval()
        logits = task.logits(task.valid_images)
    temperature = fit_temperature(logits, task.valid_images.targets)
    task.model.temperature.fill_(temperature)
    run.save_weights(task.model.state_dict())
    return temperature
