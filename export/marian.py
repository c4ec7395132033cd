"""A translation model as Hugging Face's MarianMTModel: the reference of tests and benches."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from export.seq2seq import Seq2SeqConfig

if TYPE_CHECKING:
    from transformers import MarianMTModel

# Our names -> Marian's, inside a layer.
NAMES = {
    "self_attn_residual.layer_norm": "self_attn_layer_norm",
    "cross_attn_residual.layer_norm": "encoder_attn_layer_norm",
    "feed_forward_residual.layer_norm": "final_layer_norm",
    "cross_attn": "encoder_attn",
    "feed_forward.fc1": "fc1",
    "feed_forward.fc2": "fc2",
}
LOGITS_BIAS = "final_logits_bias"
TIED_EMBEDDINGS = (
    "model.shared.weight",
    "model.encoder.embed_tokens.weight",
    "model.decoder.embed_tokens.weight",
    "lm_head.weight",
)


def to_marian(state: dict[str, Tensor], config: Seq2SeqConfig) -> "MarianMTModel":
    """Build the same function from a `Transformer`'s state dict, in evaluation mode.

    Raises ValueError for a pre-norm model: Marian is post-norm.
    """
    from transformers import MarianConfig, MarianMTModel

    if config.norm != "post":
        raise ValueError(f"a Marian model is post-norm, not {config.norm}-norm")
    model = MarianMTModel(
        MarianConfig(
            vocab_size=config.vocab_size,
            d_model=config.d_model,
            encoder_layers=config.encoder_layers,
            decoder_layers=config.decoder_layers,
            encoder_attention_heads=config.num_heads,
            decoder_attention_heads=config.num_heads,
            encoder_ffn_dim=config.ffn_size,
            decoder_ffn_dim=config.ffn_size,
            activation_function=config.activation,
            max_position_embeddings=config.max_positions,
            scale_embedding=True,
            pad_token_id=config.pad_token_id,
            eos_token_id=config.eos_token_id,
            decoder_start_token_id=config.pad_token_id,
            forced_eos_token_id=None,
        )
    )
    _check(model.load_state_dict(marian_state(state, config), strict=False))
    model.train(False)
    return model


def marian_state(state: dict[str, Tensor], config: Seq2SeqConfig) -> dict[str, Tensor]:
    """The weights under Marian's names."""
    renamed = {
        _marian_name(name): tensor
        for name, tensor in state.items()
        if name not in ("embedding.weight", LOGITS_BIAS)
    }
    renamed[LOGITS_BIAS] = state[LOGITS_BIAS][None]
    return renamed | dict.fromkeys(TIED_EMBEDDINGS, state["embedding.weight"])


def _marian_name(name: str) -> str:
    side, _, rest = name.partition("_layers.")
    for ours, theirs in NAMES.items():
        rest = rest.replace(ours, theirs)
    return f"model.{side}.layers.{rest}"


def _check(result: "torch.nn.modules.module._IncompatibleKeys") -> None:
    # Sinusoids are no weights: Marian makes its own.
    missing = [name for name in result.missing_keys if "embed_positions" not in name]
    if missing or result.unexpected_keys:
        unexpected = result.unexpected_keys
        raise ValueError(f"weights that do not fit: missing {missing}, unexpected {unexpected}")
