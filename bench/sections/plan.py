"""How much of everything is measured, and with what."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.grid import Trial
from bench.models import MODELS, BenchModel
from bench.sentences import Sentences


@dataclass(frozen=True, slots=True)
class Plan:
    """One run of the benchmark."""

    sentences: Sentences
    num_rounds: int = 5
    num_units: int = 512  # sentences, calls or pictures a round
    num_tuning: int = 256  # sentences that settings are tried on
    precisions: Sequence[str] = ("int8",)
    models: Sequence[BenchModel] = MODELS
    callers: Sequence[int] = (1, 8, 64)  # of the section service
    num_requests: int = 10_000  # after which that section looks at memory again
    # What was found for the peer's server, by traffic: several sections want to know.
    server_trials: dict[str, list[Trial]] = field(default_factory=dict)

    def share(self, part: int) -> int:
        """A part of the units, for what takes so many times longer."""
        return max(1, self.num_units // part)
