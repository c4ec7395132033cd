"""Checkpoint folders as transformers saves them, at true sizes; weights are random, texts are not.

The tokenizers are the default bundle's with made-up words up to the true number.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from bench.base_model import TOKENIZER, word
from export.bundling import load_tokenizer

SEED = 1
LIVELY = 1.3  # of weights beside the usual scale: tokens then differ by the words before them


def opus_mt(folder: Path) -> None:
    """Helsinki-NLP/opus-mt-en-de: 6+6 layers, 512 wide, 58 101 tokens."""
    vocabulary = marian_vocabulary(58_101)
    pad = vocabulary["<pad>"]
    config = transformers.MarianConfig(
        vocab_size=len(vocabulary),
        d_model=512,
        encoder_layers=6,
        decoder_layers=6,
        encoder_attention_heads=8,
        decoder_attention_heads=8,
        encoder_ffn_dim=2048,
        decoder_ffn_dim=2048,
        activation_function="swish",
        scale_embedding=True,
        max_position_embeddings=512,
        pad_token_id=pad,
        eos_token_id=0,
        decoder_start_token_id=pad,
        forced_eos_token_id=0,
    )
    defaults = {
        "num_beams": 4,
        "max_length": 512,
        "bad_words_ids": [[pad]],
        "renormalize_logits": True,
        "forced_eos_token_id": 0,
    }
    _save(transformers.MarianMTModel, config, defaults, folder, zero_row=pad)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    for name in ("source.spm", "target.spm"):
        shutil.copyfile(TOKENIZER, folder / name)
    fields = {
        "tokenizer_class": "MarianTokenizer", "source_lang": "en", "target_lang": "de",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(fields))


def nllb_600m(folder: Path) -> None:
    """facebook/nllb-200-distilled-600M's sizes: 12+12 layers, 1024 wide, 256 206 tokens.

    Its tokenizer is M2M100's, which reads a SentencePiece model and a vocabulary.
    """
    codes = transformers.models.m2m_100.tokenization_m2m_100.FAIRSEQ_LANGUAGE_CODES["m2m100"]
    num_pieces = 256_206 - len(codes) - 8  # the last eight are never used
    vocabulary = _m2m100_vocabulary(num_pieces)
    config = transformers.M2M100Config(
        vocab_size=256_206,
        d_model=1024,
        encoder_layers=12,
        decoder_layers=12,
        encoder_attention_heads=16,
        decoder_attention_heads=16,
        encoder_ffn_dim=4096,
        decoder_ffn_dim=4096,
        activation_function="relu",
        scale_embedding=True,
        max_position_embeddings=1024,
        decoder_start_token_id=2,
    )
    defaults = {"num_beams": 4, "max_length": 200}
    _save(transformers.M2M100ForConditionalGeneration, config, defaults, folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    shutil.copyfile(TOKENIZER, folder / "sentencepiece.bpe.model")
    tokenizer = transformers.M2M100Tokenizer(
        str(folder / "vocab.json"), str(folder / "sentencepiece.bpe.model"), src_lang="en"
    )
    tokenizer.save_pretrained(folder)


def vit_b16(folder: Path) -> None:
    """google/vit-base-patch16-224: 12 layers, 768 wide, 1 000 labels."""
    torch.manual_seed(SEED)
    config = transformers.ViTConfig(num_labels=1000)
    model = transformers.ViTForImageClassification(config).eval()
    _enliven(model)
    model.save_pretrained(folder)
    processor = transformers.models.vit.image_processing_pil_vit.ViTImageProcessorPil()
    processor.save_pretrained(folder)


CHECKPOINTS: dict[str, Callable[[Path], None]] = {
    "opus-mt": opus_mt,
    "nllb-600m": nllb_600m,
    "vit-b16": vit_b16,
}


def marian_vocabulary(size: int = 0) -> dict[str, int]:
    """End and unknown first, padding last; at least the true pieces."""
    pieces = ["</s>", "<unk>", *_pieces()]
    pieces += [f"▁{word(index)}" for index in range(len(pieces), size - 1)]
    return {piece: index for index, piece in enumerate([*pieces, "<pad>"])}


def _m2m100_vocabulary(size: int) -> dict[str, int]:
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *_pieces()]
    pieces += [f"▁{word(index)}" for index in range(len(pieces), size)]
    return {piece: index for index, piece in enumerate(pieces)}


def _pieces() -> list[str]:
    """Of the default bundle's tokenizer, without its special ones."""
    processor = load_tokenizer(TOKENIZER)
    return [
        processor.id_to_piece(index)
        for index in range(len(processor))
        if not (processor.is_control(index) or processor.is_unknown(index))
    ]


def _save(
    kind: Any, config: Any, defaults: dict[str, Any], folder: Path, *, zero_row: int | None = None
) -> None:
    torch.manual_seed(SEED)
    model = kind(config).eval()
    _enliven(model)
    if zero_row is not None:  # converted from Marian, which begins with nothing
        with torch.no_grad():
            model.get_input_embeddings().weight[zero_row] = 0
    model.generation_config = transformers.GenerationConfig(
        pad_token_id=config.pad_token_id,
        eos_token_id=config.eos_token_id,
        decoder_start_token_id=config.decoder_start_token_id,
        **defaults,
    )
    model.save_pretrained(folder)


def _enliven(model: nn.Module) -> None:
    """Weights so large that the answer depends on what is asked."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "position" not in name:
                nn.init.normal_(parameter, std=LIVELY * parameter.shape[1] ** -0.5)
