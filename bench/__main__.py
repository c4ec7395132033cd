"""`make bench`: throughput, latency, processor time and memory of the server, through gRPC.

    python -m bench [--sentences FILE] [--callers 1 8 64] [--rounds 5] [--record]

Absolute times hold for the machine alone; compare lines of one table. --record also keeps the
figures: in bench/RESULTS.md, with a plot and a JSON file in bench/results.
"""

import argparse
import asyncio
import datetime
import json
import shlex
import sys
from pathlib import Path

from bench.machine import machine
from bench.plots import draw_service
from bench.server import ROOT
from bench.service import Plan, ServiceReport, measure_service

RESULTS = ROOT / "bench" / "RESULTS.md"
RECORDS = ROOT / "bench" / "results"
BEGIN, END = "<!-- service: begin -->", "<!-- service: end -->"


def main() -> None:
    """Measure and print; keep the figures where asked."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sentences", type=Path, default=ROOT / "bench" / "sentences.txt")
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--units", type=int, default=512, help="sentences or images a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=10_000, help="before memory is read again")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    plan = Plan(
        sentences=options.sentences.read_text().splitlines(),
        callers=options.callers,
        num_units=options.units,
        num_rounds=options.rounds,
        num_requests=options.requests,
    )
    report = asyncio.run(measure_service(plan))
    command = shlex.join(["python", "-m", "bench", *sys.argv[1:]])
    text = f"{datetime.date.today()}, {machine()}\n\n`{command}`\n\n{report.table()}\n"
    print(text)
    if options.record:
        _record(report, text)


def _record(report: ServiceReport, text: str) -> None:
    RECORDS.mkdir(exist_ok=True)
    (RECORDS / "service.json").write_text(json.dumps(report.record(), indent=1) + "\n")
    draw_service(report.figures, RECORDS / "service.png")
    before, _, rest = RESULTS.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    RESULTS.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")


if __name__ == "__main__":
    main()
