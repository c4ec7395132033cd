"""What sequences will take, learned from those that have finished.

Work is counted in row-steps: one row in one decode step.
"""

from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf

from service.admission import Demand
from service.translation.options import DecodingOptions
from service.translation.preparation import PreparedText
from service.translation.sequence import Sequence

WEIGHT = 0.02  # of the newest sequence in the moving averages

MANY_TIMES = 3  # as long as the usual sequence: a longer text is rather several; as many steps


class Expectation:
    """Moving averages over the last fifty or so sequences of a model."""

    def __init__(self, step_seconds: float = 0.0) -> None:
        """`step_seconds` is a first guess: of one decode step."""
        self._steps_a_token = 1.2  # of the source; guesses until the first are known
        self._tokens_a_character = 0.3
        self._tokens_a_sequence = 20.0
        self._step_seconds = self._fastest_step_seconds = step_seconds

    def steps(self, num_source_tokens: float, options: DecodingOptions) -> float:
        """How many steps a sequence will run."""
        expected = max(self._steps_a_token * num_source_tokens, options.min_target_tokens, 1.0)
        return min(expected, options.max_target_tokens)

    def demand(self, sequences: SequenceOf[Sequence], options: DecodingOptions) -> Demand:
        """What a call asks for; each of its sequences knows its `work` from here on."""
        longest = 0.0
        for sequence in sequences:
            steps = self.steps(len(sequence.source_ids), options)
            sequence.work = steps * sequence.beam_size
            longest = max(longest, steps)
        return Demand(
            num_units=len(sequences),
            work=sum(sequence.work for sequence in sequences),
            seconds=longest * self._step_seconds,
            seconds_alone=longest * self._fastest_step_seconds,
        )

    def demand_of_texts(
        self, contents: SequenceOf[str], options: DecodingOptions, num_sequences: int
    ) -> Demand:
        """About the same, before the texts are prepared: by their characters alone."""
        tokens = [self._tokens_a_character * len(text) for text in contents]
        steps = sum(self.steps(number, options) for number in tokens)
        longest = self.steps(
            min(max(tokens, default=0.0), MANY_TIMES * self._tokens_a_sequence), options
        )
        return Demand(
            num_units=num_sequences,
            work=steps * options.beam_size,
            seconds=longest * self._step_seconds,
            seconds_alone=longest * self._fastest_step_seconds,
        )

    def prepared(self, texts: Iterable[PreparedText]) -> None:
        """This is what texts were made into."""
        for text in texts:
            num_characters = sum(map(len, text.segments.pieces))
            if num_characters:
                ratio = sum(map(len, text.source_ids)) / num_characters
                self._tokens_a_character += WEIGHT * (ratio - self._tokens_a_character)

    def forget(self, kept: float) -> None:
        """Keep this share of what steps take longer than they do alone."""
        slower = self._step_seconds - self._fastest_step_seconds
        self._step_seconds = self._fastest_step_seconds + slower * kept

    def finished(self, sequence: Sequence) -> None:
        """A sequence has run to its end."""
        num_tokens = len(sequence.source_ids)
        self._tokens_a_sequence += WEIGHT * (num_tokens - self._tokens_a_sequence)
        forced = sequence.options.min_target_tokens
        if not forced or sequence.num_steps > forced + 1:  # else it says nothing of others
            ratio = min(sequence.num_steps / num_tokens, MANY_TIMES * self._steps_a_token)
            self._steps_a_token += WEIGHT * (ratio - self._steps_a_token)
        seconds = (sequence.finished_at - sequence.admitted_at) / sequence.num_steps
        self._step_seconds += WEIGHT * (seconds - self._step_seconds)
        self._fastest_step_seconds = min(self._fastest_step_seconds, seconds)
