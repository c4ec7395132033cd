"""Hugging Face's searches (transformers 5, `generation/utils.py`), written down plainly.

One hypothesis is a tuple of tokens. Nothing is batched, nothing is fast, and nothing is shared with
the searches under test.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.translation.options import DecodingOptions, EarlyStopping
from service.translation.processors import TokenRules
from tests.translation.fakes import Script

Tokens = tuple[int, ...]
Scores = NDArray[np.float64]


class Found(NamedTuple):
    """A finished hypothesis."""

    score: float
    tokens: Tokens


@dataclass(frozen=True)
class Reference:
    """A scripted model under one request's options."""

    script: Script
    source: Tokens
    options: DecodingOptions
    rules: TokenRules

    def greedy(self) -> Found:
        """The arg-max of processed logits at every step."""
        tokens: Tokens = ()
        total = 0.0
        while len(tokens) < self.options.max_target_tokens:
            logits = self._processed(self._logits(tokens), tokens)
            if np.isneginf(logits).all():
                return self._found(total, tokens)
            token = int(logits.argmax())
            total += float(log_softmax(logits)[token])
            tokens += (token,)
            if token == self.rules.eos:
                break
        return self._found(total, tokens)

    def beams(self) -> list[Found]:
        """The finished hypotheses, best first."""
        width = self.options.beam_size
        running = [Found(0.0, ())]  # sums of log-probabilities, not yet normalised
        finished: list[Found] = []
        for length in range(1, self.options.max_target_tokens + 1):
            candidates = sorted(self._continuations(running), key=lambda one: -one.score)
            candidates = [one for one in candidates[: 2 * width] if one.score > -math.inf]
            is_last = length == self.options.max_target_tokens
            ended = [is_last or one.tokens[-1] == self.rules.eos for one in candidates]
            finished += [
                self._found(one.score, one.tokens)
                for one, has_ended in zip(candidates[:width], ended[:width], strict=True)
                if has_ended
            ]
            finished = sorted(finished, key=lambda one: -one.score)[:width]
            going_on = [one for one, end in zip(candidates, ended, strict=True) if not end]
            if not going_on and not finished:
                return [self._found(*running[0])]
            running = going_on[:width]
            if not running or self._may_stop(running[0].score, finished, length):
                break
        return finished

    def everything(self) -> list[Found]:
        """Every target that there is, best first."""
        open_targets, finished = [Found(0.0, ())], []
        while open_targets:
            longer = [
                one
                for target in open_targets
                for one in self._continuations([target])
                if one.score > -math.inf
            ]
            is_last = len(longer[0].tokens) == self.options.max_target_tokens
            ended = [one for one in longer if is_last or one.tokens[-1] == self.rules.eos]
            finished += [self._found(*one) for one in ended]
            open_targets = [] if is_last else [one for one in longer if one not in ended]
        return sorted(finished, key=lambda one: -one.score)

    def _continuations(self, running: list[Found]) -> list[Found]:
        return [
            Found(score + float(values[token]), (*tokens, token))
            for score, tokens in running
            for values in [self._log_probabilities(tokens)]
            for token in range(len(values))
        ]

    def _log_probabilities(self, tokens: Tokens) -> Scores:
        values = self._processed(log_softmax(self._logits(tokens)), tokens)
        if self.rules.renormalize and not np.isneginf(values).all():
            return log_softmax(values)
        return values

    def _logits(self, tokens: Tokens) -> Scores:
        history = (self.rules.decoder_start, *tokens)
        return self.script(self.source, history).astype(np.float64)

    def _processed(self, values: Scores, tokens: Tokens) -> Scores:
        """RepetitionPenalty, NoRepeatNGram, MinNewTokens, ForcedBOS, ForcedEOS, SuppressTokens."""
        values = values.copy()
        history = (self.rules.decoder_start, *tokens)
        length = len(tokens) + 1
        for token in set(history):
            penalty = self.options.repetition_penalty
            values[token] = (
                values[token] * penalty if values[token] < 0 else values[token] / penalty
            )
        size = self.options.no_repeat_ngram_size
        for start in range(len(history) - size + 1) if size else ():
            ngram = history[start : start + size]
            if ngram[:-1] == history[len(history) - size + 1 :]:
                values[ngram[-1]] = -np.inf
        if length <= self.options.min_target_tokens:
            values[self.rules.eos] = -np.inf
        if length == 1 and self.rules.forced_bos is not None:
            values = forced(values, self.rules.forced_bos)
        if length == self.options.max_target_tokens and self.rules.forced_eos is not None:
            values = forced(values, self.rules.forced_eos)
        values[list(self.rules.suppressed)] = -np.inf
        return values

    def _found(self, total: float, tokens: Tokens) -> Found:
        return Found(self._normalised(total, max(len(tokens), 1)), tokens)

    def _normalised(self, total: float, length: int) -> float:
        return total / length**self.options.length_penalty

    def _may_stop(self, best_running: float, finished: list[Found], length: int) -> bool:
        if len(finished) < self.options.beam_size:
            return False
        if self.options.early_stopping is EarlyStopping.ALL_FINISHED:
            return True
        if self.options.early_stopping is EarlyStopping.NEVER and self.options.length_penalty > 0:
            length = self.options.max_target_tokens
        return self._normalised(best_running, length) <= finished[-1].score


def log_softmax(values: Scores) -> Scores:
    shifted = values - values.max()
    result: Scores = shifted - np.log(np.exp(shifted).sum())
    return result


def forced(values: Scores, token: int) -> Scores:
    only = np.full_like(values, -np.inf)
    only[token] = 0.0
    return only
