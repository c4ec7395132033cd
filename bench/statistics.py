"""Rounds that take turns, and what they say: medians, ratios of medians, and their spread."""

import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

Name = TypeVar("Name", bound=str)
Outcome = TypeVar("Outcome")


async def alternate(
    measures: Mapping[Name, Callable[[], Awaitable[Outcome]]], num_rounds: int
) -> dict[Name, list[Outcome]]:
    """Let everyone have a turn a round: A B, A B, ... The first round warms up and is left out."""
    outcomes: dict[Name, list[Outcome]] = {name: [] for name in measures}
    for number in range(num_rounds + 1):
        for name, measure in measures.items():
            outcome = await measure()
            if number:
                outcomes[name].append(outcome)
    return outcomes


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio of medians, and the least and the greatest ratio of one round."""

    value: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float], others: Sequence[float]) -> "Ratio":
        """values over others; both by round, in order."""
        by_round = [one / other for one, other in zip(values, others, strict=True)]
        value = statistics.median(values) / statistics.median(others)
        return cls(value, min(by_round), max(by_round))

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.lowest:.2f} to {self.highest:.2f})"


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values stay under."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
