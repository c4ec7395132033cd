"""`make bench`: throughput and latency through gRPC, beside the machine they were measured on.

    python -m bench [--rounds 3] [--sentences FILE] [--calls 200]

Every line of the table is the median of rounds that take turns with those of the other lines.
Absolute times hold for the machine alone; compare lines of one table.
"""

import argparse
import asyncio
import datetime
import os
import platform
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from attendant import AsyncClient
from bench.load import Latencies, median_run, run_callers
from bench.server import ROOT, RunningServer, running_server

EXAMPLES = ROOT / "examples"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table: what is called, by how many callers, with how much a call."""

    name: str
    num_callers: int
    units_a_call: int
    call: Callable[[Sequence[Any]], Awaitable[object]]
    units: Sequence[Any]

    def batches(self, num_calls: int) -> list[Sequence[Any]]:
        """The calls of one round; units come round again when they run out."""
        num_calls = max(num_calls // self.units_a_call, self.num_callers)
        needed = num_calls * self.units_a_call
        units = [self.units[index % len(self.units)] for index in range(needed)]
        return [units[at : at + self.units_a_call] for at in range(0, needed, self.units_a_call)]


def lines(client: AsyncClient, sentences: Sequence[str], images: Sequence[bytes]) -> list[Line]:
    """What is measured."""

    def translate(beam_size: int) -> Callable[[Sequence[Any]], Awaitable[object]]:
        return lambda batch: client.translate(list(batch), beam_size=beam_size)

    def classify(batch: Sequence[Any]) -> Awaitable[object]:
        return client.classify(list(batch))

    table = [
        Line(f"translate, {name}", callers, contents, translate(beam), sentences)
        for name, beam in (("greedy", 1), ("beam 4", 4))
        for callers, contents in ((1, 1), (8, 1), (64, 1), (1, 32))
    ]
    return table + [Line("classify", callers, 1, classify, images) for callers in (1, 32)]


async def measure(
    server: RunningServer, sentences: Sequence[str], num_calls: int, num_rounds: int
) -> list[str]:
    """Rows of the table, measured in turns."""
    images = [path.read_bytes() for path in sorted(EXAMPLES.glob("*.jpg"))]
    async with AsyncClient(server.target) as client:
        table = lines(client, sentences, images)
        runs: list[list[Latencies]] = [[] for _ in table]
        cpu = [0.0] * len(table)
        for round_number in range(num_rounds + 1):  # the first warms up
            for index, line in enumerate(table):
                before = server.cpu_seconds()
                run = await run_callers(line.call, line.batches(num_calls), line.num_callers)
                if round_number:
                    runs[index].append(run)
                    cpu[index] += server.cpu_seconds() - before
        return [
            _row(line, median_run(found), seconds / sum(run.units for run in found))
            for line, found, seconds in zip(table, runs, cpu, strict=True)
        ]


def _row(line: Line, run: Latencies, cpu_seconds_a_unit: float) -> str:
    return (
        f"| {line.name} | {line.num_callers} | {line.units_a_call} | {run.units_per_second:,.0f} | "
        f"{run.percentile(0.5) * 1e3:.1f} | {run.percentile(0.99) * 1e3:.1f} | "
        f"{cpu_seconds_a_unit * 1e3:.2f} |"
    )


def _machine() -> str:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    packages = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "grpcio", "numpy"))
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores of {model}; Python {platform.python_version()}, {packages}"


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=256, help="sentences or images a round")
    parser.add_argument("--sentences", type=Path, default=EXAMPLES / "sentences.txt")
    options = parser.parse_args()
    sentences = options.sentences.read_text().splitlines()
    async with running_server() as server:
        after_start = server.resident_mebibytes()
        rows = await measure(server, sentences, options.calls, options.rounds)
        after_load = server.resident_mebibytes()
    print(f"{datetime.date.today()}, {_machine()}\n")
    print(f"Ready {server.seconds_to_ready:.2f} s after the start of the process; ", end="")
    print(f"{after_start:.0f} MiB resident then, {after_load:.0f} MiB after the load.\n")
    print("| call | callers | a call | per second | p50 ms | p99 ms | server CPU ms each |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    print("\n".join(rows))


if __name__ == "__main__":
    asyncio.run(main())
