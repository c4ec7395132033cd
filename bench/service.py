"""What callers of a running server see: throughput, latency, processor time and memory.

Every line is the median of rounds that take turns with those of the other lines; the callers run in
this process, on the same cores as the server.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from attendant import AsyncClient
from bench.load import Call, Run, median_run, run_callers
from bench.server import ROOT, RunningServer, running_server

EXAMPLES = ROOT / "examples"
TIMEOUT_SECONDS = 600.0  # a slow machine is measured too
MEMORY_CALLERS = 8
BEAM_SIZES = {"greedy": 1, "beam 4": 4}


@dataclass(frozen=True, slots=True)
class Line:
    """What is called, by how many callers, with how many sentences or images a call."""

    name: str
    num_callers: int
    units_a_call: int
    call: Call
    units: Sequence[Any]

    def batches(self, num_units: int) -> list[Sequence[Any]]:
        """The calls of one round, two a caller at least; units come round again."""
        num_calls = max(num_units // self.units_a_call, 2 * self.num_callers)
        needed = num_calls * self.units_a_call
        units = [self.units[index % len(self.units)] for index in range(needed)]
        return [units[at : at + self.units_a_call] for at in range(0, needed, self.units_a_call)]


@dataclass(frozen=True, slots=True)
class Figures:
    """One line of the table. Seconds are wall clock, but for the processor's."""

    name: str
    num_callers: int
    units_a_call: int
    units_per_second: float
    tokens_per_second: float
    p50_seconds: float
    p99_seconds: float
    server_cpu_seconds_a_unit: float
    client_cpu_seconds_a_unit: float

    @classmethod
    def of(cls, line: Line, run: Run) -> "Figures":
        """The figures of a line's median run."""
        return cls(
            name=line.name,
            num_callers=line.num_callers,
            units_a_call=line.units_a_call,
            units_per_second=run.units_per_second,
            tokens_per_second=run.num_tokens / run.seconds,
            p50_seconds=run.percentile(0.5),
            p99_seconds=run.percentile(0.99),
            server_cpu_seconds_a_unit=run.server_cpu_seconds / run.num_units,
            client_cpu_seconds_a_unit=run.client_cpu_seconds / run.num_units,
        )


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory of a server of its own, in MiB."""

    after_start: float
    after_one_round: float  # one in ten of the requests
    after_requests: float
    num_requests: int

    @property
    def growth(self) -> float:
        """From the start to the end, as a share."""
        return self.after_requests / self.after_start - 1


@dataclass(frozen=True, slots=True)
class ServiceReport:
    """All that was measured."""

    seconds_to_ready: float
    memory: Memory
    figures: list[Figures]

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    def table(self) -> str:
        """As Markdown."""
        memory = self.memory
        head = (
            f"Ready {self.seconds_to_ready:.2f} s after the start of the process. Resident memory "
            f"{memory.after_start:.0f} MiB then, {memory.after_one_round:.0f} MiB after "
            f"{memory.num_requests // 10:,} requests, {memory.after_requests:.0f} MiB after "
            f"{memory.num_requests:,} ({memory.growth:+.1%}).\n\n"
            "| call | callers | a call | per second | tokens/s | p50 ms | p99 ms "
            "| server CPU ms each | client CPU ms each |\n"
            "| --- | --: | --: | --: | --: | --: | --: | --: | --: |\n"
        )
        return head + "\n".join(map(_row, self.figures))


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    sentences: Sequence[str]
    callers: Sequence[int] = (1, 8, 64)  # of translations
    num_units: int = 512  # sentences or images a round
    num_rounds: int = 5
    num_requests: int = 10_000  # before memory is looked at again


async def measure_service(plan: Plan) -> ServiceReport:
    """Measure the default models, the table on one server and the memory on another."""
    async with running_server() as server:
        figures = await _measure_lines(server, plan)
    return ServiceReport(server.seconds_to_ready, await _measure_memory(plan), figures)


async def _measure_lines(server: RunningServer, plan: Plan) -> list[Figures]:
    async with AsyncClient(server.target, timeout_seconds=TIMEOUT_SECONDS) as client:
        lines = _lines(client, plan)
        runs: list[list[Run]] = [[] for _ in lines]
        for _ in range(plan.num_rounds + 1):
            for line, found in zip(lines, runs, strict=True):
                batches = line.batches(plan.num_units)
                found.append(
                    await run_callers(line.call, batches, line.num_callers, server.cpu_seconds)
                )
    # the first round warms up
    return [
        Figures.of(line, median_run(found[1:])) for line, found in zip(lines, runs, strict=True)
    ]


def _lines(client: AsyncClient, plan: Plan) -> list[Line]:
    images = [path.read_bytes() for path in sorted(EXAMPLES.glob("*.jpg"))]

    async def classify(batch: Sequence[Any]) -> int:
        for classification in await client.classify(list(batch)):
            assert classification.label
        return 0

    table = [
        Line(f"translate, {name}", callers, contents, _translate(client, beam_size), plan.sentences)
        for name, beam_size in BEAM_SIZES.items()
        for contents in (1, 32)
        for callers in plan.callers
    ]
    return table + [Line("classify", callers, 1, classify, images) for callers in (1, 32)]


def _translate(client: AsyncClient, beam_size: int) -> Call:
    async def translate(batch: Sequence[Any]) -> int:
        translations = await client.translate(list(batch), beam_size=beam_size)
        return sum(translation.best.target_tokens for translation in translations)

    return translate


async def _measure_memory(plan: Plan) -> Memory:
    async with (
        running_server() as server,
        AsyncClient(server.target, timeout_seconds=TIMEOUT_SECONDS) as client,
    ):
        line = Line("translate", MEMORY_CALLERS, 1, _translate(client, 1), plan.sentences)

        async def after(num_requests: int) -> float:
            batches = line.batches(num_requests)
            await run_callers(line.call, batches, line.num_callers, server.cpu_seconds)
            return server.resident_mebibytes()

        return Memory(
            after_start=server.resident_mebibytes(),
            after_one_round=await after(plan.num_requests // 10),
            after_requests=await after(plan.num_requests - plan.num_requests // 10),
            num_requests=plan.num_requests,
        )


def _row(figures: Figures) -> str:
    tokens = f"{figures.tokens_per_second:,.0f}" if figures.tokens_per_second else ""
    return (
        f"| {figures.name} | {figures.num_callers} | {figures.units_a_call} "
        f"| {figures.units_per_second:,.0f} | {tokens} "
        f"| {figures.p50_seconds * 1e3:.1f} | {figures.p99_seconds * 1e3:.1f} "
        f"| {figures.server_cpu_seconds_a_unit * 1e3:.2f} "
        f"| {figures.client_cpu_seconds_a_unit * 1e3:.2f} |"
    )
