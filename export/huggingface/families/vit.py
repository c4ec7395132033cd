"""ViT: a linear head on the class token."""

from typing import Any

from export.huggingface.vision_config import constants, square, vision_config
from export.huggingface.vision_weights import Recipe, VisionNames
from export.vit import ViTConfig

ARCHITECTURES = ("ViTForImageClassification",)
PROCESSOR = "ViTImageProcessor"


def names_below(base: str) -> VisionNames:
    """The tensors' names of ViT and its descendants, which put another word in front."""
    return VisionNames(
        around={
            "class_token": f"{base}.embeddings.cls_token",
            "position_embedding": f"{base}.embeddings.position_embeddings",
            "stem.projection": f"{base}.embeddings.patch_embeddings.projection",
            "norm": f"{base}.layernorm",
            "head": "classifier",
        },
        layers=f"{base}.encoder.layer",
        in_a_layer={
            "self_attn_residual.layer_norm": "layernorm_before",
            "self_attn.q_proj": "attention.attention.query",
            "self_attn.k_proj": "attention.attention.key",
            "self_attn.v_proj": "attention.attention.value",
            "self_attn.out_proj": "attention.output.dense",
            "feed_forward_residual.layer_norm": "layernorm_after",
            "feed_forward.fc1": "intermediate.dense",
            "feed_forward.fc2": "output.dense",
        },
        modules={
            f"{base}.layers.": f"{base}.encoder.layer.",
            ".attention.q_proj.": ".attention.attention.query.",
            ".attention.k_proj.": ".attention.attention.key.",
            ".attention.v_proj.": ".attention.attention.value.",
            ".attention.o_proj.": ".attention.output.dense.",
            ".mlp.fc1.": ".intermediate.dense.",
            ".mlp.fc2.": ".output.dense.",
        },
        unread=(
            f"{base}.embeddings.mask_token",
            f"{base}.pooler.dense.weight",
            f"{base}.pooler.dense.bias",
        ),
    )


NAMES = names_below("vit")


def image_size(config: Any) -> int | None:
    """The only size of pictures it takes."""
    return square(config, "image_size")


def architecture(config: Any, class_name: str, size: int) -> ViTConfig:
    """Sizes and switches for pictures of this size."""
    return vision_config(config, image_size=size, ffn_size=config.intermediate_size)


def computed(config: Any, ours: ViTConfig) -> dict[str, Recipe]:
    """What is no copy of a tensor."""
    return constants(config, ours)
