"""`make torture`: load, faults and hostile input, over loopback alone.

    python -m bench.torture [NAME ...] [--quick] [--record]

Without names all trials are run but the soak, which takes an hour, and with --quick not the peers.
Prints one table; the exit status is 1 if any line of it fails. --record keeps it: in
bench/RESULTS.md and in bench/results.
"""

import argparse
import asyncio
import datetime
import json
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any

from bench.machine import machine
from bench.record import RECORDS, RESULTS, put_between_marks
from bench.torture import cancels, faults, hostile, idle, overload, peers, sigterm, soak
from bench.torture.lines import Line, Size, table

Trial = Callable[[Size], Awaitable[list[Line]]]

PEERS, SOAK = "peers", "soak"

TRIALS: dict[str, Trial] = {
    "sigterm": sigterm.run,
    "cancels": cancels.run,
    "hostile": hostile.run,
    "overload": overload.run,
    "faults": faults.run,
    "idle": idle.run,
    PEERS: peers.run,
    SOAK: soak.run,
}


@dataclass(frozen=True, slots=True)
class Result:
    """What one trial said, and when."""

    trial: str
    date: str
    seconds: float
    lines: list[Line]

    @classmethod
    def of_record(cls, record: dict[str, Any]) -> "Result":
        """From JSON values."""
        return cls(**record | {"lines": [Line(**line) for line in record["lines"]]})


def main() -> None:
    """Run, print, keep where asked."""
    parser = _parser()
    options = parser.parse_args()
    if unknown := set(options.names) - set(TRIALS):
        parser.error(f"no trial {', '.join(unknown)}; there are {', '.join(TRIALS)}")
    if options.quick and options.record:
        parser.error("--quick figures are not worth keeping: without --record")
    size = Size(options.quick, options.minutes, options.seed)
    names = options.names or usual(quick=options.quick)
    results = [_run(name, size) for name in names]
    print(f"\n{machine()}\n\n{_text(results)}", flush=True)
    if options.record:
        _keep(results)
    if not all(line.ok for result in results for line in result.lines):
        sys.exit(1)


def usual(*, quick: bool) -> list[str]:
    """What is run where no names are given: a quick run has no time to compare peers."""
    return [name for name in TRIALS if name != SOAK and not (quick and name == PEERS)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.torture",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(TRIALS))
    parser.add_argument("--quick", action="store_true", help="about a tenth of each")
    parser.add_argument("--minutes", type=float, default=60.0, help="of the soak")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--record", action="store_true")
    return parser


def _run(name: str, size: Size) -> Result:
    begun = time.monotonic()
    print(f"{name} ...", file=sys.stderr, flush=True)
    lines = asyncio.run(TRIALS[name](size))
    seconds = time.monotonic() - begun
    print(f"{name}: {seconds:.0f} s", file=sys.stderr, flush=True)
    return Result(name, str(datetime.date.today()), round(seconds), lines)


def _text(results: list[Result]) -> str:
    """One table, and how long each took."""
    head = "| trial | what | measured | asked | |\n| --- | --- | --- | --- | --- |"
    rows = [table(result.trial, result.lines) for result in results]
    took = "; ".join(f"{one.trial} {one.date}, {one.seconds:.0f} s" for one in results)
    return "\n".join([head, *rows, "", f"{took}."])


def _keep(results: list[Result]) -> None:
    """Beside those of other trials."""
    place = RECORDS / "torture.json"
    records = json.loads(place.read_text())["trials"] if place.exists() else []
    found = {one.trial: one for one in [*map(Result.of_record, records), *results]}
    kept = [found[name] for name in TRIALS if name in found]
    record = {"machine": machine(), "trials": [asdict(one) for one in kept]}
    place.write_text(json.dumps(record, indent=1) + "\n")
    text = f"{machine()}\n\n`make torture ARGS=--record`\n\n{_text(kept)}\n"
    RESULTS.write_text(put_between_marks(RESULTS.read_text(), "Torture", text))


if __name__ == "__main__":
    main()
