"""`make bench`: ours beside its peers, and what callers of the server see.

    python -m bench [SECTION ...] [--data FILE] [--tune FILE] [--rounds 5] [--quick] [--record]

Without sections all are measured whose peers are installed (`python -m bench.peers install NAME`).
Absolute figures hold for the machine alone; compare those of one line. --record keeps the figures:
in bench/RESULTS.md, with plots and JSON files in bench/results.
"""

import argparse
import asyncio
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from bench.comparison import Comparison, comparison_table
from bench.models import ALL_MODELS, MODELS
from bench.record import keep, section_name, section_text
from bench.sections.plan import Plan
from bench.sections.table import SECTIONS, split_by_peers
from bench.sentences import Sentences

DEFAULT_MODELS = [model.name for model in MODELS]


def main() -> None:
    """Measure and print; keep the figures where asked."""
    parser = _parser()
    options = parser.parse_args()
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    if options.quick and options.record:
        parser.error("--quick figures are not worth keeping: without --record")
    plan = _plan(options)
    sections, lacking = split_by_peers(options.sections)
    print(plan.sentences.origin, flush=True)
    comparisons: list[Comparison] = []
    words = (word if not word.startswith("/") else Path(word).name for word in sys.argv[1:])
    command = shlex.join(["python", "-m", "bench", *words])
    for section in sections:
        findings = asyncio.run(section.measure(plan))
        text = section_text(findings, command)
        print(f"\n## {section.name}\n\n{text}", flush=True)
        comparisons += findings.comparisons
        if options.record:
            keep(section_name(section.name, plan.models), findings, text)
    if comparisons:
        print(f"\n## All\n\n{comparison_table(comparisons)}")
    print("\n".join(lacking))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--data", type=Path, help="sentences to time, one a line")
    parser.add_argument("--tune", type=Path, help="others, to choose the peers' settings with")
    parser.add_argument("--models", nargs="+", choices=[model.name for model in ALL_MODELS])
    parser.add_argument("--precisions", nargs="+", choices=["int8", "fp32"], default=["int8"])
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 8, 64], help="of service")
    parser.add_argument("--units", type=int, default=512, help="sentences or images a round")
    parser.add_argument("--tuning", type=int, default=256, help="sentences to try settings on")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=10_000, help="before memory is read again")
    parser.add_argument("--quick", action="store_true", help="only to see that it works")
    parser.add_argument("--record", action="store_true")
    return parser


def _plan(options: argparse.Namespace) -> Plan:
    plan = Plan(
        sentences=Sentences.read(options.data, options.tune),
        num_rounds=options.rounds,
        num_units=options.units,
        num_tuning=options.tuning,
        precisions=options.precisions,
        models=[model for model in ALL_MODELS if model.name in (options.models or DEFAULT_MODELS)],
        callers=options.callers,
        num_requests=options.requests,
    )
    if not options.quick:
        return plan
    return replace(plan, num_rounds=1, num_units=16, num_tuning=8, callers=[1, 8], num_requests=20)


if __name__ == "__main__":
    main()
