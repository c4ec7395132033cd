"""One call on its way through the engine: the sequences it waits for, and what it tells its caller.

Lives on the event loop.
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterable
from collections.abc import Sequence as SequenceOf

import numpy as np

from service.admission import DEADLINE_MARGIN_SECONDS, Admitted
from service.errors import AttendantError, DeadlineUnreachable
from service.translation.options import DecodingOptions, FinishReason
from service.translation.preparation import PreparedText
from service.translation.processors import TokenRules
from service.translation.results import (
    Hypothesis,
    StreamEvent,
    TextDelta,
    TextFinished,
    Timing,
    TranslationResult,
)
from service.translation.sequence import CancelReason, Sequence
from service.translation.tokenizer import Tokenizer

Emit = Callable[[StreamEvent], None]


class Call:
    """The texts of one call, each with its result once it is finished."""

    def __init__(
        self,
        prepared: SequenceOf[PreparedText | AttendantError],
        options: DecodingOptions,
        tokenizer: Tokenizer,
        *,
        rules: TokenRules | None = None,
        arrived_at: float,
        emit: Emit | None = None,
        stream_interval: float,
    ) -> None:
        self.arrived_at = arrived_at  # time.monotonic()
        self.stream_interval = stream_interval  # seconds between two parts of a sentence
        self.submitted_at = time.monotonic()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.results = [TranslationResult()] * len(prepared)
        self.sequences: list[Sequence] = []
        self.admitted: Admitted | None = None  # None: there is nothing to decode
        self.deadline_at = math.inf  # time.monotonic()
        self._prepared = prepared
        self._options = options
        self._rules = rules
        self._tokenizer = tokenizer
        self._emit = emit
        self._num_open = len(prepared)
        self._texts = [
            None if isinstance(one, AttendantError) else self._text(index, one, arrived_at)
            for index, one in enumerate(prepared)
        ]

    def take_place(self, admitted: Admitted) -> None:
        """It was let in: this is where its sequences wait."""
        self.admitted = admitted
        for sequence in self.sequences:
            sequence.place = admitted.place

    def begin(self) -> None:
        """Finish what has nothing to decode: texts with an error, and texts without tokens."""
        for index, (text, prepared) in enumerate(zip(self._texts, self._prepared, strict=True)):
            if isinstance(prepared, AttendantError):
                self.finish_text(index, TranslationResult(error=prepared))
            elif text is not None:
                text.advance()
        if not self._texts:
            self.done.set_result(None)

    @property
    def has_failed(self) -> bool:
        """Whether all of it has ended with an error."""
        return self._has_ended and self.done.exception() is not None

    @property
    def is_answered(self) -> bool:
        """Whether each text has its result."""
        return self._has_ended and self.done.exception() is None

    @property
    def _has_ended(self) -> bool:
        return self.done.done() and not self.done.cancelled()

    @property
    def is_waiting(self) -> bool:
        """Whether some of it has not begun to be decoded."""
        return not all(sequence.admitted_at for sequence in self.sequences)

    def fail(self, error: AttendantError) -> None:
        """All of it ends with this error."""
        if not self.done.done():
            self.done.set_exception(error)

    def cancel_reason(self) -> CancelReason:
        """Why nobody waits for it any more, as it is found out just now."""
        given_up = self.has_failed and isinstance(self.done.exception(), DeadlineUnreachable)
        is_late = time.monotonic() > self.deadline_at - DEADLINE_MARGIN_SECONDS
        return "deadline" if given_up or is_late else "cancelled"

    def finish_text(self, index: int, result: TranslationResult) -> None:
        """A text has its result; with the last one the call is done."""
        self.results[index] = result
        self._num_open -= 1
        if self._emit is not None:
            self._emit(TextFinished(index, result))
        if self._num_open == 0 and not self.done.done():
            self.done.set_result(None)

    @property
    def is_streamed(self) -> bool:
        """Whether the caller listens."""
        return self._emit is not None

    def send(self, index: int, text: str) -> None:
        """Tell the caller, if it listens, of further words of a text."""
        if self._emit is not None and text:
            self._emit(TextDelta(index, text))

    @property
    def num_target_tokens(self) -> int:
        """Of all hypotheses that it has."""
        return sum(one.num_target_tokens for result in self.results for one in result.hypotheses)

    def timing(self, preprocess_seconds: float, total_seconds: float) -> Timing:
        """Where the call's time went."""
        decoded = [sequence for sequence in self.sequences if sequence.finished_at]
        return Timing(
            queue_seconds=_longest(one.admitted_at - one.arrived_at for one in decoded),
            preprocess_seconds=preprocess_seconds,
            encode_seconds=_longest(one.encode_seconds for one in decoded),
            decode_seconds=_longest(
                one.finished_at - one.admitted_at - one.encode_seconds for one in decoded
            ),
            total_seconds=total_seconds,
        )

    def _text(self, index: int, prepared: PreparedText, arrived_at: float) -> "TextProgress":
        text = TextProgress(self, index, prepared, self._options, self._tokenizer)
        for piece, source_ids in enumerate(prepared.source_ids):
            if source_ids:
                text.sequences.append(
                    Sequence(
                        source_ids=np.array(source_ids, np.int64),
                        options=self._options,
                        receiver=PieceReceiver(text, piece),
                        rules=self._rules,
                        streamed=self.is_streamed,
                        arrived_at=arrived_at,
                    )
                )
        self.sequences += text.sequences
        return text


class TextProgress:
    """One text: which pieces are finished, and how much of it can no longer change."""

    def __init__(
        self,
        call: Call,
        index: int,
        prepared: PreparedText,
        options: DecodingOptions,
        tokenizer: Tokenizer,
    ) -> None:
        self._call = call
        self._index = index
        self._prepared = prepared
        self._options = options
        self._tokenizer = tokenizer
        self.sequences: list[Sequence] = []  # of the pieces that are decoded
        self._finished: dict[int, Sequence] = {}  # by piece
        self._best: dict[int, str] = {}  # by piece: its translation
        for piece, source_ids in enumerate(prepared.source_ids):
            if not source_ids:
                self._best[piece] = prepared.segments.pieces[piece]
        self._partial: dict[int, str] = {}  # by piece: the whole words that are stable
        self._extended: dict[int, Sequence] = {}  # by piece: of those that have begun
        self._num_settled = 0  # pieces at the front that are finished and sent
        self._num_sent = 0  # characters sent of the piece behind them
        self._is_finished = False

    def finish_piece(self, piece: int, sequence: Sequence) -> None:
        """A piece has its hypotheses, or an error."""
        if self._is_finished:
            return
        if sequence.error is not None:
            for other in self.sequences:
                other.is_cancelled = True  # nobody wants the other pieces any more
            self._end(TranslationResult(error=sequence.error))
            return
        self._finished[piece] = sequence
        self._best[piece] = self._tokenizer.decode(sequence.finished[0].token_ids)
        self.advance()

    def extend_piece(self, piece: int, sequence: Sequence, token_ids: list[int]) -> None:
        """These target tokens of a piece can no longer change.

        Once new words of it were sent, the next may wait a little. So may all of a piece that
        another holds back.
        """
        if self._is_finished:
            return
        text = self._tokenizer.decode(token_ids)
        words = text[: max(text.rfind(" "), 0)]  # the last word may go on
        may_wait = len(words) > len(self._partial.get(piece, "")) or piece != self._num_settled
        self._partial[piece] = words
        self._extended[piece] = sequence
        sequence.quiet_until = time.monotonic() + self._call.stream_interval if may_wait else 0.0
        self._send()

    def advance(self) -> None:
        """Send what can be sent, and end when every piece is finished."""
        self._send()
        if len(self._best) == len(self._prepared.segments.pieces):
            self._end(self._result())

    def _send(self) -> None:
        """Send text in order: the first unfinished piece holds back all behind it."""
        if not self._call.is_streamed:
            return
        segments = self._prepared.segments
        parts: list[str] = []
        while self._num_settled in self._best:
            parts.append(self._unsent(self._best[self._num_settled]))
            self._num_settled += 1
            self._num_sent = 0
            if (next_one := self._extended.get(self._num_settled)) is not None:
                next_one.quiet_until = 0.0  # nothing holds it back any more
        if self._num_settled in self._partial:
            unsent = self._unsent(self._partial[self._num_settled])
            self._num_sent += len(unsent)
            parts.append(unsent)
        if self._num_settled == len(segments.pieces) and not self._is_finished:
            parts.append(segments.gaps[-1])
        self._call.send(self._index, "".join(parts))

    def _unsent(self, piece_text: str) -> str:
        """What of this piece, and the gap before it, was not sent yet."""
        with_gap = self._prepared.segments.gaps[self._num_settled] + piece_text
        return with_gap[self._num_sent :]

    def _end(self, result: TranslationResult) -> None:
        self._is_finished = True
        self._call.finish_text(self._index, result)

    def _result(self) -> TranslationResult:
        return TranslationResult(
            hypotheses=self._hypotheses(),
            num_source_tokens=sum(map(len, self._prepared.source_ids)),
            num_sequences=self._prepared.num_sequences,
        )

    def _hypotheses(self) -> tuple[Hypothesis, ...]:
        """One joint hypothesis of several sequences; all that were asked for of a single one."""
        if len(self._finished) != 1:
            return (self._joint_hypothesis(),)
        ((piece, sequence),) = self._finished.items()
        found = sequence.finished[: self._options.num_hypotheses]
        others = [self._tokenizer.decode(one.token_ids) for one in found[1:]]
        return tuple(
            Hypothesis(
                text=self._join(self._best | {piece: text}),
                score=one.score if self._options.return_scores else None,
                num_target_tokens=len(one.token_ids),
                finish_reason=one.finish_reason,
            )
            for one, text in zip(found, (self._best[piece], *others), strict=True)
        )

    def _joint_hypothesis(self) -> Hypothesis:
        best = [self._finished[piece].finished[0] for piece in sorted(self._finished)]
        is_cut = any(one.finish_reason is FinishReason.LENGTH for one in best)
        return Hypothesis(
            text=self._join(self._best),
            score=sum((one.score for one in best), 0.0) if self._options.return_scores else None,
            num_target_tokens=sum(len(one.token_ids) for one in best),
            finish_reason=FinishReason.LENGTH if is_cut else FinishReason.EOS,
        )

    def _join(self, pieces: dict[int, str]) -> str:
        return self._prepared.segments.join([pieces[piece] for piece in range(len(pieces))])


class PieceReceiver:
    """Takes what a sequence has to say to its place in its text."""

    __slots__ = ("_piece", "_text")

    def __init__(self, text: TextProgress, piece: int) -> None:
        self._text = text
        self._piece = piece

    def finish(self, sequence: Sequence) -> None:
        """The sequence has its hypotheses, or an error."""
        self._text.finish_piece(self._piece, sequence)

    def extend(self, sequence: Sequence, token_ids: list[int]) -> None:
        """These target tokens of it can no longer change."""
        self._text.extend_piece(self._piece, sequence, token_ids)


def _longest(seconds: Iterable[float]) -> float:
    return max(seconds, default=0.0)
