"""What an evaluation found: a column of figures for each precision."""

import os
import platform
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Figures by precision and name; `methods` says how those were computed that have variants."""

    figures: dict[str, dict[str, float]]
    methods: dict[str, str] = field(default_factory=dict)

    def table(self) -> str:
        """Aligned columns, one a precision; the methods below."""
        names = dict.fromkeys(name for column in self.figures.values() for name in column)
        rows = [["", *self.figures]]
        rows += [[name, *(f"{c[name]:g}" for c in self.figures.values())] for name in names]
        first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
        lines = [
            "  ".join([name.ljust(first), *map(str.rjust, cells, others)]) for name, *cells in rows
        ]
        return "\n".join([*lines, *(f"{name}: {how}" for name, how in self.methods.items())])


def machine() -> str:
    """The processor, and how many of its cores this process may use."""
    cores = len(os.sched_getaffinity(0))
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return f"{cores} cores of {model}"
