"""Small checkpoints of every family, saved by transformers: real switches, random weights."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from tests.tokenizers import families
from tests.tokenizers.families import Family

SIZES = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "attn_implementation": "eager",
}


@dataclass(frozen=True, slots=True)
class Luck:
    """Random weights seldom stop: a seed, and a bias of the end, whose outputs' lengths differ."""

    seed: int
    end: float


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint's folder, and what made it."""

    folder: Path
    model: Any
    tokenizer: Family


def marian(folder: Path, *, separate: bool = False, **changes: Any) -> Saved:
    """OPUS-MT's config.json: swish, scaled embeddings, padding in front and never generated."""
    tokenizer = families.marian(_new(folder), separate=separate)
    pad = tokenizer.card.tokens.pad
    vocab_size = tokenizer.card.architecture.vocab_size
    config = transformers.MarianConfig(
        **SIZES
        | {
            # The padding token of the target is in both embeddings.
            "vocab_size": vocab_size + 5 if separate else vocab_size,
            "decoder_vocab_size": vocab_size,
            "activation_function": "swish",
            "scale_embedding": True,
            "share_encoder_decoder_embeddings": not separate,
            "pad_token_id": pad,
            "eos_token_id": 0,
            "decoder_start_token_id": pad,
            "forced_eos_token_id": 0,
        }
        | changes
    )
    defaults = {
        "num_beams": 4,
        "max_length": 24,
        "bad_words_ids": [[pad]],
        "renormalize_logits": True,
        "forced_eos_token_id": 0,
    }
    luck = Luck(8, 5.0) if separate else Luck(12, 7.0)
    saved = _save(transformers.MarianMTModel, config, defaults, tokenizer, folder, luck)
    _set_fields(folder / "tokenizer_config.json", source_lang="en")
    return saved


def m2m100(folder: Path, **changes: Any) -> Saved:
    """facebook/m2m100_418M's config.json: pre-norm, ReLU, scaled embeddings."""
    return _save(*_m2m100(families.m2m100(_new(folder)), changes), folder, Luck(11, 5.5))


def nllb(folder: Path, **changes: Any) -> Saved:
    """facebook/nllb-200-distilled-600M's config.json: the same, with a tokenizer.json."""
    return _save(*_m2m100(families.nllb(_new(folder)), changes), folder, Luck(17, 4.5))


def _m2m100(tokenizer: Family, changes: dict[str, Any]) -> tuple[Any, ...]:
    config = transformers.M2M100Config(
        **SIZES
        | {
            "vocab_size": tokenizer.card.architecture.vocab_size,
            "activation_function": "relu",
            "scale_embedding": True,
            "decoder_start_token_id": 2,
        }
        | changes
    )
    defaults = {"num_beams": 5, "max_length": 20, "early_stopping": True}
    return transformers.M2M100ForConditionalGeneration, config, defaults, tokenizer


def bart(folder: Path, **changes: Any) -> Saved:
    """facebook/bart-large-cnn's config.json and its rules of summaries."""
    tokenizer = families.bart(_new(folder))
    config = transformers.BartConfig(
        **SIZES
        | {
            "vocab_size": tokenizer.card.architecture.vocab_size,
            "activation_function": "gelu",
            "scale_embedding": False,
        }
        | changes
    )
    defaults = {
        "num_beams": 4,
        "max_length": 22,
        "min_length": 6,
        "length_penalty": 2.0,
        "no_repeat_ngram_size": 3,
        "early_stopping": True,
        "forced_bos_token_id": 0,
        "forced_eos_token_id": 2,
    }
    kind = transformers.BartForConditionalGeneration
    return _save(kind, config, defaults, tokenizer, folder, Luck(5, 5.0))


def mbart(folder: Path, **changes: Any) -> Saved:
    """facebook/mbart-large-cc25's config.json: BART with pre-norm, a language in front."""
    tokenizer = families.mbart(_new(folder))
    defaults = {"num_beams": 5, "max_length": 20, "forced_eos_token_id": 2}
    return _mbart(tokenizer, folder, defaults, Luck(14, 6.0), changes)


def mbart50(folder: Path, **changes: Any) -> Saved:
    """facebook/mbart-large-50-many-to-many-mmt's config.json."""
    tokenizer = families.mbart50(_new(folder))
    defaults = {
        "num_beams": 5,
        "max_length": 20,
        "early_stopping": True,
        "forced_eos_token_id": 2,
        "decoder_start_token_id": 2,
    }
    changes = {"decoder_start_token_id": 2, **changes}
    return _mbart(tokenizer, folder, defaults, Luck(23, 4.0), changes)


def _mbart(
    tokenizer: Family, folder: Path, defaults: dict[str, Any], luck: Luck, changes: dict[str, Any]
) -> Saved:
    config = transformers.MBartConfig(
        **SIZES
        | {
            "vocab_size": tokenizer.card.architecture.vocab_size,
            "activation_function": "gelu",
            "scale_embedding": True,
        }
        | changes
    )
    kind = transformers.MBartForConditionalGeneration
    return _save(kind, config, defaults, tokenizer, folder, luck)


FAMILIES: dict[str, Callable[..., Saved]] = {
    "marian": marian,
    "marian-separate": lambda folder, **changes: marian(folder, separate=True, **changes),
    "m2m100": m2m100,
    "nllb": nllb,
    "bart": bart,
    "mbart": mbart,
    "mbart50": mbart50,
}


def edit_config(folder: Path, name: str = "config.json", **fields: Any) -> None:
    """Change fields of a JSON file; None takes one out."""
    _set_fields(folder / name, **fields)


def copied(saved: Saved, folder: Path) -> Path:
    """A copy of a checkpoint, to be damaged."""
    shutil.copytree(saved.folder, folder)
    return folder


def _new(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _save(
    kind: Any, config: Any, defaults: dict[str, Any], tokenizer: Family, folder: Path, luck: Luck
) -> Saved:
    torch.manual_seed(luck.seed)
    model = _lively(kind(config).eval(), config, luck.end)
    start = config.decoder_start_token_id
    model.generation_config = transformers.GenerationConfig(
        **{
            "pad_token_id": config.pad_token_id,
            "eos_token_id": config.eos_token_id,
            "decoder_start_token_id": start,
        }
        | defaults
    )
    model.save_pretrained(folder)
    tokenizer.theirs.save_pretrained(folder)
    return Saved(folder, model, tokenizer)


def _lively(model: Any, config: Any, end: float) -> Any:
    """Weights so large that words differ, and an end that comes after a few of them."""
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            if "embed_positions" in name and isinstance(config, transformers.MarianConfig):
                continue
            if parameter.ndim == 1:
                nn.init.normal_(parameter, mean=float("norm" in name and "weight" in name), std=0.2)
            else:
                nn.init.normal_(parameter, std=1.3 * parameter.shape[1] ** -0.5)
    with torch.no_grad():
        if hasattr(model, "final_logits_bias"):
            nn.init.normal_(model.final_logits_bias, std=0.3)
        # What the last norm adds raises the end's logit, where there is no bias, too.
        last = model.model.decoder
        norm = getattr(last, "layer_norm", None) or last.layers[-1].final_layer_norm
        row = model.lm_head.weight[config.eos_token_id]
        norm.bias += end * row / row.square().sum()
    return model


def _set_fields(path: Path, **fields: Any) -> None:
    content = json.loads(path.read_text())
    content = {name: value for name, value in (content | fields).items() if value is not None}
    path.write_text(json.dumps(content))
