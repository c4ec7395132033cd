"""The benchmark runs, and its figures are those of the calls it made."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Sequence

from bench.load import Run, median_run, run_callers
from bench.server import ROOT


def run_of(units: int, seconds: float, latencies: Sequence[float] = (0.1,)) -> Run:
    return Run(units, 0, seconds, tuple(latencies), 0.0, 0.0)


async def test_callers_share_the_batches_and_never_exceed_their_number() -> None:
    running = most = 0
    seen: list[int] = []

    async def call(batch: Sequence[int]) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        seen.extend(batch)
        running -= 1
        return 10 * len(batch)

    batches = [[1, 2], [3], [4, 5, 6], [7]]
    run = await run_callers(call, batches, 2, lambda: 0.0)
    assert (sorted(seen), most) == ([1, 2, 3, 4, 5, 6, 7], 2)
    assert (run.num_units, run.num_tokens, len(run.latencies)) == (7, 70, 4)


def test_percentiles_and_medians_are_of_runs_that_were_made() -> None:
    run = run_of(100, 10.0, [n / 100 for n in range(100, 0, -1)])
    assert (run.percentile(0.5), run.percentile(0.99)) == (0.51, 1.0)
    runs = [run_of(10, 1.0), run_of(10, 3.0), run_of(10, 2.0)]
    assert median_run(runs) is runs[2]


def test_the_benchmark_prints_a_table_of_positive_figures() -> None:
    flags = ["--callers", "1", "--units", "2", "--rounds", "1", "--requests", "20"]
    command = [sys.executable, "-m", "bench", *flags]
    found = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert found.returncode == 0, found.stderr
    rows = re.findall(r"^\| (?:translate|classify).*\|$", found.stdout, re.MULTILINE)
    assert len(rows) == 4 + 2
    for row in rows:
        numbers = [float(cell.replace(",", "")) for cell in row.split("|")[2:-1] if cell.strip()]
        assert all(number > 0 for number in numbers[:5])
    assert re.search(r"MiB after 20 \([+-]\d", found.stdout)
