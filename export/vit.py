"""The Vision Transformer ("An Image is Worth 16x16 Words", Dosovitskiy et al. 2021).

Its layers are those of the translation encoder, pre-norm with GELU. Pictures become words either as
flat patches (the paper) or through a small convolutional stem (Hassani et al. 2021, "Escaping
the Big Data Paradigm with Compact Transformers"), which needs far less data.
Letters: B batch, N patches, P tokens in front of them, d_model.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from export.dropout import Dropout
from export.layers import EncoderLayer, LayerConfig

# What imported models may have that those trained here do not, under the card's names.
VISION_SWITCHES = ("activation", "norm_epsilon", "distillation_token", "head")

# As the card has them; what reads bundles need not be there to train or to measure.
Activation = Literal["relu", "gelu", "swish"]
VisionHead = Literal["class_token", "class_and_distillation_tokens", "class_token_and_patch_mean"]


@dataclass(frozen=True, slots=True)
class ViTConfig:
    """Architecture of a Vision Transformer; with a convolutional stem a patch is 4 x 4 pixels."""

    num_labels: int
    image_size: int = 32
    patch_size: int = 4
    stem: Literal["convolution", "patches"] = "convolution"
    stem_channels: int = 64
    d_model: int = 128
    layers: int = 6
    num_heads: int = 4
    ffn_size: int = 256
    dropout: float = 0.1
    activation: Activation = "gelu"
    norm_epsilon: float = 1e-5
    distillation_token: bool = False
    head: VisionHead = "class_token"

    @property
    def layer(self) -> LayerConfig:
        """The configuration that every layer shares."""
        return LayerConfig(
            d_model=self.d_model,
            num_heads=self.num_heads,
            ffn_size=self.ffn_size,
            dropout=self.dropout,
            activation=self.activation,
            norm="pre",
            norm_epsilon=self.norm_epsilon,
        )

    @property
    def num_patches(self) -> int:
        """How many patches a picture has."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def prefix(self) -> tuple[str, ...]:
        """The names of the tokens in front of the patches."""
        distillation = ("distillation_token",) if self.distillation_token else ()
        return ("class_token", *distillation)

    @property
    def tokens_read(self) -> int | None:
        """How many tokens the head reads, from the first; None: all."""
        match self.head:
            case "class_token":
                return 1
            case "class_and_distillation_tokens":
                return 2
            case "class_token_and_patch_mean":
                return None

    @property
    def head_inputs(self) -> int:
        """How many numbers the head reads."""
        return self.d_model if self.head == "class_token" else 2 * self.d_model


class PatchStem(nn.Module):
    """Flat patches under one linear map, written as a convolution whose stride is its size."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.projection = nn.Conv2d(
            3, config.d_model, kernel_size=config.patch_size, stride=config.patch_size
        )

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, height, width) -> (B, N, d_model)."""
        return self.projection(pixel_values).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


class ConvolutionStem(nn.Module):
    """Three normalised convolutions, two of them pooled: overlapping patches of 4 x 4 pixels.

    Early convolutions make a Vision Transformer learn faster and from fewer pictures (Xiao et al.
    2021); batch normalisation (Ioffe and Szegedy 2015) is a constant scale once it is trained.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        if config.patch_size != 4:
            raise ValueError(f"a convolutional stem has patch_size 4, not {config.patch_size}")
        channels = config.stem_channels
        self.conv1, self.norm1 = _normalised_convolution(3, channels)
        self.conv2, self.norm2 = _normalised_convolution(channels, channels)
        self.conv3, self.norm3 = _normalised_convolution(channels, config.d_model)
        self.pool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, height, width) -> (B, N, d_model)."""
        states = self.norm1(self.conv1(pixel_values)).relu()  # (B, C, height, width)
        states = self.pool(states)  # (B, C, height / 2, width / 2)
        states = self.norm2(self.conv2(states)).relu()
        states = self.norm3(self.conv3(states)).relu()  # (B, d_model, height / 2, width / 2)
        states = self.pool(states)  # (B, d_model, height / 4, width / 4)
        return states.flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


def _normalised_convolution(inputs: int, outputs: int) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """A 3 x 3 convolution without a bias, for the normalisation behind it has one."""
    convolution = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(outputs)


class VisionTransformer(nn.Module):
    """Stem, tokens in front, learned positions, encoder layers, a linear head on some states."""

    temperature: Tensor

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        stem = ConvolutionStem if config.stem == "convolution" else PatchStem
        self.stem = stem(config)
        for name in config.prefix:
            setattr(self, name, nn.Parameter(torch.zeros(1, 1, config.d_model)))
        self.position_embedding = nn.Parameter(
            torch.randn(1, len(config.prefix) + config.num_patches, config.d_model) * 0.02
        )
        self.layers = nn.ModuleList(EncoderLayer(config.layer) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.d_model, eps=config.norm_epsilon)
        self.head = nn.Linear(config.head_inputs, config.num_labels)
        self.dropout = Dropout(config.dropout)
        # Divides the logits; fitted on validation pictures after training (Guo et al. 2017).
        self.register_buffer("temperature", torch.ones(()))
        self._initialise()

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Normalised pictures (B, 3, height, width) -> logits (B, num_labels)."""
        patches = self.stem(pixel_values)  # (B, N, d_model)
        prefix = [getattr(self, name).expand(len(patches), -1, -1) for name in self.config.prefix]
        states = torch.cat([*prefix, patches], dim=1)  # (B, P + N, d_model)
        states = self.dropout(states + self.position_embedding)
        for layer in self.layers:
            states = layer(states)
        states = self.norm(states[:, : self.config.tokens_read])
        logits: Tensor = self.head(self._pool(states))
        return logits / self.temperature

    def _pool(self, states: Tensor) -> Tensor:
        # (B, tokens read, d_model) -> (B, d_model or 2 * d_model)
        if self.config.head == "class_token_and_patch_mean":
            patches = states[:, len(self.config.prefix) :].mean(dim=1)
            return torch.cat([states[:, 0], patches], dim=1)
        return states.flatten(1)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
