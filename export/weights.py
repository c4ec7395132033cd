"""From a bundle back to the PyTorch model it was exported from: the inverse of the fp32 export.

What comes back is what the graphs compute with: weights that a bundle stores as float16 come back
rounded to it.
"""

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from export.graphs.layers import PACKED
from export.quantization import Floats
from export.seq2seq import IMPORTED_SWITCHES, Seq2SeqConfig, Transformer
from export.vit import VISION_SWITCHES, VisionTransformer, ViTConfig
from service.bundle import (
    BundleCard,
    ClassificationCard,
    Precision,
    TranslationCard,
    read_card,
)
from service.errors import BundleError

PRECISION: Precision = "fp32"
# Matrices that are no linear map: stored as PyTorch has them.
UNPACKED = (
    "embedding.weight",
    "source_embedding.weight",
    "output_embedding.weight",
    "encoder_positions.weight",
    "decoder_positions.weight",
)

Model = TypeVar("Model", Transformer, VisionTransformer)


def read_bundle_weights(folder: Path) -> dict[str, Tensor]:
    """The state dict of a bundle's model, float32, from its fp32 graphs. Raises BundleError."""
    stored = _read_graphs(folder, read_card(folder))
    return {
        name: torch.from_numpy(values)
        for packed, array in stored.items()
        for name, values in _unpack(packed, array)
    }


def load_bundle_model(folder: Path, kind: type[Model]) -> Model:
    """The bundle's model with its weights, in evaluation mode. Raises BundleError."""
    card = read_card(folder)
    weights = read_bundle_weights(folder)
    model: nn.Module
    match card:
        case TranslationCard():
            model = Transformer(seq2seq_config(card))
        case ClassificationCard():
            model = VisionTransformer(vit_config(card, weights))
        case _:
            raise BundleError(f"expected a bundle of a known task, found {card.task}")
    if not isinstance(model, kind):
        raise BundleError(f"expected the bundle of a {kind.__name__}, found one for {card.task}")
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise BundleError(f"{folder} was exported from another architecture: {error}") from error
    return model.eval()


def seq2seq_config(card: TranslationCard) -> Seq2SeqConfig:
    """The architecture of a bundle; dropout, which no bundle holds, is the default."""
    sizes = card.architecture
    return Seq2SeqConfig(
        vocab_size=sizes.vocab_size,
        d_model=sizes.d_model,
        encoder_layers=sizes.encoder_layers,
        decoder_layers=sizes.decoder_layers,
        num_heads=sizes.num_heads,
        ffn_size=sizes.ffn_size,
        activation=sizes.activation,
        norm=sizes.norm,
        max_positions=sizes.max_positions,
        pad_token_id=card.tokens.pad,
        eos_token_id=card.tokens.eos,
        **{name: getattr(sizes, name) for name in IMPORTED_SWITCHES},
    )


def vit_config(card: ClassificationCard, weights: dict[str, Tensor]) -> ViTConfig:
    """The architecture of a bundle; the width of the stem is seen in its weights."""
    sizes = card.architecture
    stem = weights.get("stem.conv1.weight")
    config = ViTConfig(
        num_labels=len(card.labels),
        image_size=sizes.image_size,
        patch_size=sizes.patch_size,
        stem=sizes.stem,
        d_model=sizes.d_model,
        layers=sizes.layers,
        num_heads=sizes.num_heads,
        ffn_size=sizes.ffn_size,
        **{name: getattr(sizes, name) for name in VISION_SWITCHES},
    )
    return config if stem is None else replace(config, stem_channels=len(stem))


def _read_graphs(folder: Path, card: BundleCard) -> dict[str, Floats]:
    """The tensors of the weights file, by the names the graphs have for them."""
    if PRECISION not in card.precisions:
        found = ", ".join(card.precisions)
        raise BundleError(f"expected {PRECISION} graphs in {folder}, found only {found}")
    tensors: dict[str, Floats] = {}
    for path in card.precisions[PRECISION].values():
        graph_file = folder / path
        model = onnx.load(graph_file, load_external_data=False)
        for tensor in model.graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL and tensor.name not in tensors:
                array = numpy_helper.to_array(tensor, base_dir=str(graph_file.parent))
                tensors[tensor.name] = array.astype(np.float32)
    return tensors


def _unpack(packed: str, array: Floats) -> list[tuple[str, Floats]]:
    """Undo `export.graphs.layers.linear`: PyTorch's names, and weights (O, I)."""
    if array.ndim == 2 and packed not in UNPACKED:
        array = array.T
    names, _, kind = packed.rpartition(".")
    if not names:  # class_token and the like
        return [(packed, array)]
    modules = names.split(PACKED)
    parts = np.split(array, len(modules), axis=0)
    return [
        (f"{module}.{kind}", np.ascontiguousarray(part))
        for module, part in zip(modules, parts, strict=True)
    ]
