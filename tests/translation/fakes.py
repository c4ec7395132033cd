"""A runner with scripted logits, and workers that are driven by hand, one turn at a time."""

import zlib
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.metrics import Metrics
from service.translation.measures import TranslationMeasures
from service.translation.options import DecodingOptions
from service.translation.processors import TokenRules
from service.translation.rows import RowTable
from service.translation.scheduler import Scheduler
from service.translation.selection import Floats, Ints, log_sum_exp
from service.translation.sequence import Sequence
from service.translation.worker import DecodeWorker, StepResults, StepRunner
from tests.losses import NO_MEMORY

MODEL = "fake/1"
EOS = 2
START = 0
RULES = TokenRules(eos=EOS, decoder_start=START)

# From the source and the target so far, the start token first, to logits (V,).
Script = Callable[[tuple[int, ...], tuple[int, ...]], NDArray[np.float32]]


def random_script(vocab_size: int, *, eos_boost: float = 0.0, seed: int = 0) -> Script:
    """Logits that depend on everything so far, and on nothing else; the start token has none."""
    known: dict[tuple[tuple[int, ...], tuple[int, ...]], NDArray[np.float32]] = {}

    def script(source: tuple[int, ...], target: tuple[int, ...]) -> NDArray[np.float32]:
        if (source, target) not in known:
            state = zlib.crc32(repr((seed, source, target)).encode())
            logits = np.random.default_rng(state).normal(0, 2, vocab_size).astype(np.float32)
            logits[START] = -np.inf
            logits[EOS] += eos_boost
            known[source, target] = logits
        return known[source, target]

    return script


@dataclass
class FreeRows:
    """Room for so many rows."""

    num_free: int

    def admits(self, sequence: Sequence) -> bool:
        if sequence.beam_size > self.num_free:
            return False
        self.num_free -= sequence.beam_size
        return True


class FakeRunner:
    """A model whose logits are scripted from what the caches of a row hold, not from the table.

    So a search that copies or moves a row wrongly is found out.
    """

    def __init__(self, script: Script, *, max_rows: int = 64, max_target_tokens: int = 64) -> None:
        self.table = RowTable(max_rows, max_target_tokens)
        self.num_steps = 0
        self.alone = False
        self.steps_parts = True
        self.failing_steps: set[int] = set()
        self.rows_in_memory = max_rows
        self.dying_steps: set[int] = set()  # before which the worker's thread dies
        self.failing_sources: set[tuple[int, ...]] = set()  # to encode
        self.starving: set[tuple[int, ...]] = set()  # with which no others fit into the memory
        self.poison: set[tuple[int, ...]] = set()  # sources whose rows no step can be run with
        self.loss = ""  # what every use of a lost device says
        self.lost_at_step = 0
        self.before_step: Callable[[], object] = lambda: None
        self._script = script
        self._sources: list[tuple[int, ...]] = [()] * max_rows
        self._targets = np.full((max_rows, max_target_tokens), -1)  # (R, T)
        self._step_logits = np.zeros((max_rows, 1), np.float32)  # (R, V) once V is known

    def room(self) -> "FreeRows":
        return FreeRows(self.table.num_free)

    @property
    def num_rows_next(self) -> int:
        if self.table.num_rows and self.num_steps + 1 in self.dying_steps:
            self.dying_steps.remove(self.num_steps + 1)
            self.num_steps += 1
            raise RuntimeError("a bug between two steps")
        return self.table.capacity

    def admit(self, sequences: SequenceOf[Sequence]) -> int:
        self._use_device()
        for sequence in sequences:
            source = tuple(sequence.source_ids.tolist())
            if source in self.failing_sources:
                raise RuntimeError("this source cannot be encoded")
            if source in self.starving:
                self._lack(source)
            for row in sequence.rows:
                self._sources[row] = source
                self._targets[row] = -1
        return 0

    def step(self, rows: range | None = None) -> NDArray[np.float32]:
        self.before_step()
        self.num_steps += 1
        self._use_device()
        if self.num_steps in self.failing_steps:
            raise RuntimeError("this step fails")
        num_rows = self.table.num_rows
        rows = rows or range(num_rows)
        if len(rows) > self.rows_in_memory:
            raise RuntimeError(NO_MEMORY)
        for source in self.starving & {self._sources[row] for row in rows}:
            self._lack(source)
        if self.poison & {self._sources[row] for row in rows}:
            raise RuntimeError("this row cannot be decoded")
        for row in rows:
            logits = self._logits(row)  # (V,)
            self._step_logits = np.resize(self._step_logits, (self.table.capacity, len(logits)))
            self._step_logits[row] = logits
        return self._step_logits[:num_rows]

    def _lack(self, source: tuple[int, ...]) -> None:
        sources = {tuple(one.source_ids.tolist()) for one in self.table.owners if one is not None}
        if sources != {source}:
            raise RuntimeError(NO_MEMORY)

    def _use_device(self) -> None:
        if self.lost_at_step and self.num_steps >= self.lost_at_step:
            raise RuntimeError(self.loss)

    def best_tokens(self, rows: NDArray[np.int64], count: int) -> tuple[Floats, Ints]:
        chosen = self._step_logits[rows]
        scores = chosen - log_sum_exp(chosen)[:, None]
        tokens = np.argsort(-scores, axis=1, kind="stable")[:, :count]
        return np.take_along_axis(scores, tokens, axis=1), tokens

    def copy_rows(self, sources: Ints, targets: Ints, lengths: Ints) -> None:
        for source, target, length in zip(sources, targets, lengths, strict=True):
            assert self._sources[source] == self._sources[target]
            self._targets[target, :length] = self._targets[source, :length]

    def move_row(self, source: int, target: int) -> None:
        self._sources[target] = self._sources[source]
        self._targets[target] = self._targets[source]

    def _logits(self, row: int) -> NDArray[np.float32]:
        length = self.table.lengths[row]
        self._targets[row, length] = self.table.tokens[row, 0]
        return self._script(self._sources[row], tuple(self._targets[row, : length + 1].tolist()))


@dataclass(eq=False)
class Listener:
    """Who waits for a sequence, and what it was told."""

    finished: list[Sequence] = field(default_factory=list)
    extended: list[list[int]] = field(default_factory=list)

    def finish(self, sequence: Sequence) -> None:
        self.finished.append(sequence)

    def extend(self, sequence: Sequence, token_ids: list[int]) -> None:
        self.extended.append(token_ids)
        sequence.quiet_until = 0.0


def make_sequence(
    source: SequenceOf[int] = (5, EOS),
    options: DecodingOptions | None = None,
    *,
    streamed: bool = False,
    **given: Any,
) -> Sequence:
    """A sequence that asks for its score, unless given other options."""
    return Sequence(
        source_ids=np.array(source, np.int64),
        options=options or DecodingOptions(**{"return_scores": True, **given}),
        receiver=Listener(),
        streamed=streamed,
    )


class Bench:
    """Decode workers without threads: whoever holds it says when each takes its next turn."""

    def __init__(
        self,
        *runners: StepRunner,
        rules: TokenRules = RULES,
        encode_tokens_per_step: int = 1 << 20,
    ) -> None:
        self.metrics = Metrics.create()
        self.measures = TranslationMeasures(self.metrics, MODEL)
        self.scheduler = Scheduler(
            num_workers=len(runners), encode_tokens_per_step=encode_tokens_per_step
        )
        self.workers = [
            DecodeWorker(runner, self.scheduler, rules, self.measures, self.receive)
            for runner in runners
        ]
        self.finished: list[Sequence] = []

    def add(self, *sequences: Sequence) -> None:
        """Let sequences wait."""
        self.measures.queued(len(sequences))
        self.scheduler.add(sequences)

    def turn(self, worker: int = 0) -> StepResults:
        """One turn of a worker, unless it would block."""
        if self.workers[worker].is_idle:
            return StepResults()
        results = self.workers[worker].turn()
        self.receive(results)
        return results

    def run(self, *sequences: Sequence) -> None:
        """Decode these, and whatever else there is, to the end."""
        self.add(*sequences)
        while not all(worker.is_idle for worker in self.workers):
            for number in range(len(self.workers)):
                self.turn(number)

    def receive(self, results: StepResults) -> None:
        """Tell those who wait, as the engine does on its loop."""
        for sequence, token_ids in results.extended:
            if not sequence.is_cancelled:
                sequence.receiver.extend(sequence, token_ids)
        for sequence in results.finished:
            if not sequence.is_cancelled:
                sequence.receiver.finish(sequence)
        self.finished += results.finished


Outcome = list[tuple[list[int], str, str]]


def outcome(sequence: Sequence) -> Outcome:
    """All there is to compare: token ids, finish reason and the bits of the score, best first."""
    return [
        (found.token_ids, found.finish_reason.value, float(found.score).hex())
        for found in sequence.finished[: sequence.options.num_hypotheses]
    ]


def reading(metrics: Metrics, name: str, model: str = MODEL, **labels: str) -> float:
    """The present value of a sample; 0 if it has none."""
    return metrics.registry.get_sample_value(name, {"model": model, **labels}) or 0.0
