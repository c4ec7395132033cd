"""A few steps before the first caller: pages are touched, buffers grown, and errors found."""

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

    def extend(self, token_ids: list[int]) -> None:
        """Ignore it."""


def warm_up(runner: StepRunner, card: TranslationCard) -> None:
    """Encode and decode the shortest and the longest source that the model takes, and a batch."""
    longest = card.limits.max_source_tokens
    together = min(NUM_TOGETHER, runner.table.capacity)
    for count, length in ((1, 1), (1, longest), (together, min(longest, 16))):
        _decode(runner, card, [_sequence(card, length) for _ in range(count)])


def _sequence(card: TranslationCard, length: int) -> Sequence:
    return Sequence(
        source_ids=np.full(length, card.tokens.eos, np.int64),
        options=DecodingOptions(max_target_tokens=card.limits.max_target_tokens),
        receiver=_Nobody(),
    )


def _decode(runner: StepRunner, card: TranslationCard, sequences: list[Sequence]) -> None:
    start = card.tokens.decoder_start_into(card.first_direction.target)
    for sequence in sequences:
        runner.table.allocate(sequence, start)
    runner.admit(sequences)
    for _ in range(min(NUM_STEPS, card.limits.max_target_tokens)):
        runner.step()
        for sequence in sequences:
            runner.table.lengths[sequence.rows] += 1
    runner.table.release(sequences)
    runner.table.close_gaps(runner)
