"""Export a trained model as a bundle: calibrate, write the graphs of every precision, describe."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, cast

import sentencepiece
from torch import Tensor, nn

from export.bundle_writer import write_bundle
from export.golden import golden_images, golden_texts
from export.graphs.builder import GraphBuilder
from export.graphs.half import HalfProducts
from export.graphs.products import CalibratedProducts, FloatProducts, Products, RowProducts
from export.graphs.translation import TranslationGraphs
from export.graphs.vision import VisionGraph
from export.graphs.weights_file import WeightsFile
from export.quantization import (
    Calibration,
    Floats,
    calibrate_classification,
    calibrate_translation,
)
from export.seq2seq import IMPORTED_SWITCHES, Seq2SeqConfig, Transformer
from export.vit import VISION_SWITCHES, VisionTransformer, ViTConfig
from service.bundle import (
    Activation,
    Bundle,
    BundleCard,
    ClassificationCard,
    Decoding,
    GraphName,
    ImagePreprocessing,
    LanguagePair,
    Precision,
    Provenance,
    SentencePieceTokenizer,
    Tokens,
    TranslationArchitecture,
    TranslationCard,
    TranslationLimits,
    VisionArchitecture,
)

SOURCE_TOKENIZER, TARGET_TOKENIZER = "source.spm", "target.spm"
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8", "fp16")
DEFAULT_PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")  # fp16 is for GPUs, where asked for


@dataclass(frozen=True, slots=True)
class TranslationDescription:
    """What a translation bundle says beside its model."""

    name: str
    language_pairs: Sequence[tuple[str, str]]
    provenance: Provenance
    decoding: Decoding
    max_source_tokens: int = 256
    max_target_tokens: int = 256
    segmentation: Literal["sentences", "none"] = "sentences"


@dataclass(frozen=True, slots=True)
class ClassificationDescription:
    """What a classification bundle says beside its model."""

    name: str
    labels: Sequence[str]
    image: ImagePreprocessing
    provenance: Provenance
    multi_label: bool = False


@dataclass(frozen=True, slots=True)
class Storage:
    """Which precisions a bundle ships, and whether fp32 graphs keep their matrices as float16.

    float16 halves the file; the model is then the one with rounded weights, the graphs cast them
    back to float32 when a session opens.
    """

    precisions: Sequence[Precision] = DEFAULT_PRECISIONS
    half_weights: bool = True


DEFAULT_STORAGE = Storage()


def export_translation(
    model: Transformer,
    tokenizer: Path,
    output: Path,
    *,
    description: TranslationDescription,
    calibration_pairs: Sequence[tuple[str, str]] = (),
    storage: Storage = DEFAULT_STORAGE,
    target_tokenizer: Path | None = None,
    golden: Sequence[str] = (),
) -> Bundle:
    """Write the bundle `output` (.../NAME/VERSION) of a trained model. Raises BundleError.

    Some hundred calibration pairs give int8 graphs constant activation scales and int8 caches;
    without any they get the slower scales of their own for every row, and float32 caches. The
    answers to the `golden` texts go with it.
    """
    target_tokenizer = target_tokenizer or tokenizer
    processors = load_tokenizer(tokenizer), load_tokenizer(target_tokenizer)
    calibration = _calibration(model, processors, calibration_pairs)

    def graphs(products: Products, weights: WeightsFile) -> dict[GraphName, GraphBuilder]:
        bias: Floats = model.final_logits_bias.detach().cpu().numpy()
        builder = TranslationGraphs(model.config, to_numpy(model), bias, products, weights)
        return {"encoder": builder.encoder(), "decoder": builder.decoder()}

    def populate(folder: Path) -> None:
        write_precisions(folder, storage, calibration, graphs)
        shutil.copyfile(tokenizer, folder / SOURCE_TOKENIZER)
        shutil.copyfile(target_tokenizer, folder / TARGET_TOKENIZER)

    card = _translation_card(model, description, storage, processors[0].unk_id())
    if calibration is not None and "int8" in storage.precisions:
        card = card.model_copy(update={"quantized_caches": ("int8",)})
    ask = partial(golden_texts, texts=golden) if golden else None
    return write_bundle(output, card, populate, ask)


def export_classification(
    model: VisionTransformer,
    output: Path,
    *,
    description: ClassificationDescription,
    calibration_pictures: Tensor | None = None,
    storage: Storage = DEFAULT_STORAGE,
    golden: Sequence[bytes] = (),
) -> Bundle:
    """Write the bundle `output` (.../NAME/VERSION) of a trained model. Raises BundleError.

    calibration_pictures (B, 3, height, width) are normalised as the model takes them; without them
    int8 graphs find a scale for every row. The answers to the `golden` pictures, which are files,
    go with it.
    """

    calibration = None
    if calibration_pictures is not None:
        calibration = calibrate_classification(model, calibration_pictures)

    def graphs(products: Products, weights: WeightsFile) -> dict[GraphName, GraphBuilder]:
        builder = VisionGraph(model.config, to_numpy(model), products, weights)
        return {"classifier": builder.classifier()}

    def populate(folder: Path) -> None:
        write_precisions(folder, storage, calibration, graphs)

    card = _classification_card(model, description, storage)
    ask = partial(golden_images, images=golden) if golden else None
    return write_bundle(output, card, populate, ask)


def load_tokenizer(path: Path) -> sentencepiece.SentencePieceProcessor:
    """Read a SentencePiece model."""
    return sentencepiece.SentencePieceProcessor(model_file=str(path))


def encode(
    tokenizer: sentencepiece.SentencePieceProcessor, texts: Sequence[str], eos: int
) -> list[list[int]]:
    """Token ids of every text, the end token last."""
    return [[*ids, eos] for ids in tokenizer.encode(list(texts))]


def to_numpy(model: nn.Module) -> dict[str, Floats]:
    """The state dict as float32 arrays."""
    return {name: tensor.cpu().float().numpy() for name, tensor in model.state_dict().items()}


def write_precisions(
    folder: Path,
    storage: Storage,
    calibration: Calibration | None,
    graphs: Callable[[Products, WeightsFile], dict[GraphName, GraphBuilder]],
) -> None:
    """Write the graphs and the weights of every precision into a folder of its name."""
    for precision in storage.precisions:
        place = folder / precision
        place.mkdir()
        half = storage.half_weights and precision == "fp32"
        with WeightsFile(place, half=half) as weights:
            for name, graph in graphs(_products(precision, calibration), weights).items():
                graph.save(place / f"{name}.onnx")


def translation_architecture(config: Seq2SeqConfig) -> TranslationArchitecture:
    """Sizes and switches of a model, as its card has them."""
    return TranslationArchitecture(
        encoder_layers=config.encoder_layers,
        decoder_layers=config.decoder_layers,
        d_model=config.d_model,
        num_heads=config.num_heads,
        head_size=config.d_model // config.num_heads,
        ffn_size=config.ffn_size,
        vocab_size=config.vocab_size,
        max_positions=config.max_positions,
        norm=config.norm,
        activation=cast(Activation, config.activation),
        **{name: getattr(config, name) for name in IMPORTED_SWITCHES},
    )


def vision_architecture(config: ViTConfig) -> VisionArchitecture:
    """Sizes and switches of a model, as its card has them."""
    return VisionArchitecture(
        layers=config.layers,
        d_model=config.d_model,
        num_heads=config.num_heads,
        ffn_size=config.ffn_size,
        image_size=config.image_size,
        patch_size=config.patch_size,
        stem=config.stem,
        **{name: getattr(config, name) for name in VISION_SWITCHES},
    )


def graph_paths(storage: Storage, kind: type[BundleCard]) -> dict[Precision, dict[GraphName, str]]:
    """Where a bundle of this kind has the graphs of every precision."""
    return {
        precision: {name: f"{precision}/{name}.onnx" for name in kind.GRAPHS}
        for precision in storage.precisions
    }


def _calibration(
    model: Transformer,
    processors: tuple[sentencepiece.SentencePieceProcessor, sentencepiece.SentencePieceProcessor],
    pairs: Sequence[tuple[str, str]],
) -> Calibration | None:
    if not pairs:
        return None
    eos = model.config.eos_token_id
    sources, targets = (
        encode(processor, side, eos)
        for processor, side in zip(processors, zip(*pairs, strict=True), strict=True)
    )
    return calibrate_translation(model, zip(sources, targets, strict=True))


def _products(precision: Precision, calibration: Calibration | None) -> Products:
    match precision:
        case "fp32":
            return FloatProducts()
        case "fp16":
            return HalfProducts()
        case "int8":
            return RowProducts() if calibration is None else CalibratedProducts(calibration)
    raise ValueError(f"cannot export {precision}, only {' and '.join(PRECISIONS)}")


def _translation_card(
    model: Transformer, description: TranslationDescription, storage: Storage, unk: int
) -> TranslationCard:
    config = model.config
    return TranslationCard(
        name=description.name,
        precisions=graph_paths(storage, TranslationCard),
        provenance=description.provenance,
        architecture=translation_architecture(config),
        tokens=Tokens(
            pad=config.pad_token_id,
            eos=config.eos_token_id,
            unk=unk,
            decoder_start=config.pad_token_id,
        ),
        decoding=description.decoding,
        language_pairs=tuple(
            LanguagePair(source=source, target=target)
            for source, target in description.language_pairs
        ),
        segmentation=description.segmentation,
        tokenizer=SentencePieceTokenizer(
            kind="sentencepiece", source=SOURCE_TOKENIZER, target=TARGET_TOKENIZER
        ),
        limits=TranslationLimits(
            max_source_tokens=description.max_source_tokens,
            max_target_tokens=description.max_target_tokens,
        ),
    )


def _classification_card(
    model: VisionTransformer, description: ClassificationDescription, storage: Storage
) -> ClassificationCard:
    config = model.config
    return ClassificationCard(
        name=description.name,
        precisions=graph_paths(storage, ClassificationCard),
        provenance=description.provenance,
        architecture=vision_architecture(config),
        labels=tuple(description.labels),
        image=description.image,
        multi_label=description.multi_label,
    )
