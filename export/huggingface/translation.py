"""An encoder-decoder checkpoint becomes a bundle."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from export.bundle_writer import write_bundle
from export.bundling import Storage, graph_paths, translation_architecture, write_precisions
from export.graphs.builder import GraphBuilder
from export.graphs.products import Products
from export.graphs.translation import TranslationGraphs
from export.graphs.weights_file import WeightsFile
from export.huggingface.checkpoint import Checkpoint
from export.huggingface.description import bundle_name, provenance_of
from export.huggingface.errors import CheckpointError
from export.huggingface.families import TranslationFamily, translation_family
from export.huggingface.generation import Generation, read_generation
from export.huggingface.names import BIAS
from export.huggingface.parity import Parity, ask_transformers, compare
from export.huggingface.progress import Progress
from export.huggingface.texts import Texts
from export.huggingface.weights import Weights, build_model, match_weights
from export.quantization import Calibration, calibrate_translation, one_thread
from export.seq2seq import Seq2SeqConfig
from service.bundle import Bundle, GraphName, TranslationCard, TranslationLimits
from service.translation.tokenizer import Tokenizer
from service.translation.tokenizer_kinds import open_tokenizer

if TYPE_CHECKING:
    from export.huggingface.importing import ImportOptions

MAX_CALIBRATION_TARGET_TOKENS = 128


@dataclass(frozen=True, slots=True)
class _Plan:
    """Everything that is known before a byte is written."""

    family: TranslationFamily
    config: Seq2SeqConfig
    weights: Weights
    texts: Texts
    card: TranslationCard
    storage: Storage
    calibration_lines: Sequence[str]


def import_translation(
    checkpoint: Checkpoint, output: Path, options: "ImportOptions"
) -> tuple[Bundle, dict[str, Parity]]:
    """Write the bundle, and hold each precision against the checkpoint. Raises CheckpointError."""
    progress = Progress(3 + 2 * len(options.precisions) + (options.calibration is not None))
    with progress.step("reading the checkpoint"):
        plan = _plan(checkpoint, output, options)
    found: dict[str, Parity] = {}

    def populate(folder: Path) -> None:
        _write_texts(folder, plan.texts)
        calibration = None
        if plan.calibration_lines:
            with progress.step(f"calibrating with {len(plan.calibration_lines)} lines"):
                calibration = _calibrate(folder, plan)
        for precision in options.precisions:
            with progress.step(f"writing {precision}"):
                storage = Storage((precision,), plan.storage.half_weights)
                write_precisions(folder, storage, calibration, plan_graphs)

    def plan_graphs(products: Products, weights: WeightsFile) -> dict[GraphName, GraphBuilder]:
        builder = TranslationGraphs(
            plan.config, plan.weights, plan.weights[BIAS], products, weights
        )
        return {"encoder": builder.encoder(), "decoder": builder.decoder()}

    def check(bundle: Bundle) -> dict[str, str]:
        with progress.step("asking transformers"):
            checkpoint.tensors.release()  # it reads the files itself
            reference = ask_transformers(checkpoint, plan.family.ARCHITECTURES[0], bundle)
        for precision in options.precisions:
            with progress.step(f"comparing {precision}"):
                found[precision] = compare(bundle, precision, reference)
        return {
            f"{name} beside transformers": f"logits within {one.logits_error:.2g}, greedy ids of "
            f"{one.greedy_alike} of {one.sentences} sentences alike"
            for name, one in found.items()
        }

    card = plan.card
    if plan.calibration_lines and "int8" in options.precisions:
        card = card.model_copy(update={"quantized_caches": ("int8",)})
    bundle = write_bundle(output, card, populate, check=check)
    with progress.step("reading the bundle"):
        return bundle, found


def _plan(checkpoint: Checkpoint, output: Path, options: "ImportOptions") -> _Plan:
    name = bundle_name(output)
    family = translation_family(checkpoint)
    architecture = family.architecture(checkpoint.config)
    generation = read_generation(checkpoint, max_positions=architecture.max_positions)
    config, weights = match_weights(
        checkpoint.tensors,
        architecture,
        share_sides=family.shares_sides(checkpoint.config),
        tie_output=bool(checkpoint.config.tie_word_embeddings),
    )
    texts = family.texts(checkpoint, generation, options.languages)
    storage = Storage(tuple(options.precisions), half_weights=weights.fit_float16)
    return _Plan(
        family=family,
        config=config,
        weights=weights,
        texts=texts,
        card=_card(checkpoint, name, config, generation, texts, storage, options.licence),
        storage=storage,
        calibration_lines=_lines(options.calibration),
    )


def _card(  # each is a part of it
    checkpoint: Checkpoint,
    name: str,
    config: Seq2SeqConfig,
    generation: Generation,
    texts: Texts,
    storage: Storage,
    licence: str,
) -> TranslationCard:
    try:
        return TranslationCard(
            name=name,
            precisions=graph_paths(storage, TranslationCard),
            provenance=provenance_of(checkpoint, licence),
            architecture=translation_architecture(config),
            tokens=texts.tokens,
            decoding=generation.decoding,
            language_pairs=texts.language_pairs,
            languages=texts.languages,
            segmentation=texts.segmentation,
            tokenizer=texts.tokenizer,
            limits=TranslationLimits(
                max_source_tokens=config.max_positions, max_target_tokens=config.max_positions
            ),
        )
    except ValueError as error:  # pydantic's
        raise CheckpointError(f"{checkpoint.folder}: {error}") from error


def _lines(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"expected lines of text in {path}, found: {error}") from error
    if not any(lines):
        raise CheckpointError(f"expected lines of text in {path}, found none")
    return [line for line in lines if line]


def _write_texts(folder: Path, texts: Texts) -> None:
    for name, content in texts.files.items():
        if isinstance(content, Path):
            shutil.copyfile(content, folder / name)
        else:
            (folder / name).write_text(content, encoding="utf-8")


def _calibrate(folder: Path, plan: _Plan) -> Calibration:
    """Over the lines and what the model itself translates them into."""
    card, model = plan.card, build_model(plan.config, plan.weights)
    tokenizer = Tokenizer(open_tokenizer(folder, card), card)
    direction = card.first_direction
    start = card.tokens.decoder_start_into(direction.target)
    limit = min(MAX_CALIBRATION_TARGET_TOKENS, card.decoding.max_target_tokens)
    sources = [
        ids
        for ids in tokenizer.encode(plan.calibration_lines, direction)
        if len(ids) <= card.limits.max_source_tokens
    ]
    pairs = []
    with one_thread():
        for ids in sources:
            # What a model that will not stop says is nothing new: a translation is seldom longer.
            longest = min(limit, 2 * len(ids) + 8)
            pairs.append((ids, model.greedy(torch.tensor([ids]), start=start, limit=longest)))
    return calibrate_translation(model, pairs, start)
