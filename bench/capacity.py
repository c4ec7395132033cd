"""A model of capacity, and how far it is off: what calls cost a core, and what that predicts.

    python -m bench.capacity [--models default,base] [--rounds 2] [--units 1500] [--record]

A call of n sentences takes `call + n * sentence` seconds of its server's core. Both are measured
with calls of 1 and of 32 sentences, on a replica pinned to one core with the callers on another.
What is predicted, calls of 8, is then asked of that replica, and of two with a core each; there the
callers have no core of their own, so their processor time is part of the prediction.
"""

import argparse
import asyncio
import datetime
import os
import re
import statistics
import sys
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from attendant import AsyncClient
from bench.load import Call, Run, run_callers
from bench.machine import machine
from bench.models import BASE, DEFAULT, SENTENCES, BenchModel, prepare
from bench.record import RESULTS, put_between_marks
from bench.sentences import repeat
from bench.server import ROOT, RunningServer, running_command
from bench.service import BEAM_SIZES
from bench.statistics import alternate

CORES = (0, 1)
TIMEOUT_SECONDS = 600.0  # a slow machine is measured too
# Sentences a call, and callers: 64 or more sentences at a time fill a decode worker.
ONE, MANY, CHECKED = (1, 64), (32, 8), (8, 16)
CALLS_EACH = 3
# While a client knows one replica alone, all calls go there.
NUM_FIRST_CALLS = 8
MODELS = {"default": DEFAULT, "base": BASE}
# Of the sentences of a round, for it to take about as long.
BASE_SHARE, BEAM_SHARE = 0.2, 0.4
COUNTERS = ("encode_seconds_sum", "decode_step_seconds_sum", "source_tokens", "target_tokens")


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of a core: of a call, and of each sentence in it."""

    call: float
    sentence: float

    @classmethod
    def of(cls, one: float, many: float) -> "Cost":
        """From what a sentence takes in calls of one and in calls of many."""
        num_sentences = MANY[0]
        call = (one - many) / (1 - 1 / num_sentences)
        return cls(call, one - call)

    def of_sentence(self, sentences_a_call: int) -> float:
        """Seconds of a sentence with its share of the call."""
        return self.sentence + self.call / sentences_a_call


@dataclass(frozen=True, slots=True)
class Line:
    """What was measured and predicted for a model and a search; rates are sentences a second."""

    title: str
    server: Cost
    client: Cost
    one: float
    two: float
    server_beside: float  # seconds of a core a sentence, where two replicas run
    busy: float  # share of both cores meanwhile, callers among it

    @property
    def predicted_one(self) -> float:
        """The server's core is full, the callers have another."""
        return 1 / self.server.of_sentence(CHECKED[0])

    @property
    def predicted_two(self) -> float:
        """Two cores are full, with servers and callers."""
        costs = (cost.of_sentence(CHECKED[0]) for cost in (self.server, self.client))
        return 2 / sum(costs)

    def row(self) -> str:
        """As Markdown."""
        cells = [f"{cost * 1e3:.2f}" for cost in (self.server.call, self.server.sentence)]
        cells += [f"{cost * 1e3:.2f}" for cost in (self.client.call, self.client.sentence)]
        for predicted, found in ((self.predicted_one, self.one), (self.predicted_two, self.two)):
            cells += [f"{predicted:,.0f}", f"{found:,.0f}", f"{predicted / found:.2f}"]
        cells += [f"{self.server_beside / self.server.of_sentence(CHECKED[0]):.2f}"]
        cells += [f"{self.busy:.0%}"]
        return f"| {self.title} | {' | '.join(cells)} |"


HEAD = (
    "| | server: ms a call | ms a sentence | caller: ms a call | ms a sentence | one: predicted "
    "| measured | ratio | two: predicted | measured | ratio "
    "| a core's time for a sentence, times that of the coefficients | cores busy |\n"
    f"| --- |{' --: |' * 12}\n"
)


def main() -> None:
    """Measure, print, and keep if asked to."""
    chosen = _parser().parse_args()
    models = [MODELS[name] for name in chosen.models.split(",")]
    described = machine()  # before the callers leave one of its cores
    lines, notes = asyncio.run(_measure(models, chosen.rounds, chosen.units))
    command = f"python -m bench.capacity {' '.join(sys.argv[1:])}".strip()
    table = HEAD + "\n".join(line.row() for line in lines)
    text = "\n\n".join([f"{datetime.date.today()}, {described}", f"`{command}`", table, *notes])
    print(text)
    if chosen.record:
        RESULTS.write_text(put_between_marks(RESULTS.read_text(), "capacity", f"{text}\n"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.capacity",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", default="default", help=", ".join(MODELS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--units", type=int, default=1500, help="sentences a round")
    parser.add_argument("--record", action="store_true", help="keep it in bench/RESULTS.md")
    return parser


async def _measure(
    models: Sequence[BenchModel], rounds: int, units: int
) -> tuple[list[Line], list[str]]:
    lines, notes = [], []
    for model in models:
        prepare(model)
        async with _replica(model, CORES[0]) as first, _replica(model, CORES[1]) as second:
            for name, beam_size in BEAM_SIZES.items():
                share = (BASE_SHARE if model is BASE else 1) * (BEAM_SHARE if beam_size > 1 else 1)
                title = f"{model.title}, {name}"
                call = partial(_translate, model=model, beam_size=beam_size)
                before = _counters(first)
                line = await _line(title, [first, second], call, rounds, int(units * share))
                lines.append(line)
                notes.append(f"{title}: {_tokens(before, _counters(first))}")
            if model is DEFAULT:
                notes.append(await _images(first, rounds))
            notes.append(f"{model.title}: {first.resident_mebibytes():.0f} MiB resident in the end")
    return lines, notes


@asynccontextmanager
async def _replica(model: BenchModel, core: int) -> AsyncIterator[RunningServer]:
    """Pinned, with a thread for each kind of work."""
    command = ["taskset", "--cpu-list", str(core), sys.executable, "-m", "service"]
    flags = {"grpc-port": 0, "http-port": 0, "models": model.models_folder}
    flags |= {"decode-workers": 1, "threads-alone": 1, "image-threads": 1}
    async with running_command([*command, *(f"--{k}={v}" for k, v in flags.items())]) as server:
        yield server


async def _line(
    title: str, replicas: Sequence[RunningServer], call: Any, rounds: int, units: int
) -> Line:
    first = replicas[:1]
    turns = {
        "one": partial(_run, first, call, ONE, units),
        "many": partial(_run, first, call, MANY, units),
        "checked": partial(_run, first, call, CHECKED, units),
        "two": partial(_run, replicas, call, CHECKED, 2 * units),
    }
    runs = await alternate(turns, rounds)

    def cost(of: str) -> Cost:
        return Cost.of(*(_median(runs[name], of) for name in ("one", "many")))

    return Line(
        title,
        server=cost("server_cpu_seconds"),
        client=cost("client_cpu_seconds"),
        one=statistics.median(run.units_per_second for run in runs["checked"]),
        two=statistics.median(run.units_per_second for run in runs["two"]),
        server_beside=_median(runs["two"], "server_cpu_seconds"),
        busy=statistics.median(map(_busy, runs["two"])),
    )


def _busy(run: Run) -> float:
    return (run.server_cpu_seconds + run.client_cpu_seconds) / (run.seconds * len(CORES))


def _stand_on(cores: Sequence[int]) -> None:
    """With all threads of this process: gRPC's were there before."""
    for thread in os.listdir("/proc/self/task"):
        with suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread), cores)


def _median(runs: Sequence[Run], of: str) -> float:
    """Seconds a sentence."""
    return statistics.median(getattr(run, of) / run.num_units for run in runs)


async def _run(
    replicas: Sequence[RunningServer], call: Any, load: tuple[int, int], units: int
) -> Run:
    """The callers are in this process: beside a single replica they have the other core."""
    _stand_on(CORES if len(replicas) > 1 else CORES[1:])
    size, callers = load
    callers *= len(replicas)
    # Callers begin together: with a call each, that would be all there is to measure.
    units = max(units, callers * size * (CALLS_EACH if len(replicas) > 1 else 1))
    texts = repeat(SENTENCES.read_text(encoding="utf-8").splitlines(), units)
    batches = [texts[at : at + size] for at in range(0, len(texts), size)]
    targets = [replica.target for replica in replicas]
    async with AsyncClient(targets, timeout_seconds=TIMEOUT_SECONDS) as client:
        ask: Call = partial(call, client)
        for _ in range(NUM_FIRST_CALLS):
            await ask(texts[:1])
        return await run_callers(
            ask, batches, callers, lambda: sum(one.cpu_seconds() for one in replicas)
        )


async def _translate(
    client: AsyncClient, texts: Sequence[Any], *, model: BenchModel, beam_size: int
) -> int:
    translations = await client.translate(
        list(texts),
        beam_size=beam_size,
        min_target_tokens=model.min_tokens,
        max_target_tokens=model.max_tokens,
    )
    return sum(one.best.target_tokens for one in translations)


async def _images(replica: RunningServer, rounds: int) -> str:
    images = [path.read_bytes() for path in sorted((ROOT / "examples").glob("*.jpg"))]
    batches = [[images[number % len(images)]] for number in range(500 * rounds)]
    _stand_on(CORES[1:])

    async def classify(client: AsyncClient, batch: Sequence[Any]) -> int:
        return len(await client.classify(list(batch)))

    async with AsyncClient(replica.target) as client:
        run = await run_callers(partial(classify, client), batches, 32, replica.cpu_seconds)
    cost = run.server_cpu_seconds / run.num_units
    return f"cifar10, an image a call: {cost * 1e3:.2f} ms of a core, {run.units_per_second:,.0f}/s"


def _counters(replica: RunningServer) -> list[float]:
    """Of all models together: see COUNTERS."""
    with urllib.request.urlopen(f"{replica.http_target}/metrics") as page:
        text = page.read().decode()
    patterns = [rf"^attendant_{name}(?:_total)?(?:{{.*}})? (\S+)$" for name in COUNTERS]
    return [sum(map(float, re.findall(one, text, re.MULTILINE))) for one in patterns]


def _tokens(before: Sequence[float], after: Sequence[float]) -> str:
    encode, decode, source, target = (now - had for now, had in zip(after, before, strict=True))
    return (
        f"{source / encode:,.0f} source tokens a second of encoding, "
        f"{target / decode:,.0f} target tokens a second of decoding"
    )


if __name__ == "__main__":
    main()
