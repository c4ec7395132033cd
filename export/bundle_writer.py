"""Write a bundle so that it appears whole or not at all."""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from service.bundle import CARD_FILE, Bundle, BundleCard, bundle_files, file_sha256, read_card
from service.errors import BundleError
from service.golden import GOLDEN_FILE

MODEL_CARD_FILE = "MODEL_CARD.md"


def write_bundle(
    output: Path,
    card: BundleCard,
    populate: Callable[[Path], None],
    golden: Callable[[Bundle], str] | None = None,
    check: Callable[[Bundle], Mapping[str, str]] | None = None,
) -> Bundle:
    """Let `populate` fill a folder, add bundle.json and MODEL_CARD.md, verify, rename to `output`.

    `card` comes with empty `files`; `output` is `.../NAME/VERSION` and must not exist: a version
    never changes. `golden` makes golden.json by asking the bundle; `check` compares it with what it
    was made from, for the card. When anything fails nothing is left behind. Raises BundleError, and
    what `golden` and `check` raise.
    """
    if output.exists():
        raise BundleError(f"expected no {output} yet, found one; delete it or raise the version")
    output.parent.mkdir(parents=True, exist_ok=True)
    # A sibling, so that the last step is a rename within one file system.
    scratch = Path(tempfile.mkdtemp(prefix=".partial-", dir=output.parent))
    try:
        folder = scratch / output.name
        folder.mkdir()
        populate(folder)
        (folder / MODEL_CARD_FILE).write_text(model_card(card), encoding="utf-8")
        _write_card(folder, card)
        bundle = Bundle.open(folder)
        if check is not None:
            bundle = record_figures(folder, parity=check(bundle))
            card = bundle.card
        if golden is not None:
            (folder / GOLDEN_FILE).write_text(golden(bundle) + "\n", encoding="utf-8")
            _write_card(folder, card.model_copy(update={"golden": GOLDEN_FILE}))
            Bundle.open(folder)
        folder.rename(output)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Bundle.open(output)


def record_figures(
    folder: Path,
    *,
    metrics: dict[str, dict[str, float]] | None = None,
    measured_with: dict[str, str] | None = None,
    parity: Mapping[str, str] | None = None,
) -> Bundle:
    """Put measured quality, by precision and with how it was measured, or parity in the card."""
    card = read_card(folder)
    measured: dict[str, object] = {
        "metrics": metrics,
        "measured_with": measured_with,
        "parity": parity,
    }
    update = {name: figures for name, figures in measured.items() if figures is not None}
    provenance = card.provenance.model_copy(update=update)
    card = card.model_copy(update={"provenance": provenance})
    (folder / MODEL_CARD_FILE).write_text(model_card(card), encoding="utf-8")
    _write_card(folder, card)
    return Bundle.open(folder)


def _write_card(folder: Path, card: BundleCard) -> None:
    files = {name: file_sha256(folder / name) for name in sorted(bundle_files(folder))}
    text = card.model_copy(update={"files": files}).model_dump_json(indent=2)
    (folder / CARD_FILE).write_text(text + "\n", encoding="utf-8")


def model_card(card: BundleCard) -> str:
    """MODEL_CARD.md: what bundle.json says, for people."""
    facts = card.provenance
    sections = [
        f"# {card.name}",
        f"Task: {card.task}. Precisions: {', '.join(card.precisions)}.",
        f"## Data\n\n{facts.data}",
        f"## Licence\n\n{facts.licence}",
        f"## Recipe\n\n{facts.recipe}{_trained(facts.trained_hours)}",
        f"## Architecture\n\n{_architecture(card)}",
    ]
    if facts.metrics:
        sections.append(f"## Measured quality\n\n{_metrics_table(facts.metrics)}")
        sections += [f"{name}: `{value}`" for name, value in facts.measured_with.items()]
    if facts.parity:
        lines = "\n".join(f"- {name}: {value}" for name, value in facts.parity.items())
        sections.append(f"## ONNX Runtime beside PyTorch\n\n{lines}")
    return "\n\n".join(sections) + "\n"


def _trained(hours: float | None) -> str:
    return "" if hours is None else f"\n\nTrained for {hours:g} hours."


def _architecture(card: BundleCard) -> str:
    sizes = card.model_dump()["architecture"]
    return "\n".join(f"- {name}: {value}" for name, value in sizes.items())


def _metrics_table(metrics: dict[str, dict[str, float]]) -> str:
    names = dict.fromkeys(name for figures in metrics.values() for name in figures)
    lines = ["| | " + " | ".join(metrics) + " |", "|---" * (len(metrics) + 1) + "|"]
    for name in names:
        cells = [f"{figures[name]:g}" if name in figures else "" for figures in metrics.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
