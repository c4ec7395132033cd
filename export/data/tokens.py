"""Subword tokens: training the tokenizer, and sentences as batches of token ids.

Letters: B batch, S source length, T target length.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import sentencepiece
import torch
from torch import Tensor

from export.data.bpe_dropout import BpeDropout
from export.data.parallel import Pair

PAD_ID, UNK_ID, EOS_ID = 0, 1, 2


@dataclass(frozen=True, slots=True)
class TokenPair:
    """One sentence pair as token ids, each side ended by the end token."""

    source: list[int]
    target: list[int]


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Padded ids: input_ids and attention_mask (B, S), labels (B, T)."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor

    @property
    def num_target_tokens(self) -> int:
        """Target tokens without padding."""
        return int((self.labels != PAD_ID).sum())


def train_tokenizer(sentences: Sequence[str], vocab_size: int, output: Path) -> None:
    """Train a byte-pair vocabulary (Sennrich et al. 2016) and write it as a sentencepiece model.

    Digits stand alone, so that numbers can be copied; characters never seen become bytes, so that
    nothing is unknown.
    """
    with output.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=file,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            split_digits=True,
            character_coverage=1.0,
            pad_id=PAD_ID,
            unk_id=UNK_ID,
            eos_id=EOS_ID,
            bos_id=-1,
            minloglevel=2,
        )


def load_tokenizer(path: Path) -> sentencepiece.SentencePieceProcessor:
    """Read a sentencepiece model."""
    return sentencepiece.SentencePieceProcessor(model_file=str(path))


def encode_pairs(
    tokenizer: sentencepiece.SentencePieceProcessor, pairs: Sequence[Pair]
) -> list[TokenPair]:
    """Token ids of every pair, each word in its most merged form."""
    sources = tokenizer.encode([source for source, _ in pairs])
    targets = tokenizer.encode([target for _, target in pairs])
    return [
        TokenPair([*source, EOS_ID], [*target, EOS_ID])
        for source, target in zip(sources, targets, strict=True)
    ]


def encode_pairs_with_dropout(
    encoder: BpeDropout, pairs: Sequence[Pair], rng: random.Random
) -> list[TokenPair]:
    """Token ids with merges left out at random, as the generator decides."""
    return [
        TokenPair([*encoder.encode(source, rng), EOS_ID], [*encoder.encode(target, rng), EOS_ID])
        for source, target in pairs
    ]


def batches_by_tokens(
    pairs: Sequence[TokenPair], max_tokens: int, rng: random.Random
) -> list[list[TokenPair]]:
    """Batches of pairs of like length, at most max_tokens padded tokens a side, shuffled.

    A pair that is longer than that is a batch of its own.
    """
    # Random before sorting: pairs of one length meet other neighbours in each epoch.
    order = sorted(pairs, key=lambda pair: (len(pair.target), len(pair.source), rng.random()))
    batches: list[list[TokenPair]] = []
    longest = 0
    for pair in order:
        longest = max(longest, len(pair.source), len(pair.target))
        if not batches or longest * (len(batches[-1]) + 1) > max_tokens:
            batches.append([])
            longest = max(len(pair.source), len(pair.target))
        batches[-1].append(pair)
    rng.shuffle(batches)
    return batches


def collate(pairs: Sequence[TokenPair]) -> TokenBatch:
    """Pad pairs to the longest of each side."""
    input_ids = _pad([pair.source for pair in pairs])  # (B, S)
    labels = _pad([pair.target for pair in pairs])  # (B, T)
    return TokenBatch(input_ids, (input_ids != PAD_ID).long(), labels)


def _pad(sequences: Sequence[list[int]]) -> Tensor:
    length = max(map(len, sequences))
    return torch.tensor([ids + [PAD_ID] * (length - len(ids)) for ids in sequences])
