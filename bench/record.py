"""Where figures are kept: a block of bench/RESULTS.md and a JSON file for each section, plots."""

import datetime
import json
from collections.abc import Sequence
from pathlib import Path

from bench.comparison import Findings
from bench.contender import ROOT
from bench.machine import machine
from bench.models import MODELS, BenchModel
from bench.plots import draw_comparisons, draw_floor, draw_service

RESULTS = ROOT / "bench" / "RESULTS.md"
RECORDS = ROOT / "bench" / "results"


def section_name(section: str, models: Sequence[BenchModel]) -> str:
    """Under what it is kept: other models than the usual ones do not take their figures' place."""
    if tuple(models) == MODELS:
        return section
    return "-".join([section, *(model.name for model in models)])


def section_text(findings: Findings, command: str) -> str:
    """When, where, how and what."""
    return f"{datetime.date.today()}, {machine()}\n\n`{command}`\n\n{findings.text()}\n"


def keep(name: str, findings: Findings, text: str) -> None:
    """Put a section's text between its marks, its figures beside, and draw them anew."""
    RECORDS.mkdir(exist_ok=True)
    (RECORDS / f"{name}.json").write_text(json.dumps(findings.record(), indent=1) + "\n")
    RESULTS.write_text(put_between_marks(RESULTS.read_text(), name, text))
    if findings.comparisons:
        draw_comparisons(_all_comparisons(RECORDS), RECORDS / "peers.png")
    elif name == "service":
        draw_service(findings.figures["figures"], RECORDS / "service.png")
    elif name == "floor":
        draw_floor(findings.figures["steps"], RECORDS / "floor.png")


def put_between_marks(page: str, name: str, text: str) -> str:
    """The page with this block in place of the one of the same name; without one, at its end."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if begin not in page:
        page += f"\n## {name}\n\n{begin}\n{end}\n"
    before, _, rest = page.partition(begin)
    after = rest.partition(end)[2]
    return f"{before}{begin}\n\n{text}\n{end}{after}"


def _all_comparisons(folder: Path) -> list[dict[str, object]]:
    """Those of all sections that were ever kept."""
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return [line for record in records for line in record.get("comparisons", [])]
