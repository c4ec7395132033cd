"""Models that transformers trains for some minutes, exported, and held against it on a test set.

    python -m bench.families.trained translation --train SRC TGT --test SRC [--minutes 5]
    python -m bench.families.trained vision --train FOLDER --test FOLDER [--minutes 5]

Random weights seldom stop and hardly prefer a label; these do. Every sentence is decoded by the
server's workers and by `generate`, greedy and with four beams, by the checkpoint's own defaults;
1 000 pictures are classified by the server's session and by the checkpoint. Prints what differs;
returns 1 if anything does.
"""

import argparse
import json
import random
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from torch import nn

from bench.base_model import TOKENIZER
from bench.families.__main__ import FOLDER, export
from bench.families.checkpoints import marian_vocabulary
from export.bundling import load_tokenizer
from export.verify.exactness import decode_in_flight
from service.bundle import Bundle
from service.classification.image import Preprocessor
from service.classification.runner import Batching, ClassifierRunner
from service.translation.options import default_options
from service.translation.tokenizer import Tokenizer

NUM_PICTURES = 1000
LOGITS_ERROR = 1e-4
IGNORED = -100  # a label that the loss leaves out
BATCH = 64
LEARNING_RATE = 1.5e-3
WARM_UP = 200  # steps


def main() -> int:
    """Train, export, compare."""
    chosen = _parser().parse_args()
    torch.manual_seed(0)
    kind = translation if chosen.task == "translation" else vision
    return int(not kind(chosen))


def translation(chosen: argparse.Namespace) -> bool:
    """A MarianMTModel of 2+2 layers; whether every sentence has the same ids."""
    checkpoint, bundle = _clear("trained-marian")
    vocabulary = marian_vocabulary()
    pad = vocabulary["<pad>"]
    model = transformers.MarianMTModel(
        transformers.MarianConfig(
            vocab_size=len(vocabulary), d_model=192, encoder_layers=2, decoder_layers=2,
            encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=512,
            decoder_ffn_dim=512, activation_function="swish", scale_embedding=True,
            max_position_embeddings=128, dropout=0.1, pad_token_id=pad, eos_token_id=0,
            decoder_start_token_id=pad, forced_eos_token_id=0,
        )
    )  # fmt: skip
    pairs = _pairs(chosen.train, vocabulary)
    _train(model, _translation_batches(pairs, pad), chosen.minutes)
    model.generation_config = transformers.GenerationConfig(
        num_beams=4, max_length=64, bad_words_ids=[[pad]], renormalize_logits=True,
        forced_eos_token_id=0, pad_token_id=pad, eos_token_id=0, decoder_start_token_id=pad,
    )  # fmt: skip
    model.save_pretrained(checkpoint)
    (checkpoint / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    for name in ("source.spm", "target.spm"):
        shutil.copyfile(TOKENIZER, checkpoint / name)
    fields = {"tokenizer_class": "MarianTokenizer", "source_lang": "en", "target_lang": "de"}
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(fields))
    if export(checkpoint, bundle, "--precision", "fp32").status:
        return False
    opened = Bundle.open(bundle)
    sources = Tokenizer.from_bundle(opened).encode(chosen.test.read_text("utf-8").splitlines())
    same = [_same_ids(opened, model, sources, beam_size) for beam_size in (1, 4)]
    return all(same)


def _same_ids(bundle: Bundle, model: Any, sources: list[list[int]], beam_size: int) -> bool:
    options = replace(default_options(bundle.translation, max_beam_size=4), beam_size=beam_size)
    found = decode_in_flight(bundle, [(source, options) for source in sources])
    ours = [hypotheses[0].token_ids for hypotheses in found]
    pad = model.config.pad_token_id
    theirs: list[list[int]] = []
    with torch.inference_mode():
        for source in sources:
            ids = model.generate(torch.tensor([source]), num_beams=beam_size)[0, 1:].tolist()
            theirs.append(ids[: ids.index(pad)] if pad in ids else ids)
    differing = [n for n, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
    lengths = sorted(map(len, theirs))
    print(
        f"beam {beam_size}: {len(sources) - len(differing)} of {len(sources)} sentences have the "
        f"same ids; median length {lengths[len(lengths) // 2]}, longest {lengths[-1]}",
        flush=True,
    )
    for n in differing[:5]:
        print(f"  sentence {n}: {ours[n]} here, {theirs[n]} there")
    return not differing


def vision(chosen: argparse.Namespace) -> bool:
    """A ViTForImageClassification; whether the pictures have the same logits and best labels."""
    checkpoint, bundle = _clear("trained-vit")
    (train,) = chosen.train
    labels = sorted(path.name for path in train.iterdir() if path.is_dir())
    config = transformers.ViTConfig(
        hidden_size=96, num_hidden_layers=4, num_attention_heads=4, intermediate_size=192,
        image_size=32, patch_size=4, id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config)
    kind = transformers.models.vit.image_processing_pil_vit.ViTImageProcessorPil
    processor = kind(size={"height": 32, "width": 32})
    _train(model, _picture_batches(train, labels, processor), chosen.minutes)
    model.save_pretrained(checkpoint)
    processor.save_pretrained(checkpoint)
    if export(checkpoint, bundle, "--precision", "fp32").status:
        return False
    return _same_labels(Bundle.open(bundle), model, processor, chosen.test)


def _same_labels(bundle: Bundle, model: Any, processor: Any, folder: Path) -> bool:
    preprocess = Preprocessor(bundle.classification.image, max_pixels=1 << 24)
    batching = Batching(threads=1, max_batch=1)
    runner = ClassifierRunner(
        bundle, size=preprocess.size, device="cpu", precision="fp32", batching=batching
    )
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    paths = random.Random(0).sample(paths, min(NUM_PICTURES, len(paths)))
    largest, same, right = 0.0, 0, 0
    with torch.inference_mode():
        for path in paths:
            ours = runner.run([preprocess(path.read_bytes())])[0]
            with Image.open(path) as image:
                pixels = processor(image, return_tensors="pt")["pixel_values"]
            theirs = model(pixels).logits[0].numpy()
            largest = max(largest, float(np.abs(ours - theirs).max()))
            same += np.array_equal(np.argsort(-ours)[:5], np.argsort(-theirs)[:5])
            right += bundle.classification.labels[int(ours.argmax())] == path.parent.name
    print(
        f"{same} of {len(paths)} pictures have the same five labels; largest difference of a logit "
        f"{largest:.1e}; {100 * right / len(paths):.1f} % are right"
    )
    return same == len(paths) and largest < LOGITS_ERROR


def _train(model: Any, batches: Iterator[dict[str, torch.Tensor]], minutes: float) -> None:
    """As far as it gets, with a rate that falls to nothing at the end."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98))
    begun = time.monotonic()
    for step, batch in enumerate(batches):
        left = 1 - (time.monotonic() - begun) / (60 * minutes)
        if left <= 0:
            break
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(step / WARM_UP, 1) * min(1, 2 * left)
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 200 == 0:
            print(f"step {step}, loss {loss.item():.2f}", flush=True)
    model.eval()


def _pairs(paths: Sequence[Path], vocabulary: dict[str, int]) -> list[tuple[list[int], list[int]]]:
    words = load_tokenizer(TOKENIZER)
    sides = [
        [
            [vocabulary.get(piece, 1) for piece in pieces] + [0]
            for pieces in words.encode(path.read_text("utf-8").splitlines(), out_type=str)
        ]
        for path in paths
    ]
    return list(zip(*sides, strict=True))


def _translation_batches(
    pairs: list[tuple[list[int], list[int]]], pad: int
) -> Iterator[dict[str, torch.Tensor]]:
    rng = random.Random(0)
    while True:
        rng.shuffle(pairs)
        for at in range(0, len(pairs), 32 * BATCH):  # those of a chunk by their lengths
            chunk = sorted(pairs[at : at + 32 * BATCH], key=lambda pair: len(pair[1]))
            starts = list(range(0, len(chunk), BATCH))
            rng.shuffle(starts)
            for start in starts:
                sources, targets = zip(*chunk[start : start + BATCH], strict=True)
                input_ids = _padded(sources, pad)
                yield {
                    "input_ids": input_ids,
                    "attention_mask": (input_ids != pad).long(),
                    "labels": _padded(targets, IGNORED),
                }


def _padded(rows: Sequence[list[int]], value: int) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])


def _picture_batches(
    folder: Path, labels: list[str], processor: Any
) -> Iterator[dict[str, torch.Tensor]]:
    rng = random.Random(0)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    while True:
        rng.shuffle(paths)
        shuffled = iter(paths)
        while batch := list(islice(shuffled, BATCH)):
            pictures = [Image.open(path).convert("RGB") for path in batch]
            yield {
                "pixel_values": processor(pictures, return_tensors="pt")["pixel_values"],
                "labels": torch.tensor([labels.index(path.parent.name) for path in batch]),
            }


def _clear(name: str) -> tuple[Path, Path]:
    """Folders for a checkpoint and its bundle, the first empty, the second not there."""
    checkpoint, bundle = FOLDER / name, FOLDER / "models" / name / "1"
    for folder in (checkpoint, bundle):
        shutil.rmtree(folder, ignore_errors=True)
    checkpoint.mkdir(parents=True)
    return checkpoint, bundle


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.families.trained",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("task", choices=("translation", "vision"))
    parser.add_argument("--train", type=Path, nargs="+", required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=5.0)
    return parser


if __name__ == "__main__":
    sys.exit(main())
