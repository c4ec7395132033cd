"""DINOv2: a head on the class token beside the patches' mean; pictures of any size; layer scale.

Every sublayer's output is multiplied by a vector, which its last linear map takes on.
"""

from typing import Any

from export.huggingface.errors import CheckpointError
from export.huggingface.vision_config import constants, square, vision_config
from export.huggingface.vision_weights import Recipe, VisionNames, interpolated, scaled
from export.vit import ViTConfig

ARCHITECTURES = ("Dinov2ForImageClassification",)
PROCESSOR = "BitImageProcessor"
POSITIONS = "dinov2.embeddings.position_embeddings"
# Ours -> the vector that its outputs are multiplied by.
SCALES = {"self_attn.out_proj": "layer_scale1.lambda1", "feed_forward.fc2": "layer_scale2.lambda1"}

NAMES = VisionNames(
    around={
        "class_token": "dinov2.embeddings.cls_token",
        "position_embedding": POSITIONS,
        "stem.projection": "dinov2.embeddings.patch_embeddings.projection",
        "norm": "dinov2.layernorm",
        "head": "classifier",
    },
    layers="dinov2.encoder.layer",
    in_a_layer={
        "self_attn_residual.layer_norm": "norm1",
        "self_attn.q_proj": "attention.attention.query",
        "self_attn.k_proj": "attention.attention.key",
        "self_attn.v_proj": "attention.attention.value",
        "self_attn.out_proj": "attention.output.dense",
        "feed_forward_residual.layer_norm": "norm2",
        "feed_forward.fc1": "mlp.fc1",
        "feed_forward.fc2": "mlp.fc2",
    },
    modules={
        ".attention.q_proj.": ".attention.attention.query.",
        ".attention.k_proj.": ".attention.attention.key.",
        ".attention.v_proj.": ".attention.attention.value.",
        ".attention.o_proj.": ".attention.output.dense.",
    },
    unread=("dinov2.embeddings.mask_token",),
)


def image_size(config: Any) -> int | None:
    """It takes pictures of any size."""
    return None


def architecture(config: Any, class_name: str, size: int) -> ViTConfig:
    """Sizes and switches for pictures of this size."""
    if config.use_swiglu_ffn:
        raise CheckpointError("use_swiglu_ffn True: not supported by Attendant")
    return vision_config(
        config,
        image_size=size,
        ffn_size=int(config.hidden_size * config.mlp_ratio),
        head="class_token_and_patch_mean",
    )


def computed(config: Any, ours: ViTConfig) -> dict[str, Recipe]:
    """What is no copy of a tensor."""
    recipes = constants(config, ours)
    stored_side = square(config, "image_size") // ours.patch_size
    if stored_side != ours.image_size // ours.patch_size:
        recipes["position_embedding"] = interpolated(POSITIONS, ours, stored_side)
    inputs = {"self_attn.out_proj": ours.d_model, "feed_forward.fc2": ours.ffn_size}
    for index in range(ours.layers):
        for module, scale in SCALES.items():
            shapes = {"weight": (ours.d_model, inputs[module]), "bias": (ours.d_model,)}
            for kind, shape in shapes.items():
                name = f"layers.{index}.{module}.{kind}"
                scale_name = f"{NAMES.layers}.{index}.{scale}"
                recipes[name] = scaled(NAMES.theirs(name), scale_name, shape)
    return recipes
