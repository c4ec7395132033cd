"""Whether float16 on the device gives the answers of float32, by Hugging Face's `generate`.

A trained model has to, nearly always; where it does not, by nearly the same score. A search that
has taken the other of two tokens about as likely ends in a sentence that may be better or worse by
any amount. So beams are judged by the mean of the answers that differ, greedy search by the first
token that differs; the worst of all answers is said too. Random weights are seldom sure of a token,
and rounding alone changes some: ours has to agree as often as Hugging Face's float16 does.
"""

from dataclasses import dataclass
from statistics import mean
from typing import Protocol

AT_LEAST = {1: 0.98, 4: 0.95}  # of the sentences, by beam size
MAX_SCORE_LOSS = 0.02
CHANCE = 0.05  # of the shares of two kinds of rounding

Answers = list[list[int]]


@dataclass(frozen=True, slots=True)
class Share:
    """How far some answers are the exact ones."""

    num_same: int
    mean_loss: float = 0.0  # as the next one; negative where ours are better
    worst_loss: float = 0.0  # of an answer's score by float32, among those that differ
    worst_slip: float = 0.0  # the same of the first token that differs


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of one model and beam size."""

    model: str
    beam_size: int
    num_sentences: int
    ours: Share
    peer: Share  # Hugging Face's float16
    is_trained: bool

    @property
    def share(self) -> float:
        """Of the sentences whose ids are the same."""
        return self.ours.num_same / self.num_sentences

    @property
    def peer_share(self) -> float:
        """The same of Hugging Face's."""
        return self.peer.num_same / self.num_sentences

    @property
    def least_share(self) -> float:
        """What it has to be."""
        least = AT_LEAST[self.beam_size]
        return least if self.is_trained else min(least, self.peer_share - CHANCE)

    @property
    def judged_loss(self) -> float:
        """How much worse answers are, or a token is at most."""
        return self.ours.worst_slip if self.beam_size == 1 else self.ours.mean_loss

    @property
    def most_loss(self) -> float:
        """How much worse it may be."""
        return MAX_SCORE_LOSS if self.is_trained else float("inf")

    @property
    def passed(self) -> bool:
        """Whether it is as good as it has to be."""
        return self.share >= self.least_share and self.judged_loss <= self.most_loss


class Scorer(Protocol):
    """The model in float32."""

    def token_scores(self, sources: Answers, targets: Answers) -> list[list[float]]:
        """The log-probability of each token of each target."""


def share_of(found: Answers, expected: Answers, sources: Answers, exact: Scorer) -> Share:
    """Compare answers; score those that differ."""
    different = [index for index in range(len(sources)) if found[index] != expected[index]]
    if not different:
        return Share(len(sources))
    chosen = [sources[index] for index in different]
    own = exact.token_scores(chosen, [found[index] for index in different])
    best = exact.token_scores(chosen, [expected[index] for index in different])
    losses, slips = [], [0.0]
    for index, one, other in zip(different, own, best, strict=True):
        losses.append(mean(other) - mean(one))
        place = _first_difference(found[index], expected[index])
        slips.append(other[place] - one[place])
    num_same = len(sources) - len(different)
    return Share(num_same, mean(losses), max(0.0, *losses), max(slips))


def _first_difference(one: list[int], other: list[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)) - 1)
