"""Scaled dot-product and multi-head attention.

"Attention Is All You Need", Vaswani et al. 2017, section 3.2.

Letters: B batch, T query length, S key length, H heads, D head size, d_model = H * D.
"""

import math

import torch
from torch import Tensor, nn

from export.dropout import Dropout


def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: nn.Module
) -> Tensor:
    """softmax(Q K^T / sqrt(D)) V, formula 1 of the paper.

    Shapes: query (B, H, T, D); key and value (B, H, S, D); mask broadcastable to (B, H, T, S),
    True where a query may look. Returns (B, H, T, D).
    """
    scaled = query / math.sqrt(query.shape[-1])
    scores = scaled @ key.transpose(-2, -1)  # (B, H, T, S)
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights: Tensor = dropout(scores.softmax(dim=-1))  # (B, H, T, S)
    return weights @ value  # (B, H, T, D)


class MultiHeadAttention(nn.Module):
    """H attentions side by side and an output projection, section 3.2.2 of the paper."""

    def __init__(self, *, d_model: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        if d_model % num_heads:
            raise ValueError(f"d_model {d_model} is not a multiple of num_heads {num_heads}")
        self.num_heads = num_heads
        self.q_proj = nn.Linear(d_model, d_model)
        self.k_proj = nn.Linear(d_model, d_model)
        self.v_proj = nn.Linear(d_model, d_model)
        self.out_proj = nn.Linear(d_model, d_model)
        self.dropout = Dropout(dropout)

    def forward(self, query: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """Let query (B, T, d_model) look at memory (B, S, d_model). Returns (B, T, d_model)."""
        q = self._split_heads(self.q_proj(query))  # (B, H, T, D)
        k = self._split_heads(self.k_proj(memory))  # (B, H, S, D)
        v = self._split_heads(self.v_proj(memory))  # (B, H, S, D)
        context = scaled_dot_product_attention(q, k, v, mask, self.dropout)
        merged = context.transpose(1, 2).flatten(2)  # (B, H, T, D) -> (B, T, d_model)
        output: Tensor = self.out_proj(merged)
        return output

    def _split_heads(self, states: Tensor) -> Tensor:
        # (B, T, d_model) -> (B, H, T, D)
        return states.view(*states.shape[:2], self.num_heads, -1).transpose(1, 2)


def causal_mask(length: int, device: torch.device | None = None) -> Tensor:
    """The mask of a decoder: position t may look at positions 0 to t. Shape (length, length)."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


def padding_mask(attention_mask: Tensor) -> Tensor:
    """Turn an attention mask (B, S), 1 at real tokens, into a mask (B, 1, 1, S) for attention."""
    return attention_mask.bool()[:, None, None, :]
