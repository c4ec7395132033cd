"""A bundle's weights as a CTranslate2 model, float32; runs in CTranslate2's environment.

    python -m bench.peers.ct2_model WEIGHTS.npz FOLDER

WEIGHTS.npz is what `bench.weights` writes: the PyTorch model's names, and its sizes as `config`.
CTranslate2 quantises when it loads. A token is its id as a decimal number.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ctranslate2.converters import utils
from ctranslate2.specs import common_spec, transformer_spec

ACTIVATIONS = {
    "relu": common_spec.Activation.RELU,
    "gelu": common_spec.Activation.GELU,
    "swish": common_spec.Activation.SWISH,
}

Weights = Mapping[str, Any]


def main() -> None:
    """Convert."""
    source, output = map(Path, sys.argv[1:])
    weights = np.load(source)
    spec = translation_spec(weights, json.loads(str(weights["config"])))
    spec.validate()
    output.mkdir(parents=True)
    spec.save(str(output))


def translation_spec(weights: Weights, config: dict[str, Any]) -> transformer_spec.TransformerSpec:
    """Fill the spec of a sequence-to-sequence Transformer."""
    spec = transformer_spec.TransformerSpec.from_config(
        (config["encoder_layers"], config["decoder_layers"]),
        config["num_heads"],
        pre_norm=config["norm"] == "pre",
        activation=ACTIVATIONS[config["activation"]],
    )
    embedding = weights["embedding.weight"]
    positions = sinusoidal_positions(config["max_positions"], config["d_model"])
    for side, name in ((spec.encoder, "encoder"), (spec.decoder, "decoder")):
        embeddings = side.embeddings[0] if name == "encoder" else side.embeddings
        embeddings.weight = embedding
        side.position_encodings.encodings = positions
        if config["norm"] == "pre":
            _layer_norm(side.layer_norm, weights, f"{name}_norm")
        for index, layer in enumerate(side.layer):
            _layer(layer, weights, f"{name}_layers.{index}")
    spec.decoder.projection.weight = embedding
    spec.decoder.projection.bias = weights["final_logits_bias"]
    _vocabulary(spec, config)
    return spec


def sinusoidal_positions(num_positions: int, d_model: int) -> np.ndarray:
    """All sines in front of all cosines, as `export.seq2seq.sinusoidal_positions`."""
    exponents = np.arange(0, d_model, 2) / d_model
    angles = np.arange(num_positions)[:, None] / 10_000.0**exponents
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def _layer(spec: Any, weights: Weights, name: str) -> None:
    _attention(spec.self_attention, weights, f"{name}.self_attn", fused="qkv")
    if hasattr(spec, "attention"):
        _attention(spec.attention, weights, f"{name}.cross_attn", fused="kv")
    _linear(spec.ffn.linear_0, weights, f"{name}.feed_forward.fc1")
    _linear(spec.ffn.linear_1, weights, f"{name}.feed_forward.fc2")
    _layer_norm(spec.ffn.layer_norm, weights, f"{name}.feed_forward_residual.layer_norm")


def _attention(spec: Any, weights: Weights, name: str, *, fused: str) -> None:
    """`fused` says of which maps one product is made, the last before the output's."""
    parts = {letter: common_spec.LinearSpec() for letter in "qkv"}
    for letter, part in parts.items():
        _linear(part, weights, f"{name}.{letter}_proj")
    if fused == "kv":
        spec.linear[0] = parts["q"]
    utils.fuse_linear(spec.linear[-2], [parts[letter] for letter in fused])
    _linear(spec.linear[-1], weights, f"{name}.out_proj")
    _layer_norm(spec.layer_norm, weights, f"{name}_residual.layer_norm")


def _linear(spec: Any, weights: Weights, name: str) -> None:
    spec.weight, spec.bias = weights[f"{name}.weight"], weights[f"{name}.bias"]


def _layer_norm(spec: Any, weights: Weights, name: str) -> None:
    spec.gamma, spec.beta = weights[f"{name}.weight"], weights[f"{name}.bias"]


def _vocabulary(spec: Any, config: dict[str, Any]) -> None:
    words = list(map(str, range(config["vocab_size"])))
    spec.register_source_vocabulary(words)
    spec.register_target_vocabulary(words)
    spec.config.unk_token = str(config["unk"])
    spec.config.bos_token = spec.config.decoder_start_token = str(config["decoder_start"])
    spec.config.eos_token = str(config["eos"])
    spec.config.layer_norm_epsilon = config["norm_epsilon"]


if __name__ == "__main__":
    main()
