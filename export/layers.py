"""Encoder and decoder layers, shared by the translation Transformer and the Vision Transformer.

A residual block is post-norm, LN(x + f(x)) (Vaswani et al. 2017), or pre-norm, x + f(LN(x))
(Xiong et al. 2020): `Residual` holds that difference, so that no layer repeats it.
Letters: B batch, T target length, S source length.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from export.attention import MultiHeadAttention
from export.dropout import Dropout

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "swish": nn.SiLU,
}


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """Sizes and switches of one encoder or decoder layer."""

    d_model: int
    num_heads: int
    ffn_size: int
    dropout: float = 0.1
    activation: str = "relu"
    norm: Literal["post", "pre"] = "post"
    norm_epsilon: float = 1e-5


class Residual(nn.Module):
    """A normalised residual connection around a sublayer."""

    def __init__(self, config: LayerConfig) -> None:
        super().__init__()
        self.pre_norm = config.norm == "pre"
        self.layer_norm = nn.LayerNorm(config.d_model, eps=config.norm_epsilon)
        self.dropout = Dropout(config.dropout)

    def forward(self, states: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the states (B, T, d_model) after the sublayer, same shape."""
        if self.pre_norm:
            output: Tensor = states + self.dropout(sublayer(self.layer_norm(states)))
        else:
            output = self.layer_norm(states + self.dropout(sublayer(states)))
        return output


class FeedForward(nn.Module):
    """Two linear maps with an activation between them, section 3.3 of Vaswani et al."""

    def __init__(self, config: LayerConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.d_model, config.ffn_size)
        self.fc2 = nn.Linear(config.ffn_size, config.d_model)
        self.activation = ACTIVATIONS[config.activation]()

    def forward(self, states: Tensor) -> Tensor:
        """(B, T, d_model) -> (B, T, d_model)."""
        output: Tensor = self.fc2(self.activation(self.fc1(states)))
        return output


class EncoderLayer(nn.Module):
    """Self-attention, then a feed-forward network."""

    def __init__(self, config: LayerConfig) -> None:
        super().__init__()
        self.self_attn = MultiHeadAttention(
            d_model=config.d_model, num_heads=config.num_heads, dropout=config.dropout
        )
        self.feed_forward = FeedForward(config)
        self.self_attn_residual = Residual(config)
        self.feed_forward_residual = Residual(config)

    def forward(self, states: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, S, d_model) -> (B, S, d_model); mask as in `MultiHeadAttention`."""
        states = self.self_attn_residual(states, lambda x: self.self_attn(x, x, mask))
        output: Tensor = self.feed_forward_residual(states, self.feed_forward)
        return output


class DecoderLayer(nn.Module):
    """Masked self-attention, cross-attention to the encoder, then a feed-forward network."""

    def __init__(self, config: LayerConfig) -> None:
        super().__init__()
        self.self_attn = MultiHeadAttention(
            d_model=config.d_model, num_heads=config.num_heads, dropout=config.dropout
        )
        self.cross_attn = MultiHeadAttention(
            d_model=config.d_model, num_heads=config.num_heads, dropout=config.dropout
        )
        self.feed_forward = FeedForward(config)
        self.self_attn_residual = Residual(config)
        self.cross_attn_residual = Residual(config)
        self.feed_forward_residual = Residual(config)

    def forward(
        self, states: Tensor, memory: Tensor, self_mask: Tensor, memory_mask: Tensor
    ) -> Tensor:
        """states (B, T, d_model) and memory (B, S, d_model) -> (B, T, d_model)."""
        states = self.self_attn_residual(states, lambda x: self.self_attn(x, x, self_mask))
        states = self.cross_attn_residual(states, lambda x: self.cross_attn(x, memory, memory_mask))
        output: Tensor = self.feed_forward_residual(states, self.feed_forward)
        return output
