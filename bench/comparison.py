"""One line of the table: ours beside a peer's, their ratio, and what was aimed at."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from bench.statistics import Ratio


@dataclass(frozen=True, slots=True)
class Figure:
    """What one round of one contender came to, in the unit of its comparison.

    The processor's time for the same tells who does less even where others use the machine too.
    """

    value: float
    cpu_seconds: float | None = None  # a sentence, call or picture


@dataclass(frozen=True, slots=True)
class Target:
    """The ratio to reach, and the one to aim at; an aim below it says that less is better."""

    at_least: float
    aim: float

    def verdict(self, ratio: float) -> str:
        """aim, met or missed."""
        sign = 1 if self.aim >= self.at_least else -1
        if sign * ratio >= sign * self.aim:
            return "aim"
        return "met" if sign * ratio >= sign * self.at_least else "missed"

    def __str__(self) -> str:
        return f"{self.at_least:g} / {self.aim:g}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Figures of both by round; which is divided by which is the comparison's."""

    section: str
    case: str
    unit: str
    ours: Sequence[Figure]
    peer: str
    theirs: Sequence[Figure]
    target: Target | None = None
    divide: Literal["ours by theirs", "theirs by ours"] = "ours by theirs"

    @property
    def ratio(self) -> Ratio:
        """Of the medians."""
        ours, theirs = ([figure.value for figure in side] for side in (self.ours, self.theirs))
        return Ratio.of(ours, theirs) if self.divide == "ours by theirs" else Ratio.of(theirs, ours)

    @property
    def cpu_ratio(self) -> float | None:
        """How much more processor time the peer takes for the same, by medians."""
        ours, theirs = (_median_cpu_seconds(side) for side in (self.ours, self.theirs))
        return None if ours is None or theirs is None else theirs / ours

    @property
    def verdict(self) -> str:
        """Empty where nothing was aimed at."""
        return "" if self.target is None else self.target.verdict(self.ratio.value)

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        found = {"ratio": asdict(self.ratio), "cpu_ratio": self.cpu_ratio, "verdict": self.verdict}
        return asdict(self) | found


@dataclass(frozen=True, slots=True)
class Findings:
    """What a section found: lines of the table, and what else a reader has to know."""

    comparisons: list[Comparison] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)  # for the record alone

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        comparisons = [comparison.record() for comparison in self.comparisons]
        return {"comparisons": comparisons, "notes": self.notes} | self.figures

    def text(self) -> str:
        """As Markdown."""
        table = [comparison_table(self.comparisons)] if self.comparisons else []
        return "\n\n".join([*table, *self.notes])


def comparison_table(comparisons: Sequence[Comparison]) -> str:
    """As Markdown."""
    head = (
        "| section | case | unit | ours | peer | theirs | ratio (of single rounds) | CPU time "
        "| at least / aim | |\n"
        "| --- | --- | --- | --: | --- | --: | --: | --: | --: | --- |\n"
    )
    return head + "\n".join(map(_row, comparisons))


def _row(line: Comparison) -> str:
    ours, theirs = (
        _number(statistics.median(figure.value for figure in side))
        for side in (line.ours, line.theirs)
    )
    cpu_ratio = "" if line.cpu_ratio is None else f"{line.cpu_ratio:.2f}"
    target = "" if line.target is None else str(line.target)
    cells: Iterable[str] = (
        *(line.section, line.case, line.unit, ours, line.peer, theirs),
        *(str(line.ratio), cpu_ratio, target, line.verdict),
    )
    return "| " + " | ".join(cells) + " |"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _median_cpu_seconds(figures: Sequence[Figure]) -> float | None:
    seconds = [figure.cpu_seconds for figure in figures if figure.cpu_seconds is not None]
    return statistics.median(seconds) if seconds else None
