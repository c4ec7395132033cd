"""The state of one sentence on its way through the decoder: one object, from arrival to result."""

from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from service.errors import AttendantError
from service.translation.options import DecodingOptions, FinishReason
from service.translation.processors import TokenRules
from service.waiting import ANYWHERE, Place

# Whether its caller left, or its time was over.
CancelReason = Literal["cancelled", "deadline"]


class Receiver(Protocol):
    """Who waits for a sequence; called on the event loop."""

    def finish(self, sequence: "Sequence") -> None:
        """The sequence has its hypotheses, or an error."""

    def extend(self, sequence: "Sequence", token_ids: list[int]) -> None:
        """These target tokens of it can no longer change (streams only).

        Sets `quiet_until`.
        """


@dataclass(frozen=True, slots=True, order=True)
class ScoredTokens:
    """A finished hypothesis: its score, and its target tokens, the end token (if any) last."""

    score: float
    token_ids: list[int] = field(compare=False)
    finish_reason: FinishReason = field(compare=False)


@dataclass(slots=True, eq=False)
class Sequence:
    """One sentence. Numbers that every step touches live in `RowTable`, by row."""

    source_ids: NDArray[np.int64]  # (S,), as the model's template has them
    options: DecodingOptions
    receiver: Receiver
    rules: TokenRules | None = None  # of its target language; None: its worker's
    streamed: bool = False
    arrived_at: float = 0.0  # time.monotonic()
    place: Place = ANYWHERE  # in the queue, with its call
    work: float = 1.0  # row-steps expected

    rows: list[int] = field(default_factory=list)  # of the table; as many as beams
    finished: list[ScoredTokens] = field(default_factory=list)  # best first, at most beam_size
    is_done: bool = False
    error: AttendantError | None = None
    # Set by the event loop, read by the worker between two steps.
    is_cancelled: bool = False
    cancel_reason: CancelReason = "cancelled"
    # time.monotonic(): its receiver is told of no further tokens before (streams only). Endless
    # from when it is told of some until it has heard of them, and says when it wants the next.
    quiet_until: float = 0.0

    admitted_at: float = 0.0
    batch_rows: int = 0  # the most that have run with it, its own among them
    encode_seconds: float = 0.0
    first_token_at: float = 0.0
    finished_at: float = 0.0
    num_steps: int = 0  # that it has run, once it is done
    num_streamed: int = 0  # target tokens the receiver has been told of

    @property
    def has_ended(self) -> bool:
        """Whether it needs no further step."""
        return self.is_done or self.is_cancelled or self.error is not None

    @property
    def beam_size(self) -> int:
        """How many rows it decodes in."""
        return self.options.beam_size

    def restart(self) -> None:
        """Forget all that was decoded; what a stream has been told stays true."""
        self.finished = []
        self.is_done = False
        self.quiet_until = 0.0

    def add_finished(self, hypothesis: ScoredTokens) -> None:
        """Keep the hypothesis if it is among the best beam_size; of equals the earlier wins."""
        place = len(self.finished)
        while place and self.finished[place - 1].score < hypothesis.score:
            place -= 1
        self.finished.insert(place, hypothesis)
        del self.finished[self.beam_size :]
