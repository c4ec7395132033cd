"""Figures as pictures."""

from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path

from bench.service import Figures


def draw_service(figures: Sequence[Figures], path: Path) -> None:
    """Throughput and latency of translation over the number of callers, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4))
    translations = [line for line in figures if line.tokens_per_second]
    kinds = dict.fromkeys((line.name, line.units_a_call) for line in translations)
    for name, units_a_call in kinds:
        lines = [
            line for line in translations if (line.name, line.units_a_call) == (name, units_a_call)
        ]
        callers = [line.num_callers for line in lines]
        colour = "tab:blue" if "greedy" in name else "tab:orange"
        style = "-o" if units_a_call == 1 else "--s"
        label = f"{name.removeprefix('translate, ')}, {units_a_call} a call"
        throughput = [line.units_per_second for line in lines]
        median, worst = (
            [seconds(line) * 1e3 for line in lines]
            for seconds in (attrgetter("p50_seconds"), attrgetter("p99_seconds"))
        )
        left.plot(callers, throughput, style, c=colour, label=label)
        right.plot(callers, median, style, c=colour)
        right.plot(callers, worst, style, c=colour, alpha=0.3)
    left.set_ylabel("sentences per second")
    left.set_ylim(bottom=0)
    right.set_ylabel("milliseconds a call: p50, and p99 paler")
    right.set_yscale("log")
    for axis in (left, right):
        axis.set_xscale("log", base=2)
        axis.set_xticks([1, 8, 64], ["1", "8", "64"])
        axis.set_xlabel("callers")
        axis.grid(alpha=0.3)
    left.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
