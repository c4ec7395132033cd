"""What a verification found: a list of checks, each measured against a stated bound."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from export.quantization import Floats


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far ONNX Runtime may be from PyTorch.

    float32 differs by rounding alone. int8 is another function: its error is the root mean square
    of the logits' differences over their standard deviation, for all tokens or labels and for the
    worst one; its agreement is the share of choices that are the same, by teacher forcing.
    """

    fp32_error: float = 1e-4
    int8_relative_error: float = 0.1
    int8_worst_column: float = 0.4
    int8_agreement: float = 0.95


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report."""

    precision: str
    name: str
    measured: str
    bound: str
    passed: bool

    @classmethod
    def at_most(cls, precision: str, name: str, measured: float, bound: float) -> "Check":
        """A number that must not exceed its bound; not-a-number fails."""
        return cls(precision, name, f"{measured:.2e}", f"<= {bound:g}", measured <= bound)

    @classmethod
    def at_least(cls, precision: str, name: str, measured: float, bound: float) -> "Check":
        """A share that must reach its bound."""
        return cls(precision, name, f"{measured:.2%}", f">= {bound:.2%}", measured >= bound)

    @classmethod
    def all_of(cls, precision: str, name: str, outcomes: list[bool]) -> "Check":
        """Something that must hold every time."""
        good = sum(outcomes)
        return cls(precision, name, f"{good} of {len(outcomes)}", "all", good == len(outcomes))


def compare_int8(
    precision: str, expected: Floats, found: Floats, bounds: Bounds
) -> Iterator[Check]:
    """Checks of logits (N, C) that a lossy precision computed, beside those expected."""
    columns = np.sqrt(((found - expected) ** 2).mean(axis=0)) / expected.std()  # (C,)
    error, worst = float(np.sqrt((columns**2).mean())), float(columns.max())
    agreement = float((expected.argmax(-1) == found.argmax(-1)).mean())
    yield Check.at_most(precision, "logits, relative error", error, bounds.int8_relative_error)
    yield Check.at_most(precision, "logits, worst column", worst, bounds.int8_worst_column)
    yield Check.at_least(precision, "same choice", agreement, bounds.int8_agreement)


@dataclass(frozen=True, slots=True)
class Report:
    """All checks of one bundle."""

    bundle: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed; a report without checks shows nothing."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def exit_status(self) -> int:
        """0 or 1, for a shell."""
        return 0 if self.passed else 1

    @property
    def figures(self) -> dict[str, str]:
        """Measured values by precision and check, for a bundle's provenance."""
        return {f"{check.precision} {check.name}": check.measured for check in self.checks}

    def table(self) -> str:
        """The checks in aligned columns, the verdict last."""
        rows = [("precision", "check", "measured", "bound", "")]
        rows += [
            (c.precision, c.name, c.measured, c.bound, "ok" if c.passed else "FAILED")
            for c in self.checks
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        verdict = "verified" if self.passed else "NOT verified"
        return "\n".join([*lines, f"{self.bundle}: {verdict}"])
