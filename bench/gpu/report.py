"""What was found: tables, JSON, and a picture."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.gpu.agreement import Agreement
from bench.gpu.chip import Chip
from bench.gpu.translation import Line
from bench.gpu.vision import VisionCheck, VisionLine

AIM_OVER_FLOOR = 1.5
AIM_OVER_PEER = 5.0
AIM_IN_FLIGHT = 64


@dataclass(slots=True)
class Findings:
    """Of one run."""

    chip: Chip
    date: str
    versions: dict[str, str]
    agreements: list[Agreement] = field(default_factory=list)
    translation: list[Line] = field(default_factory=list)
    vision_check: VisionCheck | None = None
    vision: list[VisionLine] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether all checks were; speed fails nothing."""
        vision = self.vision_check is None or self.vision_check.passed
        return vision and all(one.passed for one in self.agreements)

    def text(self) -> str:
        """Short tables."""
        chip = self.chip
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        head = (
            f"{chip.name}, {self.date}; {versions}\n"
            f"{chip.operations_per_second / 1e12:.1f} TFLOP/s, "
            f"{chip.bytes_per_second / 1e12:.2f} TB/s, "
            f"{chip.kernel_seconds * 1e6:.2f} us an empty kernel"
        )
        parts = [head, self._agreement_text(), self._translation_text(), self._vision_text()]
        return "\n\n".join([*filter(None, parts), "PASSED" if self.passed else "FAILED"])

    def save(self, folder: Path) -> None:
        """Write gpu.json and gpu.png."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "gpu.json").write_text(json.dumps(asdict(self), indent=1))
        draw(self, folder / "gpu.png")

    def _agreement_text(self) -> str:
        rows = [
            (
                one.model,
                _search(one.beam_size),
                f"{one.ours.num_same} of {one.num_sentences}",
                f"{one.share:.1%} ({one.least_share:.0%})",
                f"{one.judged_loss:.4f} ({one.most_loss})",
                f"{one.ours.worst_loss:.4f}",
                f"{one.peer_share:.1%}",
                f"{one.peer.worst_loss:.4f}",
                "ok" if one.passed else "FAILED",
            )
            for one in self.agreements
        ]
        header = (
            "fp16 as fp32",
            "search",
            "same ids",
            "share",
            "loss",
            "worst",
            "HF fp16",
            "worst",
            "",
        )
        return table(header, rows) if rows else ""

    def _translation_text(self) -> str:
        rows = [
            (
                one.model,
                _search(one.beam_size),
                str(one.in_flight),
                f"{one.step_seconds * 1e3:.3f}",
                f"{one.device_seconds * 1e3:.3f}",
                f"{one.floor_seconds * 1e3:.3f}",
                _aimed(one.over_floor, one.over_floor <= AIM_OVER_FLOOR),
                f"{one.kernels}{' graph' if one.is_captured else ''}",
                f"{one.tokens_per_second:,.0f}",
                f"{one.eager_tokens_per_second:,.0f}",
                _compiled(one),
                _aimed(one.over_peer, one.over_peer >= AIM_OVER_PEER)
                if one.in_flight == AIM_IN_FLIGHT
                else f"{one.over_peer:.1f}",
            )
            for one in self.translation
        ]
        header = (
            "model", "search", "in flight", "step ms", "device", "floor", "x floor", "kernels",
            "tokens/s", "HF eager", "HF compiled", "x HF",
        )  # fmt: skip
        reasons = {one.not_compiled for one in self.translation if one.not_compiled}
        notes = "".join(f"\nHF compiled: {reason}" for reason in sorted(reasons))
        return table(header, rows) + notes if rows else ""

    def _vision_text(self) -> str:
        if self.vision_check is None:
            return ""
        check = self.vision_check
        rows = [
            (
                str(one.batch),
                f"{one.seconds * 1e3:.3f}",
                f"{one.floor_seconds * 1e3:.3f}",
                _aimed(one.over_floor, one.over_floor <= AIM_OVER_FLOOR),
                f"{one.images_per_second:,.0f}",
                f"{one.batch / one.peer_seconds:,.0f}",
                f"{one.over_peer:.2f}",
            )
            for one in self.vision
        ]
        header = ("ViT batch", "ms", "floor", "x floor", "images/s", "HF eager", "x HF")
        found = f"ViT fp16 as fp32: error {check.worst_error:.2%} of the largest logit, "
        found += f"{check.same_label:.0%} the same label"
        return f"{found}: {'ok' if check.passed else 'FAILED'}\n{table(header, rows)}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns, the first to the left and the others to the right."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def draw(findings: Findings, path: Path) -> None:
    """Tokens and images a second over how many at a time, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4))
    kinds = dict.fromkeys((line.model, line.beam_size) for line in findings.translation)
    for place, (model, beam_size) in enumerate(kinds):
        lines = [
            line
            for line in findings.translation
            if (line.model, line.beam_size) == (model, beam_size)
        ]
        label = f"{model}, {_search(beam_size)}"
        _plot(axes[0], place, label, [(one.in_flight, one.tokens_per_second) for one in lines])
        peers = [(one.in_flight, one.eager_tokens_per_second) for one in lines]
        _plot(axes[0], place, f"{label}, HF", peers, style=":")
    ours = [(one.batch, one.images_per_second) for one in findings.vision]
    peers = [(one.batch, one.batch / one.peer_seconds) for one in findings.vision]
    _plot(axes[1], 0, "ViT-B/16", ours)
    _plot(axes[1], 0, "ViT-B/16, HF", peers, style=":")
    for axis, name in zip(axes, ("tokens", "images"), strict=True):
        if not axis.has_data():
            continue
        axis.set(xscale="log", yscale="log", xlabel="at a time", ylabel=f"{name} a second")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    figure.suptitle(f"{findings.chip.name}, {findings.date}")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _plot(
    axis: Any, place: int, label: str, points: Sequence[tuple[int, float]], style: str = "-"
) -> None:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    axis.plot(xs, ys, style, marker="o", markersize=3, color=f"C{place}", label=label)


def _search(beam_size: int) -> str:
    return "greedy" if beam_size == 1 else f"beam {beam_size}"


def _aimed(ratio: float, reached: bool) -> str:
    return f"{ratio:.2f}{'' if reached else ' !'}"


def _compiled(line: Line) -> str:
    if line.compiled_tokens_per_second is not None:
        return f"{line.compiled_tokens_per_second:,.0f}"
    return "failed" if line.not_compiled else ""
