"""Small models and descriptions that the export tests share."""

from typing import Any, TypeVar

import torch
from torch import nn

from export.bundling import ClassificationDescription, TranslationDescription
from export.seq2seq import Seq2SeqConfig, Transformer
from export.vit import VisionTransformer, ViTConfig
from service.bundle import Decoding, ImagePreprocessing, Provenance

VOCAB_SIZE = 420
PROVENANCE = Provenance(data="made by a test", licence="Apache-2.0", recipe="random weights")
LABELS = ("cat", "dog", "ship", "train", "tree")

Model = TypeVar("Model", bound=nn.Module)


def random_transformer(**changes: Any) -> Transformer:
    """A small model whose biases and norms are random too, so that none can be forgotten."""
    torch.manual_seed(7)
    sizes = {"d_model": 48, "num_heads": 2, "ffn_size": 72, "encoder_layers": 2}
    config = Seq2SeqConfig(vocab_size=VOCAB_SIZE, **(sizes | {"decoder_layers": 3} | changes))
    return randomised(Transformer(config))


def random_vit(**changes: Any) -> VisionTransformer:
    torch.manual_seed(7)
    sizes = {"d_model": 48, "num_heads": 2, "ffn_size": 72, "layers": 2, "stem_channels": 24}
    model = randomised(VisionTransformer(ViTConfig(num_labels=len(LABELS), **(sizes | changes))))
    model.temperature.fill_(1.7)
    for name, buffer in model.named_buffers():
        if "running" in name:
            nn.init.uniform_(buffer, 0.5, 2.0)
    return model


def randomised(model: Model) -> Model:
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, mean=float("norm.weight" in name), std=0.2)
        elif isinstance(model, VisionTransformer) and parameter.ndim == 2:
            nn.init.xavier_uniform_(parameter)  # its own are so small that pictures look alike
    return model.eval()


def describe(name: str = "tiny") -> TranslationDescription:
    return TranslationDescription(
        name=name,
        language_pairs=[("en", "de")],
        provenance=PROVENANCE,
        decoding=Decoding(max_target_tokens=40, beam_size=4),
        max_source_tokens=64,
        max_target_tokens=40,
    )


def describe_pictures(size: int = 32) -> ClassificationDescription:
    image = ImagePreprocessing(
        size=size, resample="bilinear", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    )
    return ClassificationDescription("tiny-vit", LABELS, image, PROVENANCE)
