"""Findings as a table, one column a precision, with a verdict below."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from textwrap import wrap

_SHOWN_FAILURES = 3
_WIDTH = 96


class Verdict(Enum):
    """From best to worst."""

    PASSED = "PASSED"
    NOTED = "PASSED with notes"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Finding:
    """One cell of the table, and what is to be said about it."""

    row: str
    precision: str
    cell: str
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class ModelReport:
    """All that was found about one model."""

    title: str
    remarks: list[str] = field(default_factory=list)  # shown above the table, part of no verdict
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        """FAILED if anything failed."""
        if self.failures or any(finding.failures for finding in self.findings):
            return Verdict.FAILED
        noted = self.notes or any(finding.notes for finding in self.findings)
        return Verdict.NOTED if noted else Verdict.PASSED

    def text(self) -> str:
        """Title, table, what failed, notes, verdict."""
        lines = [self.title, *(f"  {remark}" for remark in self.remarks), ""]
        if self.findings:
            lines += [*_table(self.findings), ""]
        for finding in self.findings:
            place = f"{finding.precision}, {finding.row}"
            lines += [_marked("FAILED", f"{place}: {one}") for one in _first(finding.failures)]
        lines += [_marked("FAILED", one) for one in self.failures]
        notes = [note for finding in self.findings for note in finding.notes] + self.notes
        lines += [_marked("note", note) for note in dict.fromkeys(notes)]
        return "\n".join([*lines, f"  {self.verdict.value}", ""])


def _table(findings: Sequence[Finding]) -> list[str]:
    precisions = list(dict.fromkeys(finding.precision for finding in findings))
    rows = [["", *precisions]]
    for name in dict.fromkeys(finding.row for finding in findings):
        cells = {f.precision: _cell(f) for f in findings if f.row == name}
        if any(cells.values()):
            rows.append([name, *(cells.get(precision, "") for precision in precisions)])
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    return [
        "   ".join([f"  {name:<{first}}", *map(str.rjust, cells, others)]).rstrip()
        for name, *cells in rows
    ]


def _cell(finding: Finding) -> str:
    return f"FAILED {finding.cell}" if finding.failures else finding.cell


def _first(failures: Sequence[str]) -> list[str]:
    more = len(failures) - _SHOWN_FAILURES
    return [*failures[:_SHOWN_FAILURES], *([f"and {more} more"] if more > 0 else [])]


def _marked(mark: str, text: str) -> str:
    """The mark and the text, folded, the later lines further in."""
    lines: list[str] = []
    for part in text.splitlines():
        lines += wrap(part, _WIDTH - len(mark), break_long_words=False, break_on_hyphens=False)
    return f"  {mark}  " + f"\n{' ' * (len(mark) + 4)}".join(lines)
