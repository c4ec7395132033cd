"""What the configurations of vision classifiers say alike: sizes, switches, labels."""

from typing import Any

from export.huggingface.errors import CheckpointError
from export.huggingface.families import ACTIVATIONS
from export.huggingface.vision_weights import Recipe, constant
from export.vit import ViTConfig

MULTI_LABEL = "multi_label_classification"
PROBLEMS = (None, "single_label_classification", MULTI_LABEL)


def square(config: Any, name: str) -> int:
    """A size, which may be written as a height and a width. Raises CheckpointError."""
    value = getattr(config, name)
    sides = list(value) if isinstance(value, list | tuple) else [value, value]
    if len(sides) != 2 or sides[0] != sides[1]:
        raise CheckpointError(f"{name} {value}: not supported by Attendant, only squares")
    return int(sides[0])


def read_labels(config: Any) -> tuple[str, ...]:
    """The labels in the order of the logits. Raises CheckpointError for a model without classes."""
    labels = config.id2label
    if config.problem_type not in PROBLEMS:
        raise CheckpointError(f"problem_type {config.problem_type}: not supported by Attendant")
    if len(labels) < 2:
        raise CheckpointError(f"expected two labels or more, found {len(labels)}: a regression")
    for index in range(len(labels)):
        if index not in labels:
            raise CheckpointError(
                f"expected an id2label of 0 to {len(labels) - 1}, found none for {index}"
            )
    return tuple(labels[index] for index in range(len(labels)))


def vision_config(config: Any, *, image_size: int, ffn_size: int, **switches: Any) -> ViTConfig:
    """Sizes and switches for pictures of this size. Raises CheckpointError."""
    if config.hidden_act not in ACTIVATIONS:
        expected = ", ".join(ACTIVATIONS)
        raise CheckpointError(f"expected hidden_act {expected}, found {config.hidden_act}")
    if config.num_channels != 3:
        raise CheckpointError(f"expected num_channels 3, found {config.num_channels}")
    size, heads = config.hidden_size, config.num_attention_heads
    if size % heads or getattr(config, "head_dim", size // heads) != size // heads:
        raise CheckpointError(f"expected heads that divide hidden_size {size}, not {heads}")
    patch_size = square(config, "patch_size")
    if patch_size > image_size:
        raise CheckpointError(f"expected pictures of {patch_size} or more, found {image_size}")
    return ViTConfig(
        num_labels=len(config.id2label),
        image_size=image_size,
        patch_size=patch_size,
        stem="patches",
        d_model=size,
        layers=config.num_hidden_layers,
        num_heads=heads,
        ffn_size=ffn_size,
        dropout=0.0,
        activation=ACTIVATIONS[config.hidden_act],
        norm_epsilon=config.layer_norm_eps,
        **switches,
    )


def constants(config: Any, ours: ViTConfig) -> dict[str, Recipe]:
    """What our model has and a checkpoint may lack."""
    recipes = {"temperature": constant(1.0, ())}
    if not config.qkv_bias:
        for index in range(ours.layers):
            for part in ("q_proj", "k_proj", "v_proj"):
                name = f"layers.{index}.self_attn.{part}.bias"
                recipes[name] = constant(0.0, (ours.d_model,))
    return recipes
