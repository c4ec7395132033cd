"""A few steps before the first caller: buffers grow, errors are found, and how fast steps are."""

import time
from dataclasses import dataclass

import numpy as np

from service.bundle import TranslationCard
from service.translation.options import DecodingOptions
from service.translation.sequence import Sequence
from service.translation.worker import StepRunner

NUM_STEPS = 3
NUM_TOGETHER = 32


class _Nobody:
    """Waits for nothing."""

    def finish(self, sequence: Sequence) -> None:
        """Ignore it."""

    def extend(self, sequence: Sequence, token_ids: list[int]) -> None:
        """Ignore it."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Of one decode step, as first seen."""

    num_rows: int
    seconds: float


def warm_up(runner: StepRunner, card: TranslationCard) -> Speed:
    """Encode and decode the shortest and the longest source that the model takes, and a batch.

    Returns how fast the batch's steps are.
    """
    longest = card.limits.max_source_tokens
    together = min(NUM_TOGETHER, runner.table.capacity)
    for count, length in ((1, 1), (1, longest), (together, min(longest, 16))):
        seconds = _decode(runner, card, [_sequence(card, length) for _ in range(count)])
    return Speed(together, seconds)


def _sequence(card: TranslationCard, length: int) -> Sequence:
    return Sequence(
        source_ids=np.full(length, card.tokens.eos, np.int64),
        options=DecodingOptions(max_target_tokens=card.limits.max_target_tokens),
        receiver=_Nobody(),
    )


def _decode(runner: StepRunner, card: TranslationCard, sequences: list[Sequence]) -> float:
    """Returns the seconds of the fastest step."""
    start = card.tokens.decoder_start_into(card.first_direction.target)
    for sequence in sequences:
        runner.table.allocate(sequence, start)
    runner.admit(sequences)
    seconds = []
    for _ in range(min(NUM_STEPS, card.limits.max_target_tokens)):
        begun = time.perf_counter()
        runner.step()
        seconds.append(time.perf_counter() - begun)
        for sequence in sequences:
            runner.table.lengths[sequence.rows] += 1
    runner.table.release(sequences)
    runner.table.close_gaps(runner)
    return min(seconds)
