"""The default model that translates, and real sentences: what float16 is judged by.

Random weights leave many tokens about as likely as each other, so that any rounding changes an
answer; a trained model is mostly sure. It is read without the packages that serving needs.
"""

import json
from pathlib import Path

import numpy as np
import onnx
import sentencepiece
import torch
from onnx import numpy_helper

from bench.gpu.models import ROOT, TranslationSize
from export.graphs.layers import PACKED
from export.seq2seq import Seq2SeqConfig, Transformer

BUNDLE = ROOT / "models" / "captions-en-de" / "1"
SENTENCES = (
    ROOT / "bench" / "sentences.txt",
    ROOT / "tests" / "translation" / "sentences.txt",
)
LONGEST_TARGET = 96


def trained_model() -> tuple[TranslationSize, Transformer]:
    """The model with its fp32 weights."""
    card = json.loads((BUNDLE / "bundle.json").read_text())
    sizes, tokens = card["architecture"], card["tokens"]
    names = (
        "vocab_size", "d_model", "encoder_layers", "decoder_layers", "num_heads", "ffn_size",
        "activation", "norm", "max_positions",
    )  # fmt: skip
    config = Seq2SeqConfig(
        **{name: sizes[name] for name in names},
        pad_token_id=tokens["pad"],
        eos_token_id=tokens["eos"],
    )
    model = Transformer(config).eval()
    model.load_state_dict(_weights(BUNDLE / "fp32"))
    size = TranslationSize(
        card["name"], config, card["limits"]["max_source_tokens"], LONGEST_TARGET
    )
    return size, model


def real_sources(size: TranslationSize, count: int) -> list[list[int]]:
    """Token ids of the first so many sentences that the model takes whole."""
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(BUNDLE / "source.spm"))
    lines = [line for path in SENTENCES for line in path.read_text("utf-8").splitlines()]
    sources = [[*ids, size.config.eos_token_id] for ids in tokenizer.encode(lines)]
    return [source for source in sources if len(source) <= size.max_source_tokens][:count]


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    """The state dict: weights that share a product apart again, (I, O) as (O, I)."""
    state = {}
    for name in ("encoder", "decoder"):
        graph = onnx.load(folder / f"{name}.onnx", load_external_data=False).graph
        for tensor in graph.initializer:
            if tensor.data_location != onnx.TensorProto.EXTERNAL:
                continue
            values = numpy_helper.to_array(tensor, base_dir=str(folder)).astype(np.float32)
            if values.ndim == 2 and tensor.name != "embedding.weight":
                values = values.T
            packed, _, kind = tensor.name.rpartition(".")
            modules = [f"{module}.{kind}" for module in packed.split(PACKED)] if packed else [kind]
            parts = np.split(values, len(modules), axis=0)
            state |= {
                module: torch.from_numpy(part.copy())
                for module, part in zip(modules, parts, strict=True)
            }
    return state
