"""Blocks of both models: attention, feed-forward network, residual connection.

Letters: B batch, R rows, S length, H heads, D head size, d_model = H * D.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from export.graphs.builder import MICROSOFT, GraphBuilder, Value
from export.graphs.products import Linear, Products
from export.layers import LayerConfig
from export.quantization import Floats

State = Mapping[str, Floats]

PACKED = "+"  # between the names of linear maps that share a product

NORM_EPSILON = 1e-5  # that of a LayerNorm outside the layers, PyTorch's default


def linear(state: State, *names: str) -> Linear:
    """Linear maps that read the same tensor, side by side in one product.

    PyTorch keeps a weight as (O, I); products want (I, O).
    """
    return Linear(
        name=PACKED.join(names),
        source=names[0],
        weight=np.concatenate([state[f"{name}.weight"].T for name in names], axis=1),
        bias=np.concatenate([state[f"{name}.bias"] for name in names]),
    )


@dataclass(frozen=True, slots=True)
class Blocks:
    """Adds the blocks of one model to one graph."""

    graph: GraphBuilder
    products: Products
    state: State
    config: LayerConfig

    def linear(self, states: Value, *names: str) -> Value:
        """One product with the weights of these linear maps side by side."""
        return self.products.linear(self.graph, states, linear(self.state, *names))

    def weight(self, name: str) -> Value:
        """A tensor of the state, in the type that the states between products have."""
        return self.graph.weight(name, self.state[name].astype(self.products.float_type))

    def norm(self, states: Value, name: str, epsilon: float = NORM_EPSILON) -> Value:
        """Layer normalization over the last axis."""
        scale, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.graph.node("LayerNormalization", states, scale, bias, axis=-1, epsilon=epsilon)

    def residual(self, states: Value, name: str, sublayer: Callable[[Value], Value]) -> Value:
        """x + f(LN(x)) or LN(x + f(x)), as Add and LayerNormalization: fused they are slower."""
        name, epsilon = f"{name}.layer_norm", self.config.norm_epsilon
        if self.config.norm == "pre":
            return self.graph.node("Add", states, sublayer(self.norm(states, name, epsilon)))
        return self.norm(self.graph.node("Add", states, sublayer(states)), name, epsilon)

    def feed_forward(self, states: Value, name: str) -> Value:
        """Two linear maps with the activation between them."""
        hidden = self.activation(self.linear(states, f"{name}.fc1"))
        return self.linear(hidden, f"{name}.fc2")

    def activation(self, states: Value) -> Value:
        """ReLU, GELU by the error function, or swish (x * sigmoid(x))."""
        match self.config.activation:
            case "relu":
                return self.graph.node("Relu", states)
            case "gelu":
                return self.graph.node("Gelu", states, domain=MICROSOFT)
            case "swish":
                return self.graph.node("QuickGelu", states, domain=MICROSOFT, alpha=1.0)
        raise ValueError(f"no graph for the activation {self.config.activation}")

    def qkv(self, states: Value, name: str) -> Value:
        """Queries, keys and values of self-attention from one product, (B, S, 3 * d_model)."""
        return self.linear(states, *(f"{name}.{part}" for part in ("q_proj", "k_proj", "v_proj")))

    def integers(self, *values: int) -> Value:
        """An int64 vector, for shapes and axes."""
        return self.graph.constant(values, "int64")
