"""What the translation engine counts and times, in the words of the engine.

Called from the decode workers and the event loop; the collectors are thread-safe.
"""

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from typing import Literal

from service.admission import reasons
from service.metrics import Metrics
from service.translation.rows import RowTable
from service.translation.sequence import CancelReason, Sequence


class TranslationMeasures:
    """The collectors of one model."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._waiting = metrics.requests_waiting.labels(model)
        self._sequences_running = metrics.sequences_running.labels(model)
        self._rows_running = metrics.rows_running.labels(model)
        self._queue_seconds = metrics.queue_seconds.labels(model)
        self._encode_seconds = metrics.encode_seconds.labels(model)
        self._step_seconds = metrics.decode_step_seconds.labels(model)
        self._step_rows = metrics.decode_step_rows.labels(model)
        self._first_token_seconds = metrics.time_to_first_token_seconds.labels(model)
        self._source_tokens = metrics.source_tokens.labels(model)
        self._target_tokens = metrics.target_tokens.labels(model)
        self._goodput_tokens = metrics.goodput_tokens.labels(model)
        self._padding_tokens = metrics.padding_tokens.labels(model)
        self._thread_deaths = metrics.decode_thread_deaths.labels(model)
        self._wasted = {
            reason: metrics.wasted_tokens.labels(model, reason)
            for reason in ("beam", "cancelled", "deadline", "device", "error", "memory")
        }
        self._ended = {
            reason: metrics.sequences_finished.labels(model, reason)
            for reason in ("eos", "length", "cancelled", "deadline", "error")
        }
        self._predicted_wait = metrics.predicted_wait_seconds.labels(model)
        self._deadlines = {
            True: metrics.deadlines.labels(model, "met"),
            False: metrics.deadlines.labels(model, "missed"),
        }
        self._rejected = {
            reason: metrics.requests_rejected.labels(model, reason) for reason in reasons()
        }

    def queued(self, count: int) -> None:
        """So many sequences wait more (or, if negative, fewer)."""
        self._waiting.inc(count)

    def left_the_queue(self, count: int, reason: CancelReason | Literal["error"]) -> None:
        """So many sequences ended before they joined."""
        self._ended[reason].inc(count)

    def rejected(self, reason: str) -> None:
        """A call was refused."""
        self._rejected[reason].inc()

    def show_wait(self, seconds: Callable[[], float]) -> None:
        """Whoever looks is told what this says then."""
        self._predicted_wait.set_function(seconds)

    def deadline_ended(self, is_met: bool) -> None:
        """A call that was let in was answered before its deadline, or not."""
        self._deadlines[is_met].inc()

    def answered_in_time(self, num_tokens: int) -> None:
        """A call was answered with so many target tokens, by its deadline if it had one."""
        self._goodput_tokens.inc(num_tokens)

    def joined(self, sequences: SequenceOf[Sequence]) -> None:
        """Sequences have left the queue for the running batch."""
        self._sequences_running.inc(len(sequences))
        self._rows_running.inc(sum(sequence.beam_size for sequence in sequences))
        for sequence in sequences:
            self._queue_seconds.observe(sequence.admitted_at - sequence.arrived_at)

    def encoded(self, sequences: SequenceOf[Sequence], seconds: float, padding: int) -> None:
        """Sequences were encoded together."""
        self._encode_seconds.observe(seconds)
        self._source_tokens.inc(sum(len(sequence.source_ids) for sequence in sequences))
        self._padding_tokens.inc(padding)

    def stepped(self, seconds: float, num_rows: int) -> None:
        """A decode step is done."""
        self._step_seconds.observe(seconds)
        self._step_rows.observe(num_rows)

    def finished(self, sequences: SequenceOf[Sequence], table: RowTable) -> None:
        """Sequences are about to leave with their hypotheses."""
        self._left(sequences)
        for sequence in sequences:
            returned = sequence.finished[: sequence.options.num_hypotheses]
            num_returned = sum(len(hypothesis.token_ids) for hypothesis in returned)
            num_decoded = int(table.lengths[sequence.rows].sum())
            self._target_tokens.inc(num_returned)
            self._wasted["beam"].inc(max(0, num_decoded - num_returned))
            self._ended[returned[0].finish_reason.value].inc()
            self._first_token_seconds.observe(sequence.first_token_at - sequence.arrived_at)

    def set_back(
        self, sequence: Sequence, table: RowTable, reason: Literal["device", "error", "memory"]
    ) -> None:
        """A sequence has to wait again, and its tokens to be decoded again."""
        self._left([sequence])
        self._waiting.inc()
        self._wasted[reason].inc(int(table.lengths[sequence.rows].sum()))

    def cancelled(self, sequences: SequenceOf[Sequence], table: RowTable) -> None:
        """Sequences are about to leave because nobody waits for them."""
        self._left(sequences)
        for sequence in sequences:
            self._lost(sequence, table, sequence.cancel_reason)

    def failed(self, sequences: SequenceOf[Sequence], table: RowTable) -> None:
        """Sequences are about to leave because of an error."""
        self._left(sequences)
        for sequence in sequences:
            self._lost(sequence, table, "error")

    def died(self, sequences: SequenceOf[Sequence], table: RowTable) -> None:
        """A decode thread has died, with the sequences that it ran."""
        self._thread_deaths.inc()
        self.failed(sequences, table)

    def _lost(self, sequence: Sequence, table: RowTable, reason: str) -> None:
        self._ended[reason].inc()
        self._wasted[reason].inc(int(table.lengths[sequence.rows].sum()))

    def _left(self, sequences: SequenceOf[Sequence]) -> None:
        self._sequences_running.dec(len(sequences))
        self._rows_running.dec(sum(sequence.beam_size for sequence in sequences))
