"""What offline and alone share: every model, precision and search, ours beside CTranslate2."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Literal

from bench.answers import SAME_IN_FP32, Agreement
from bench.comparison import Comparison, Figure, Findings, Target
from bench.contender import Contender, Stage, stage
from bench.grid import Trial, best_of, grid_table
from bench.models import BenchModel, prepare
from bench.sections.plan import Plan
from bench.sentences import encode, repeat
from bench.statistics import alternate
from bench.translators import CTranslate2, Sources, our_translator, search_options

PEER = "CTranslate2"
BEAM_SIZES = {"greedy": 1, "beam 4": 4}

Options = dict[str, int]
Tune = Callable[[CTranslate2, Sources, Options], Awaitable[list[Trial]]]
Turn = Callable[[Stage, Contender, Sources, Options], Awaitable[Figure]]


@dataclass(frozen=True, slots=True)
class Race:
    """How one section compares, told apart from what it compares."""

    section: str
    unit: str
    tune: Tune
    turn: Turn  # of one contender in one round
    targets: Mapping[tuple[str, str], Target]  # int8, by model and search
    divide: Literal["ours by theirs", "theirs by ours"] = "ours by theirs"


async def run_race(race: Race, plan: Plan, num_units: int, num_tuning: int) -> Findings:
    """All models and precisions, greedy and beam 4."""
    findings = Findings()
    for model, precision in product(plan.models, plan.precisions):
        prepare(model)
        sources = encode(model, repeat(plan.sentences.timed, num_units))
        tuning = encode(model, repeat(plan.sentences.tuning, num_tuning))
        async with stage() as on:
            ours = await our_translator(on, model, precision)
            pair = Pair(on, ours, CTranslate2(on, model, precision), model, precision)
            for search in BEAM_SIZES:
                trials = await pair.tune(race, search, tuning)
                findings.notes.append(grid_table(f"{PEER}, {pair.case(search)}", trials))
                theirs = await pair.peer.use(best_of(trials).threads, best_of(trials).batch)
                agreement = await pair.compare(theirs, search, sources)
                findings.notes.append(f"{pair.case(search)}: {agreement}")
                comparison = await pair.run(race, theirs, search, sources, plan.num_rounds)
                findings.comparisons.append(comparison)
            findings.notes.append(f"{model.title}, {precision}: {on.disturbance()}")
    return findings


@dataclass(frozen=True, slots=True)
class Pair:
    """Ours and CTranslate2, with one model in one precision."""

    on: Stage
    ours: Contender
    peer: CTranslate2
    model: BenchModel
    precision: str

    def case(self, search: str) -> str:
        """What is compared, in words."""
        return f"{self.model.title}, {search}, {self.precision}"

    async def tune(self, race: Race, search: str, sources: Sources) -> list[Trial]:
        """The peer's grid, sentences per second."""
        return await race.tune(self.peer, sources, self._options(search))

    async def compare(self, theirs: Contender, search: str, sources: Sources) -> Agreement:
        """The answers of both. Raises DifferentAnswers if they should be the same and are not."""
        both = (self.ours, theirs)
        agreement = await compare_answers(self.on, both, sources, self._options(search))
        if self.precision == "fp32":
            agreement.require(SAME_IN_FP32)
        return agreement

    async def run(
        self, race: Race, theirs: Contender, search: str, sources: Sources, num_rounds: int
    ) -> Comparison:
        """Rounds that take turns."""
        options = self._options(search)
        turns = {
            one.name: partial(race.turn, self.on, one, sources, options)
            for one in (self.ours, theirs)
        }
        figures = await alternate(turns, num_rounds)
        is_aimed_at = self.precision == "int8"
        return Comparison(
            section=race.section,
            case=self.case(search),
            unit=race.unit,
            ours=figures[self.ours.name],
            peer=PEER,
            theirs=figures[theirs.name],
            target=race.targets.get((self.model.name, search)) if is_aimed_at else None,
            divide=race.divide,
        )

    def _options(self, search: str) -> Options:
        return search_options(self.model, BEAM_SIZES[search])


async def compare_answers(
    on: Stage, both: Sequence[Contender], sources: Sources, options: Options
) -> Agreement:
    """Both translate all sources at once; this warms them up, too."""
    ids = []
    for contender in both:
        async with on.only(contender.name):
            ids.append((await contender.ask("translate", sources=sources, **options))["ids"])
    return Agreement.of(*ids)
