"""Names of tensors in Marian, M2M100, BART and mBART, which are one ancestor's, and ours."""

BIAS = "final_logits_bias"
SHARED = "model.shared.weight"
SOURCE = "model.encoder.embed_tokens.weight"
TARGET = "model.decoder.embed_tokens.weight"
OUTPUT = "lm_head.weight"
EMBEDDINGS = (SHARED, SOURCE, TARGET, OUTPUT)

# Ours -> theirs, inside a layer.
IN_A_LAYER = {
    "self_attn_residual.layer_norm": "self_attn_layer_norm",
    "cross_attn_residual.layer_norm": "encoder_attn_layer_norm",
    "feed_forward_residual.layer_norm": "final_layer_norm",
    "cross_attn": "encoder_attn",
    "feed_forward.fc1": "fc1",
    "feed_forward.fc2": "fc2",
}
# Ours -> theirs, around the layers of a side.
AROUND = {
    "norm": "layer_norm",
    "embedding_norm": "layernorm_embedding",
    "positions": "embed_positions",
}


def checkpoint_name(ours: str) -> str:
    """Their name of a tensor that is no embedding of tokens."""
    if ours == BIAS:
        return BIAS
    side, _, rest = ours.partition("_layers.")
    if rest:
        for name, theirs in IN_A_LAYER.items():
            rest = rest.replace(name, theirs)
        return f"model.{side}.layers.{rest}"
    module, _, kind = ours.rpartition(".")
    side, _, name = module.partition("_")
    return f"model.{side}.{AROUND[name]}.{kind}"
