"""Everything known at once, against Hugging Face `generate` of the same weights in float32."""

from functools import partial
from itertools import product
from typing import NamedTuple

from bench.answers import SAME_IN_FP32
from bench.comparison import Comparison, Findings, Target
from bench.contender import OURS, Contender, Stage, stage
from bench.models import MODELS, BenchModel, prepare
from bench.sections.offline import translate_rate
from bench.sections.pairs import BEAM_SIZES, Options, compare_answers
from bench.sections.plan import Plan
from bench.sentences import encode, repeat
from bench.statistics import alternate
from bench.translators import Sources, num_cores, our_translator, search_options

PEER = "Hugging Face generate"
TARGET = Target(5.0, 7.0)
BATCH_SIZES = (16, 32, 64)
PART = 4  # of a round's sentences: generate takes so many times longer


class Setting(NamedTuple):
    """How `generate` is called."""

    num_threads: int
    batch_size: int

    def __str__(self) -> str:
        return f"{self.batch_size} a batch on {self.num_threads} threads"


async def measure(plan: Plan) -> Findings:
    """Our int8, which a CPU is served with, against the fp32 that generate has."""
    findings = Findings()
    for model in plan.models:
        prepare(model)
        async with stage() as on:
            await _measure_model(on, model, plan, findings)
            findings.notes.append(f"{model.title}: {on.disturbance()}")
    return findings


async def _measure_model(on: Stage, model: BenchModel, plan: Plan, findings: Findings) -> None:
    sources = encode(model, repeat(plan.sentences.timed, plan.share(PART)))
    tuning = encode(model, repeat(plan.sentences.tuning, max(1, plan.num_tuning // PART)))
    exact = await our_translator(on, model, "fp32")
    ours = await our_translator(on, model, "int8")
    theirs = await on.contender(PEER, OURS, "bench.contenders.huggingface")
    await theirs.ask("load", bundle=str(model.bundle))
    for search, beam_size in BEAM_SIZES.items():
        case = f"{model.title}, {search}"
        options = search_options(model, beam_size)
        rates = await _tune(on, theirs, tuning, options)
        await _use(theirs, max(rates, key=lambda setting: rates[setting]))
        agreement = await compare_answers(on, (exact, theirs), sources, options)
        agreement.require(SAME_IN_FP32)
        turns = {
            one.name: partial(translate_rate, on, one, sources, options) for one in (ours, theirs)
        }
        figures = await alternate(turns, plan.num_rounds)
        findings.comparisons.append(
            Comparison(
                section="huggingface",
                case=f"{case}, int8 against fp32",
                unit="sentences/s",
                ours=figures[ours.name],
                peer=PEER,
                theirs=figures[theirs.name],
                target=TARGET if model in MODELS else None,
            )
        )
        tried = ", ".join(f"{setting}: {rate:.1f}" for setting, rate in rates.items())
        findings.notes.append(f"{PEER}, {case}, sentences/s: {tried}")
        findings.notes.append(f"{case}, both in fp32: {agreement}")


async def _tune(
    on: Stage, theirs: Contender, sources: Sources, options: Options
) -> dict[Setting, float]:
    """Sentences per second by setting."""
    rates: dict[Setting, float] = {}
    for num_threads, batch_size in product(sorted({1, num_cores()}), BATCH_SIZES):
        setting = Setting(num_threads, batch_size)
        await _use(theirs, setting)
        rates[setting] = (await translate_rate(on, theirs, sources, options)).value
    return rates


async def _use(theirs: Contender, setting: Setting) -> None:
    await theirs.ask("use", batch_size=setting.batch_size, num_threads=setting.num_threads)
