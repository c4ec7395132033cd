"""DeiT: ViT with a distillation token, which only a classifier with a teacher reads.

That one has two heads and answers with the mean of their logits: here it is one head that reads
both tokens side by side.
"""

from dataclasses import replace
from typing import Any

from export.huggingface.families import vit
from export.huggingface.vision_config import constants, vision_config
from export.huggingface.vision_weights import Recipe, mean_of
from export.vit import ViTConfig

WITH_TEACHER = "DeiTForImageClassificationWithTeacher"
ARCHITECTURES = ("DeiTForImageClassification", WITH_TEACHER)
PROCESSOR = "DeiTImageProcessor"

_VIT_NAMES = vit.names_below("deit")
NAMES = replace(
    _VIT_NAMES,
    around={**_VIT_NAMES.around, "distillation_token": "deit.embeddings.distillation_token"},
)
HEADS = ("cls_classifier", "distillation_classifier")

image_size = vit.image_size


def architecture(config: Any, class_name: str, size: int) -> ViTConfig:
    """Sizes and switches for pictures of this size."""
    with_teacher = class_name == WITH_TEACHER
    return vision_config(
        config,
        image_size=size,
        ffn_size=config.intermediate_size,
        distillation_token=True,
        head="class_and_distillation_tokens" if with_teacher else "class_token",
    )


def computed(config: Any, ours: ViTConfig) -> dict[str, Recipe]:
    """What is no copy of a tensor."""
    recipes = constants(config, ours)
    if ours.head == "class_and_distillation_tokens":
        shapes = {"weight": (ours.num_labels, ours.head_inputs), "bias": (ours.num_labels,)}
        for kind, shape in shapes.items():
            first, second = (f"{head}.{kind}" for head in HEADS)
            recipes[f"head.{kind}"] = mean_of(first, second, shape)
    return recipes
