"""What a trial is asked to do and what it says: lines of one table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

Amount = TypeVar("Amount", int, float)


@dataclass(frozen=True, slots=True)
class Size:
    """How much of a trial is run, and by which seed."""

    quick: bool = False
    soak_minutes: float = 60.0
    seed: int = 1

    def of(self, full: Amount, quick: Amount) -> Amount:
        """One of the two."""
        return quick if self.quick else full


@dataclass(frozen=True, slots=True)
class Line:
    """One promise and what became of it; where nothing was asked, only the figure counts."""

    what: str
    measured: str
    asked: str = ""
    ok: bool = True


def none_of(what: str, failures: Sequence[object], total: int) -> Line:
    """Nothing may fail, and something must have been tried."""
    measured = f"{len(failures):,} of {total:,}"
    if failures:
        measured += f", such as {failures[0]}"
    return Line(what, measured, "0", not failures and total > 0)


def at_most(what: str, value: float, limit: float, unit: str) -> Line:
    """A figure that must not be over a limit."""
    return Line(what, f"{value:,.4g} {unit}", f"at most {limit:g} {unit}", value <= limit)


def at_least(what: str, value: float, limit: float, unit: str) -> Line:
    """A figure that must not be under a limit."""
    return Line(what, f"{value:,.4g} {unit}", f"at least {limit:g} {unit}", value >= limit)


def table(trial: str, lines: Sequence[Line]) -> str:
    """The lines of a trial as rows of Markdown, without a head."""
    rows = ((trial, one.what, one.measured, one.asked, _verdict(one)) for one in lines)
    return "\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in rows)


def _verdict(line: Line) -> str:
    if not line.asked:
        return ""
    return "met" if line.ok else "FAILED"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
