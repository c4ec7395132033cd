"""ViT-B/16 at 224 x 224: JPEGs through our server against ready tensors given to bare engines."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

from bench.answers import DifferentAnswers
from bench.comparison import Comparison, Figure, Findings, Target
from bench.contender import OURS, Contender, Stage, stage
from bench.models import PICTURES, VISION_BUNDLE, prepare_vision
from bench.peers.environments import how_to_install, is_installed, python_of
from bench.sections.plan import Plan
from bench.server import RunningServer, running_server
from bench.statistics import alternate
from bench.translators import num_cores

NUM_CALLERS = 32
PART = 8  # of a round's units: a picture takes so many times longer than a sentence
BATCH_SIZES = (1, 4, 16)
SERVER = "our server"
SESSION = "bare session"
TARGET = Target(0.93, 0.96)  # against the bare session


@dataclass(frozen=True, slots=True)
class Engine:
    """A bare engine: its contender, what that loads, and whether threads may share it."""

    name: str
    module: str
    python: Path
    loads: Mapping[str, Any]
    is_shared: bool = False


class Setting(NamedTuple):
    """How a bare engine uses the cores."""

    num_callers: int
    threads: int  # of one call
    batch_size: int

    def __str__(self) -> str:
        return f"{self.num_callers} x {self.threads} x {self.batch_size}"


@dataclass(frozen=True, slots=True)
class Turnout:
    """One round: its figure, and the best label of each picture."""

    figure: Figure
    labels: Sequence[int]


async def measure(plan: Plan) -> Findings:
    """Pictures per second."""
    prepare_vision()
    findings = Findings()
    for precision in plan.precisions:
        async with stage() as on:
            await _measure_precision(on, precision, plan, findings)
            findings.notes.append(f"{precision}: {on.disturbance()}")
    if not is_installed("openvino"):
        findings.notes.append(how_to_install("openvino"))
    return findings


async def _measure_precision(on: Stage, precision: str, plan: Plan, findings: Findings) -> None:
    count = plan.share(PART)
    callers = await on.contender("callers", OURS, "bench.contenders.callers")
    flags = ("--models", str(VISION_BUNDLE.parent.parent), "--precision", precision)
    async with running_server(*flags) as server, on.with_process(SERVER, server.pid):
        turns = {SERVER: partial(_through_grpc, on, callers, server, count)}
        for engine in _engines(precision):
            contender = await on.contender(engine.name, engine.python, engine.module)
            rates = await _tune(on, contender, engine, max(4, plan.num_tuning // 8))
            best = max(rates, key=lambda setting: rates[setting])
            await contender.ask("load", **engine.loads, threads=best.threads)
            turns[engine.name] = partial(_directly, on, contender, best, count)
            findings.notes.append(f"{engine.name}, pictures/s: {_grid(rates)}")
        await _compare_labels(turns, findings)
        figures = await alternate(turns, plan.num_rounds)
    ours = figures.pop(SERVER)
    for name, theirs in figures.items():
        findings.comparisons.append(
            Comparison(
                section="vision",
                case=f"ViT-B/16, {NUM_CALLERS} callers, {precision}",
                unit="pictures/s",
                ours=[one.figure for one in ours],
                peer=name,
                theirs=[one.figure for one in theirs],
                target=TARGET if name.startswith(SESSION) else None,
            )
        )


async def _compare_labels(
    turns: Mapping[str, Callable[[], Awaitable[Turnout]]], findings: Findings
) -> None:
    """Everybody's labels beside the server's. Raises DifferentAnswers for the bare session's.

    It runs the same graph, whose answers depend on no batch. Random weights hardly prefer a label
    to the next: of the others' arithmetic a few may be other ones.
    """
    labels = {name: (await turn()).labels for name, turn in turns.items()}
    ours = labels.pop(SERVER)
    for name, theirs in labels.items():
        same = sum(a == b for a, b in zip(ours, theirs, strict=True))
        findings.notes.append(f"{name}: {same} of {len(ours)} labels as the server's")
        if name.startswith(SESSION) and same < len(ours):
            raise DifferentAnswers(findings.notes[-1])


def _engines(precision: str) -> list[Engine]:
    """Those that are installed; PyTorch has no int8 of these weights and is measured in fp32."""
    graph = {"graph": str(VISION_BUNDLE / precision / "classifier.onnx")}
    exact = {"graph": str(VISION_BUNDLE / "fp32" / "classifier.onnx")}
    engines = [
        Engine(f"{SESSION}, {precision}", "bench.contenders.onnx_session", OURS, graph, True),
        Engine("PyTorch, fp32", "bench.contenders.pytorch", OURS, {"bundle": str(VISION_BUNDLE)}),
    ]
    if is_installed("openvino"):
        python = python_of("openvino")
        engines.append(Engine("OpenVINO, fp32", "bench.contenders.ov", python, exact))
    return engines


async def _tune(
    on: Stage, contender: Contender, engine: Engine, count: int
) -> dict[Setting, float]:
    """Pictures per second by setting."""
    cores = num_cores()
    rates = {}
    for num_callers, threads in [(1, cores), (cores, 1)] if engine.is_shared else [(1, cores)]:
        await contender.ask("load", **engine.loads, threads=threads)
        for batch_size in BATCH_SIZES:
            setting = Setting(num_callers, threads, batch_size)
            rates[setting] = (await _directly(on, contender, setting, count)).figure.value
    return rates


def _grid(rates: Mapping[Setting, float]) -> str:
    tried = ", ".join(f"{setting}: {rate:.1f}" for setting, rate in rates.items())
    return f"{tried} (callers x threads x batch size)"


async def _directly(on: Stage, contender: Contender, setting: Setting, count: int) -> Turnout:
    async with on.only(contender.name):
        reply = await contender.ask(
            "classify",
            pictures=str(PICTURES / "pixel_values.npy"),
            batch_size=setting.batch_size,
            num_callers=setting.num_callers,
            count=count,
        )
    figure = Figure(count / reply["seconds"], reply["cpu_seconds"] / count)
    return Turnout(figure, reply["labels"])


async def _through_grpc(
    on: Stage, callers: Contender, server: RunningServer, count: int
) -> Turnout:
    paths = list(map(str, islice(cycle(sorted(PICTURES.glob("*.jpg"))), count)))
    async with on.only(SERVER, callers.name):
        begun = server.cpu_seconds()
        reply = await callers.ask(
            "classify", target=server.target, pictures=paths, num_callers=NUM_CALLERS
        )
        cpu_seconds = server.cpu_seconds() - begun + reply["cpu_seconds"]
    return Turnout(Figure(count / reply["seconds"], cpu_seconds / count), reply["labels"])
