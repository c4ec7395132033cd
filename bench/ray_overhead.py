"""What Ray Serve costs: the same calls to our server, and to one replica behind Ray Serve's proxy.

    python -m bench.ray_overhead [--models default,base] [--rounds 5] [--units 2000] [--record]

Both run all the time, on this machine, with the same settings, and take turns; Ray's own processes
take a little of the cores meanwhile. The lower the cost of a translation, the more Ray's shows.
"""

import argparse
import asyncio
import datetime
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from attendant import AsyncClient, AttendantError
from bench.comparison import Comparison, Figure, Findings
from bench.load import Run, run_callers
from bench.machine import machine
from bench.models import BASE, DEFAULT, SENTENCES, BenchModel, prepare
from bench.processes import cpu_seconds_of_tree, kill_tree
from bench.record import RESULTS, put_between_marks
from bench.sentences import repeat
from bench.server import ROOT, running_server
from bench.statistics import alternate

OURS, RAY = "our server", "behind Ray Serve"
START_SECONDS = 120
TIMEOUT_SECONDS = 600.0  # a slow machine is measured too
# Callers, and sentences a call.
LOADS = ((1, 1), (64, 1), (8, 32))
MODELS = {"default": DEFAULT, "base": BASE}


def main() -> None:
    """Measure, print, and keep if asked to."""
    chosen = _parser().parse_args()
    models = [MODELS[name] for name in chosen.models.split(",")]
    comparisons = asyncio.run(_measure(models, chosen.rounds, chosen.units))
    command = f"python -m bench.ray_overhead {' '.join(sys.argv[1:])}".strip()
    text = (
        f"{datetime.date.today()}, {machine()}\n\n`{command}`\n\n{Findings(comparisons).text()}\n"
    )
    print(text)
    if chosen.record:
        RESULTS.write_text(put_between_marks(RESULTS.read_text(), "ray", text))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.ray_overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", default="default", help=", ".join(MODELS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--units", type=int, default=2000, help="sentences a round")
    parser.add_argument("--record", action="store_true", help="keep it in bench/RESULTS.md")
    return parser


async def _measure(models: Sequence[BenchModel], rounds: int, units: int) -> list[Comparison]:
    comparisons = []
    for model in models:
        prepare(model)
        folder = model.models_folder
        async with running_server("--models", str(folder)) as ours, ray_server(folder) as ray:
            servers = {
                OURS: (ours.target, ours.cpu_seconds),
                RAY: (ray[0], partial(cpu_seconds_of_tree, ray[1])),
            }
            for callers, contents in LOADS:
                runs = await _alternate(servers, model, callers, contents, rounds, units)
                comparisons += _compare(f"{model.title}, {_case(callers, contents)}", runs)
    return comparisons


@asynccontextmanager
async def ray_server(models: Path) -> AsyncIterator[tuple[str, int]]:
    """Ray on this machine with one replica: where its proxy listens, and the process above all."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "serve.yaml"
        settings = _config(models)
        config.write_text(yaml.safe_dump(settings))
        with (Path(folder) / "log").open("w") as log:
            process = await asyncio.create_subprocess_exec(
                *(str(Path(sys.executable).parent / "serve"), "run", str(config)),
                cwd=ROOT,
                env=os.environ
                | {
                    "PYTHONPATH": str(ROOT),
                    "RAY_USAGE_STATS_ENABLED": "0",
                    "RAY_TMPDIR": folder,
                },
                stdout=log,
                stderr=log,
            )
        try:
            target = f"localhost:{settings['grpc_options']['port']}"
            async with asyncio.timeout(START_SECONDS), AsyncClient(target) as client:
                while not await _serves(client):
                    await asyncio.sleep(0.2)
            yield target, process.pid
        finally:
            kill_tree(process.pid)
            await process.wait()


def _config(models: Path) -> dict[str, Any]:
    """That of deploy/ray, with one replica, which has the whole machine as our server does."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "deploy/ray/serve.yaml").read_text())
    [application] = config["applications"]
    application["args"]["models"] = str(models)
    [deployment] = application["deployments"]
    deployment["ray_actor_options"]["num_cpus"] = 1
    deployment["autoscaling_config"] |= {"min_replicas": 1, "max_replicas": 1}
    return config


async def _serves(client: AsyncClient) -> bool:
    try:
        return await client.health() == "SERVING"
    except AttendantError:
        return False


async def _alternate(
    servers: Mapping[str, tuple[str, Callable[[], float]]],
    model: BenchModel,
    callers: int,
    contents: int,
    rounds: int,
    units: int,
) -> dict[str, list[Run]]:
    texts = repeat(SENTENCES.read_text(encoding="utf-8").splitlines(), max(units, callers))
    if callers == 1:
        texts = texts[: max(units // 10, 1)]
    batches = [texts[at : at + contents] for at in range(0, len(texts), contents)]

    async def run(target: str, cpu_seconds: Callable[[], float]) -> Run:
        async with AsyncClient(target, timeout_seconds=TIMEOUT_SECONDS) as client:
            call = partial(_translate, client, model)
            return await run_callers(call, batches, callers, cpu_seconds)

    turns: dict[str, Callable[[], Awaitable[Run]]] = {
        name: partial(run, *server) for name, server in servers.items()
    }
    return await alternate(turns, rounds)


async def _translate(client: AsyncClient, model: BenchModel, texts: Sequence[Any]) -> int:
    translations = await client.translate(
        list(texts),
        beam_size=1,
        min_target_tokens=model.min_tokens,
        max_target_tokens=model.max_tokens,
    )
    return sum(one.best.target_tokens for one in translations)


def _case(callers: int, contents: int) -> str:
    who = "one caller" if callers == 1 else f"{callers} callers"
    return f"{who}, {'a sentence' if contents == 1 else f'{contents} sentences'} a call"


def _compare(case: str, runs: Mapping[str, Sequence[Run]]) -> list[Comparison]:
    def figures(name: str, of: Callable[[Run], float]) -> list[Figure]:
        return [Figure(of(run), run.server_cpu_seconds / run.num_units) for run in runs[name]]

    return [
        Comparison(
            "ray", case, unit, figures(OURS, of), RAY, figures(RAY, of), divide="theirs by ours"
        )
        for unit, of in (
            ("sentences/s", lambda run: run.units_per_second),
            ("p50 of a call, ms", lambda run: run.percentile(0.5) * 1e3),
        )
    ]


if __name__ == "__main__":
    main()
