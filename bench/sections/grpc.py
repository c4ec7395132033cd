"""What gRPC costs: 32 contents a call through it, against the engine called directly."""

from collections.abc import Sequence
from functools import partial

from bench.comparison import Comparison, Figure, Findings, Target
from bench.contender import OURS, Contender, Stage, stage
from bench.models import DEFAULT
from bench.sections.pairs import BEAM_SIZES
from bench.sections.plan import Plan
from bench.sentences import repeat
from bench.server import RunningServer
from bench.servers import Callers, our_server
from bench.statistics import alternate
from bench.traffic import Request, request

NUM_CALLERS = 8
CONTENTS = 32  # a call
TARGET = Target(0.93, 0.97)
ENGINE, SERVER = "engine", "our server"


async def measure(plan: Plan) -> Findings:
    """Sentences per second, text to text."""
    num_calls = max(plan.num_units // CONTENTS, 2 * NUM_CALLERS)
    texts = repeat(plan.sentences.timed, num_calls * CONTENTS)
    findings = Findings()
    async with stage() as on:
        callers = await Callers.start(on)
        engine = await on.contender(ENGINE, OURS, "bench.contenders.engine")
        await engine.ask("load", bundle=str(DEFAULT.bundle), precision="int8")
        async with our_server(on, DEFAULT) as server:
            for search, beam_size in BEAM_SIZES.items():
                requests = [
                    request(DEFAULT, texts[at : at + CONTENTS], beam_size)
                    for at in range(0, len(texts), CONTENTS)
                ]
                turns = {
                    SERVER: partial(_through_grpc, callers, server, requests),
                    ENGINE: partial(_directly, on, engine, requests),
                }
                figures = await alternate(turns, plan.num_rounds)
                findings.comparisons.append(
                    Comparison(
                        section="grpc",
                        case=f"{DEFAULT.title}, {search}, {CONTENTS} contents a call, int8",
                        unit="sentences/s",
                        ours=figures[SERVER],
                        peer="engine called directly",
                        theirs=figures[ENGINE],
                        target=TARGET,
                    )
                )
    findings.notes.append(f"{NUM_CALLERS} callers; {on.disturbance()}")
    return findings


async def _through_grpc(
    callers: Callers, server: RunningServer, requests: Sequence[Request]
) -> Figure:
    reply = await callers.closed(SERVER, server, requests, NUM_CALLERS)
    num_units = len(requests) * CONTENTS
    cpu_seconds = reply["server_cpu_seconds"] + reply["cpu_seconds"]
    return Figure(num_units / reply["seconds"], cpu_seconds / num_units)


async def _directly(on: Stage, engine: Contender, requests: Sequence[Request]) -> Figure:
    async with on.only(ENGINE):
        reply = await engine.ask("closed", requests=requests, num_callers=NUM_CALLERS)
    num_units = len(requests) * CONTENTS
    return Figure(num_units / reply["seconds"], reply["cpu_seconds"] / num_units)
