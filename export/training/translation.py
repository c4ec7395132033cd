"""Training a translation model: teacher forcing with label smoothing on batches by tokens."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from export.data.bpe_dropout import BpeDropout
from export.data.parallel import Pair
from export.data.perturb import perturb
from export.data.tokens import (
    PAD_ID,
    TokenBatch,
    TokenPair,
    batches_by_tokens,
    collate,
    encode_pairs,
    encode_pairs_with_dropout,
    load_tokenizer,
)
from export.seq2seq import Transformer, shift_right
from export.training.loop import OptimizationConfig


@dataclass(frozen=True, slots=True)
class TranslationDataConfig:
    """What a translation model is trained on."""

    vocab_size: int = 5000
    max_tokens: int = 4096  # padded tokens a side in one batch
    bpe_dropout: float = 0.05  # share of merges left out
    perturb: bool = True  # other case, no final stop, two joined, names and numbers copied
    max_length: int = 256  # longer pairs are left out


class TranslationTask:
    """A Transformer and its sentence pairs, as the training loop sees them."""

    unit = "target tokens"

    def __init__(
        self,
        model: Transformer,
        tokenizer_path: Path,
        train: Sequence[Pair],
        valid: Sequence[Pair],
        data: TranslationDataConfig,
        optimization: OptimizationConfig,
    ) -> None:
        self.model = model
        tokenizer = load_tokenizer(tokenizer_path)
        self.dropout = BpeDropout(tokenizer, data.bpe_dropout)
        self.train_pairs = train
        self.data = data
        self.optimization = optimization
        encoded = self._short_enough(encode_pairs(tokenizer, valid))
        if not encoded or not train:
            raise ValueError(
                f"no pairs of at most {data.max_length} tokens to train or validate on"
            )
        self.valid_batches = batches_by_tokens(encoded, data.max_tokens, random.Random(0))

    def epoch_batches(self, epoch: int) -> list[list[TokenPair]]:
        """Perturb, tokenize and group all pairs anew."""
        rng = random.Random(f"{self.optimization.seed} {epoch}")
        pairs = perturb(self.train_pairs, rng) if self.data.perturb else self.train_pairs
        encoded = encode_pairs_with_dropout(self.dropout, pairs, rng)
        return batches_by_tokens(self._short_enough(encoded), self.data.max_tokens, rng)

    def loss(self, batch: list[TokenPair]) -> Tensor:
        """Mean smoothed loss a target token."""
        tokens = collate(batch)
        loss = label_smoothed_loss(
            self._logits(tokens), self._device(tokens.labels), self.optimization.label_smoothing
        )
        return loss / tokens.num_target_tokens

    def num_units(self, batch: list[TokenPair]) -> int:
        """Target tokens without padding."""
        return sum(len(pair.target) for pair in batch)

    def validate(self) -> dict[str, float]:
        """Mean negative log-likelihood a target token, and the share of tokens guessed right."""
        loss = correct = count = 0.0
        for batch in self.valid_batches:
            tokens = collate(batch)
            labels = self._device(tokens.labels)
            logits = self._logits(tokens)
            loss += label_smoothed_loss(logits, labels, smoothing=0.0).item()
            correct += ((logits.argmax(-1) == labels) & (labels != PAD_ID)).sum().item()
            count += tokens.num_target_tokens
        return {"loss": loss / count, "token_accuracy": correct / count}

    def _short_enough(self, pairs: Sequence[TokenPair]) -> list[TokenPair]:
        limit = self.data.max_length
        return [pair for pair in pairs if max(len(pair.source), len(pair.target)) <= limit]

    def _logits(self, tokens: TokenBatch) -> Tensor:
        # Teacher forcing: the decoder sees the reference up to the token it has to predict.
        decoder_input_ids = shift_right(tokens.labels, self.model.config.pad_token_id)
        logits: Tensor = self.model(
            self._device(tokens.input_ids),
            self._device(tokens.attention_mask),
            self._device(decoder_input_ids),
        )
        return logits  # (B, T, V)

    def _device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.model.positions.device)


def label_smoothed_loss(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Summed cross-entropy against labels that keep 1 - smoothing of the probability.

    The rest is spread evenly over the vocabulary but the padding token, which the model cannot
    generate (section 5.4 of Vaswani et al.; Szegedy et al. 2016). logits (B, T, V), labels (B, T);
    padded labels count nothing. Returns a scalar.
    """
    real = (labels != PAD_ID).flatten().nonzero().squeeze(1)  # (tokens,)
    # index_select, for the gradient of a mask is written value by value on one thread.
    log_probabilities = logits.flatten(0, 1).index_select(0, real).log_softmax(-1)  # (tokens, V)
    chosen = log_probabilities.gather(-1, labels.flatten()[real, None]).sum()
    if smoothing == 0.0:
        return -chosen
    everywhere = log_probabilities.sum() - log_probabilities[:, PAD_ID].sum()
    return -(1 - smoothing) * chosen - smoothing * everywhere / (logits.shape[-1] - 1)
