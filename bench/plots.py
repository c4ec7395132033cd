"""Figures as pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COLOURS = {"aim": "tab:green", "met": "tab:blue", "missed": "tab:red", "": "tab:grey"}


def draw_comparisons(lines: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Every recorded comparison as a bar, its rounds' spread, and what was aimed at, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(10, 1 + 0.3 * len(lines)))
    for place, line in enumerate(reversed(lines)):
        ratio = line["ratio"]
        spread = [[max(0.0, ratio["value"] - ratio["lowest"])]]
        spread.append([max(0.0, ratio["highest"] - ratio["value"])])
        axis.barh(place, ratio["value"], color=COLOURS[line["verdict"]], xerr=spread)
        if line["target"]:
            axis.plot(line["target"]["at_least"], place, "k|", markersize=12)
            axis.plot(line["target"]["aim"], place, "k*")
    names = [f"{line['section']}: {line['case']}, {line['unit']}" for line in reversed(lines)]
    axis.set_yticks(range(len(lines)), names, fontsize=7)
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set_xlabel("ratio to the peer; bar: to reach, star: aim")
    axis.grid(alpha=0.3, axis="x")
    figure.savefig(path, dpi=110, bbox_inches="tight")  # long names need room on the left
    pyplot.close(figure)


def draw_service(figures: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Throughput and latency of translation over the number of callers, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4))
    translations = [line for line in figures if line["tokens_per_second"]]
    kinds = dict.fromkeys((line["name"], line["units_a_call"]) for line in translations)
    for name, units_a_call in kinds:
        lines = [
            line
            for line in translations
            if (line["name"], line["units_a_call"]) == (name, units_a_call)
        ]
        callers = [line["num_callers"] for line in lines]
        colour = "tab:blue" if "greedy" in name else "tab:orange"
        style = "-o" if units_a_call == 1 else "--s"
        label = f"{name.removeprefix('translate, ')}, {units_a_call} a call"
        throughput = [line["units_per_second"] for line in lines]
        median, worst = (
            [line[seconds] * 1e3 for line in lines] for seconds in ("p50_seconds", "p99_seconds")
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


def draw_floor(steps: Sequence[Mapping[str, Any]], path: Path) -> None:
    """The time of a decode step over rows and over target tokens, floors dashed, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    sides = (("num_rows", "target_tokens"), ("target_tokens", "num_rows"))
    for axis, (along, by) in zip(axes, sides, strict=True):
        for index, value in enumerate(sorted({step[by] for step in steps})[::2]):
            line = sorted((step for step in steps if step[by] == value), key=lambda s: s[along])
            places = [step[along] for step in line]
            label = f"{value} {'tokens' if by == 'target_tokens' else 'rows'}"
            axis.plot(places, _ms(line, "seconds"), "-o", c=f"C{index}", label=label, markersize=4)
            axis.plot(places, _ms(line, "floor_seconds"), "--", c=f"C{index}", alpha=0.6)
        ticks = sorted({step[along] for step in steps})
        axis.set_xscale("log", base=2)
        axis.set_xticks(ticks, map(str, ticks))
        axis.set_xlabel("rows" if along == "num_rows" else "target tokens of every row")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    axes[0].set_yscale("log")
    axes[0].set_ylabel("milliseconds a step; dashed: its floor")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _ms(steps: Sequence[Mapping[str, Any]], what: str) -> list[float]:
    return [step[what] * 1e3 for step in steps]
