"""A small model that stops where it has learned to, trained in seconds on a language of its own.

What a sentence says, in that language, is a list of up to four words it is about. Every word has
several expressions, some likelier than others, of unlike lengths and often with the same beginning,
and after any of them the translation may end. So translations of one sentence differ in wording and
in length and are about as likely as each other: what a search has to choose among.
"""

import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from export.bundling import (
    Storage,
    TranslationDescription,
    encode,
    export_translation,
    load_tokenizer,
)
from export.data.tokens import (
    EOS_ID,
    PAD_ID,
    TokenPair,
    batches_by_tokens,
    collate,
    train_tokenizer,
)
from export.seq2seq import Seq2SeqConfig, Transformer, shift_right
from service.bundle import CARD_FILE, Bundle, Decoding, Provenance
from tests.translation.captions import captions

VOCAB_SIZE = 768
NUM_WORDS, MAX_WORDS = 60, 4
NUM_EXPRESSIONS = 5
FIRST_TOKEN, NUM_TOKENS = 300, 16  # of the other language: any ids will do
MAX_TARGET_TOKENS = 40
NUM_SENTENCES, NUM_STEPS = 3000, 200
WARMUP_STEPS, LEARNING_RATE = 50, 3e-3


class Language:
    """Expressions and their weights, and how likely each word is the last."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self._expressions = [
            [
                [
                    FIRST_TOKEN + rng.randrange(NUM_TOKENS)
                    for _ in range(rng.choice((1, 1, 2, 2, 3, 4)))
                ]
                for _ in range(NUM_EXPRESSIONS)
            ]
            for _ in range(NUM_WORDS)
        ]
        self._weights = [
            [rng.expovariate(1) for _ in range(NUM_EXPRESSIONS)] for _ in range(NUM_WORDS)
        ]
        self._endings = [0.4 * rng.random() ** 2 for _ in range(NUM_WORDS)]

    def translate(self, source: Sequence[int], rng: random.Random) -> list[int]:
        """One of the translations of a source, the end token last."""
        words = sorted({token % NUM_WORDS for token in source if token % 5 == 0})[:MAX_WORDS]
        target: list[int] = []
        for word in words:
            target += rng.choices(self._expressions[word], self._weights[word])[0]
            if rng.random() < self._endings[word]:
                break
        return [*target, EOS_ID]


def make_toy_bundle(folder: Path) -> Bundle:
    """Train the model and write its bundle; some 15 seconds, and the same bits every time."""
    tokenizer = folder / "source.spm"
    sentences = captions(NUM_SENTENCES, seed=1)
    train_tokenizer(sentences, VOCAB_SIZE, tokenizer)
    language, rng = Language(seed=11), random.Random(3)
    sources = encode(load_tokenizer(tokenizer), sentences, EOS_ID)
    pairs = [TokenPair(source, language.translate(source, rng)) for source in sources]
    return export_translation(
        _trained([pair for pair in pairs if len(pair.source) < 100]),
        tokenizer,
        folder / "toy" / "1",
        description=TranslationDescription(
            name="toy",
            language_pairs=[("en", "de")],
            provenance=Provenance(data="made by a test", licence="Apache-2.0", recipe="seconds"),
            decoding=Decoding(max_target_tokens=MAX_TARGET_TOKENS),
            max_target_tokens=MAX_TARGET_TOKENS,
        ),
        storage=Storage(("fp32",), half_weights=False),
    )


def with_rules(
    bundle: Bundle, folder: Path, *, forced_bos: int | None = None, **decoding: Any
) -> Bundle:
    """The same model as another bundle NAME/VERSION in `folder`, whose card says otherwise."""
    card = bundle.translation
    update = {
        "tokens": card.tokens.model_copy(update={"forced_bos": forced_bos}),
        "decoding": card.decoding.model_copy(update=decoding),
    }
    copy = folder / bundle.name / bundle.folder.name
    shutil.copytree(bundle.folder, copy)
    (copy / CARD_FILE).write_text(card.model_copy(update=update).model_dump_json())
    return Bundle.open(copy)


def _trained(pairs: Sequence[TokenPair]) -> Transformer:
    torch.manual_seed(1)
    config = Seq2SeqConfig(
        VOCAB_SIZE, d_model=64, num_heads=4, ffn_size=128, dropout=0.0,
        encoder_layers=2, decoder_layers=2,
    )  # fmt: skip
    model = Transformer(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / WARMUP_STEPS)
    )
    batches = batches_by_tokens(pairs, 2048, random.Random(1))
    for step in range(NUM_STEPS):
        tokens = collate(batches[step % len(batches)])
        decoder_input_ids = shift_right(tokens.labels, PAD_ID)
        logits = model(tokens.input_ids, tokens.attention_mask, decoder_input_ids)  # (B, T, V)
        loss = nn.functional.cross_entropy(
            logits.flatten(0, 1), tokens.labels.flatten(), ignore_index=PAD_ID
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()
