"""The tensors that a bundle's graphs have: whoever opens a session compares.

Letters: B batch, R rows, S source length, T target capacity, H heads, D head size, V vocabulary.
"""

from typing import NamedTuple

from service.bundle.architecture import TranslationArchitecture
from service.bundle.cards import BundleCard, ClassificationCard, TranslationCard
from service.bundle.fields import GraphName
from service.errors import BundleError


class TensorSpec(NamedTuple):
    """A tensor's NumPy type name and its shape, None where a size is free."""

    dtype: str
    shape: tuple[int | None, ...]


class GraphTensors(NamedTuple):
    """The inputs and the outputs, both in the order they are documented in."""

    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]


def expected_tensors(
    card: BundleCard, graph: GraphName, *, precision: str = "fp32"
) -> GraphTensors:
    """The tensors that a graph of this card must have in this precision."""
    match card, graph:
        case TranslationCard(), "encoder":
            return _encoder_tensors(card.architecture, card.cache_type(precision))
        case TranslationCard(), "decoder":
            return _decoder_tensors(card.architecture, card.cache_type(precision))
        case ClassificationCard(), "classifier":
            side = card.architecture.image_size
            pixels = TensorSpec("float32", (None, 3, side, side))
            logits = TensorSpec("float32", (None, len(card.labels)))
            return GraphTensors({"pixel_values": pixels}, {"logits": logits})
    raise BundleError(f"a {card.task} bundle has graphs {', '.join(card.GRAPHS)}, not {graph}")


def _encoder_tensors(sizes: TranslationArchitecture, cache_type: str) -> GraphTensors:
    ids = TensorSpec("int64", (None, None))  # (B, S)
    return GraphTensors(
        {"input_ids": ids, "attention_mask": ids}, _caches("present", "encoder", sizes, cache_type)
    )


def _decoder_tensors(sizes: TranslationArchitecture, cache_type: str) -> GraphTensors:
    inputs = {
        "input_ids": TensorSpec("int64", (None, 1)),  # (R, 1)
        "seqlens_k": TensorSpec("int32", (None,)),  # (R,)
        "encoder_seqlens_k": TensorSpec("int32", (None,)),
        "total_sequence_length": TensorSpec("int32", ()),
        "encoder_total_sequence_length": TensorSpec("int32", ()),
    }
    inputs |= _caches("past_key_values", "decoder", sizes, cache_type)
    inputs |= _caches("past_key_values", "encoder", sizes, cache_type)
    outputs = {"logits": TensorSpec("float32", (None, sizes.vocab_size))}
    outputs |= _caches("present", "decoder", sizes, cache_type)
    if cache_type != "float32":  # GroupQueryAttention insists, though nothing is added to them
        outputs |= _caches("present", "encoder", sizes, cache_type)
    return GraphTensors(inputs, outputs)


def _caches(
    prefix: str, side: str, sizes: TranslationArchitecture, cache_type: str
) -> dict[str, TensorSpec]:
    spec = TensorSpec(cache_type, (None, sizes.num_heads, None, sizes.head_size))  # (B, H, S, D)
    return {
        f"{prefix}.{layer}.{side}.{part}": spec
        for layer in range(sizes.decoder_layers)
        for part in ("key", "value")
    }
