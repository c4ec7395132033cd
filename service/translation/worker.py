"""A decode worker: one thread that owns its rows entirely and runs step after step over them.

Between two steps sequences leave that are done or cancelled, and others join: in-flight batching
(Yu et al. 2022, "Orca"). The event loop hears of all of a step's results at once, and only of
results.
"""

import logging
import math
import sys
import threading
import time
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from service.cores import compute_for_long
from service.errors import AttendantError, InternalError, NoMemory
from service.faults import (
    DeviceLost,
    Failures,
    is_out_of_memory,
    raise_if_device_lost,
    run_by_halves,
)
from service.translation.measures import TranslationMeasures
from service.translation.processors import TokenRules
from service.translation.rows import RowTable
from service.translation.scheduler import Room, Scheduler
from service.translation.search import Search
from service.translation.selection import Floats, Ints
from service.translation.sequence import Sequence

logger = logging.getLogger(__name__)

# How long another thread may keep the interpreter from a worker that is back from a step: 1.5 ms of
# work take 6.9 ms while the event loop is busy, at Python's own 5 ms; 1.9 ms with this.
SWITCH_INTERVAL_SECONDS = 0.0002

MAX_RESTARTS = 1  # of a decode thread that a bug has ended


class StepRunner(Protocol):
    """What a worker needs of a runner; see `Runner`."""

    table: RowTable
    alone: bool  # set before each turn: no other worker of the model computes
    steps_parts: bool  # whether a step may be run for some of the rows

    def room(self) -> Room:
        """For the sequences that may join now."""

    @property
    def num_rows_next(self) -> int:
        """How many rows fit in the next step."""

    def admit(self, sequences: SequenceOf[Sequence]) -> int:
        """Encode sequences into their rows; returns the padding encoded."""

    def step(self, rows: range | None = None) -> Floats:
        """Logits (R, V) of all running rows; of others than `rows`, if given, as they were."""

    def best_tokens(self, rows: Ints, count: int) -> tuple[Floats, Ints]:
        """The most probable tokens of these rows after the last step."""

    def copy_rows(self, sources: Ints, targets: Ints, lengths: Ints) -> None:
        """Copy the self-attention caches of rows."""

    def move_row(self, source: int, target: int) -> None:
        """Move all caches of a row."""


@dataclass(slots=True)
class LimitedRoom:
    """Another room, up to a number of rows; a sequence is never kept out of an empty worker."""

    room: Room
    num_rows: int
    is_empty: bool

    def admits(self, sequence: Sequence) -> bool:
        """Whether this sequence fits too; its room is then taken."""
        fits = self.is_empty or sequence.beam_size <= self.num_rows
        if not fits or not self.room.admits(sequence):
            return False
        self.num_rows -= sequence.beam_size
        self.is_empty = False
        return True


@dataclass(slots=True)
class StepResults:
    """What the event loop has to hear of after a step."""

    finished: list[Sequence] = field(default_factory=list)
    extended: list[tuple[Sequence, list[int]]] = field(
        default_factory=list
    )  # streams: stable tokens
    # The last results of a worker whose device was lost, which say how; and those who ran on it.
    device_loss: str = ""
    handed_back: list[Sequence] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.finished or self.extended)


class DecodeWorker:
    """Decodes what the scheduler gives it until the scheduler closes."""

    def __init__(
        self,
        runner: StepRunner,
        scheduler: Scheduler,
        rules: TokenRules,
        measures: TranslationMeasures,
        deliver: Callable[[StepResults], None],
        on_death: Callable[[], None] = lambda: None,
    ) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self._rules = rules
        self._search = Search(runner.table, rules, runner)
        self._measures = measures
        self._deliver = deliver
        self._running: list[Sequence] = []
        # A lack of memory halves it, and who is done adds a row: between two that set everybody
        # back somebody has been answered.
        self._row_budget = runner.table.capacity
        self._suspects: list[Sequence] = []  # one of them makes the search fail
        self._on_death = on_death
        self.num_deaths = 0
        self._results = StepResults()  # of the turn that runs
        self._thread = self._new_thread()

    def start(self) -> None:
        """Begin to decode."""
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_INTERVAL_SECONDS))
        self._thread.start()

    def join(self) -> None:
        """Wait for the end, after the scheduler was closed."""
        while (thread := self._thread).is_alive() or thread is not self._thread:
            thread.join()

    @property
    def is_dead(self) -> bool:
        """Whether its thread has died once more than it is started again."""
        return self.num_deaths > MAX_RESTARTS

    def turn(self) -> StepResults:
        """Let sequences leave and join, then run one step; blocks while there is none to run."""
        results = self._results = StepResults()
        self._drop_cancelled(results)
        self._admit(results)
        self._make_room()
        self._runner.table.close_gaps(self._runner)
        if self._running:
            self._step(results)
        return results

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return not self._running and not self._scheduler.num_waiting

    @property
    def _num_rows(self) -> int:
        return self._runner.table.capacity - self._runner.table.num_free

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._run, name="decode", daemon=True)

    def _run(self) -> None:
        compute_for_long()
        try:
            while not (self._scheduler.is_closed and self.is_idle):
                if results := self._turn_or_loss():
                    self._deliver(results)
        except DeviceLost as error:
            self._hand_back(str(error))
        except Exception:
            logger.critical("a decode thread has died", exc_info=True)
            self._die()

    def _turn_or_loss(self) -> StepResults:
        """A turn; its error, whatever it did then, is DeviceLost where the device is gone."""
        try:
            return self.turn()
        except Exception as error:
            raise_if_device_lost(error)
            raise

    def _hand_back(self, loss: str) -> None:
        """The device is gone: its thread ends, and those who ran begin anew elsewhere."""
        results = self._results  # what the turn had found out before is told all the same
        results.device_loss = loss
        results.handed_back, self._running = self._running, []
        for sequence in results.handed_back:
            self._measures.set_back(sequence, self._runner.table, "device")
            sequence.restart()
        self._runner.table.clear()
        self._deliver(results)

    def _die(self) -> None:
        """Those who run end with an error; what is left begins anew in another thread, once."""
        self.num_deaths += 1
        results = self._results  # what the turn had found out before is told all the same
        running, self._running = self._running, []
        self._measures.died(running, self._runner.table)
        self._runner.table.clear()
        for sequence in running:
            sequence.error = InternalError()
        results.finished += running
        self._deliver(results)
        self._on_death()  # before the next thread answers anybody
        if not self.is_dead:
            thread = self._new_thread()
            thread.start()
            self._thread = thread  # not before it runs: `join` takes one that does not for ended

    def _admit(self, results: StepResults) -> None:
        block = not (self._running or results)
        self._runner.alone = self._scheduler.others_idle
        if not block and not self._scheduler.num_waiting:
            return
        room = LimitedRoom(
            self._runner.room(), self._row_budget - self._num_rows, not self._num_rows
        )
        taken = self._scheduler.take(room, num_running=self._num_rows, block=block)
        self._runner.alone = self._scheduler.others_idle
        self._measures.queued(-len(taken))
        now = time.monotonic()
        joining: list[Sequence] = []
        for sequence in taken:
            if sequence.is_cancelled:
                self._measures.left_the_queue(1, sequence.cancel_reason)
                results.finished.append(sequence)
            else:
                joining.append(sequence)
        if not joining:
            return
        for sequence in joining:
            sequence.admitted_at = now
        self._running += joining  # from here on they are answered, whatever happens
        self._measures.joined(joining)
        for sequence in joining:
            rules = sequence.rules or self._rules
            self._runner.table.allocate(sequence, rules.decoder_start)
        # The caches may have room for as many rows as have owners, and for no more.
        self._runner.table.close_gaps(self._runner)
        for sequence in self._running:
            sequence.batch_rows = max(sequence.batch_rows, self._num_rows)
        self._encode(joining, results)

    def _encode(self, joining: SequenceOf[Sequence], results: StepResults) -> None:
        """Encode sequences that have their rows; who cannot be encoded ends with an error."""
        begun = time.monotonic()
        paddings: list[int] = []
        failures = run_by_halves(lambda some: paddings.append(self._runner.admit(some)), joining)
        if failures.errors:
            _log(f"an encoder run of {len(joining)} sequences", failures, len(joining))
            self._learn_of_memory(failures)
            self._starve(failures.starved, results)
            self._fail(failures.members, results)
        encode_seconds = time.monotonic() - begun
        encoded = [sequence for sequence in joining if sequence.rows]
        for sequence in encoded:
            sequence.encode_seconds = encode_seconds
        if encoded:
            self._measures.encoded(encoded, encode_seconds, sum(paddings))

    def _make_room(self) -> None:
        """Where targets have grown out of the memory, the last to join wait and begin anew.

        Their answers are the same then: nobody shares in them.
        """
        while self._num_rows > self._runner.num_rows_next or (
            self._num_rows > self._row_budget and len(self._running) > 1
        ):
            last = max(self._running, key=lambda sequence: sequence.admitted_at)
            self._set_back([last], "memory")

    def _set_back(self, sequences: list[Sequence], reason: Literal["error", "memory"]) -> None:
        """Let sequences that run wait again, and begin anew."""
        for sequence in sequences:
            self._measures.set_back(sequence, self._runner.table, reason)
            sequence.restart()
        self._release(sequences)
        self._scheduler.give_back(sorted(sequences, key=lambda one: one.arrived_at))

    def _step(self, results: StepResults) -> None:
        begun = time.monotonic()
        logits = self._logits(results)
        if logits is None:
            return
        num_rows = len(logits)
        self._choose_tokens(logits, results)
        now = time.monotonic()
        self._measures.stepped(now - begun, num_rows)
        for sequence in self._running:
            sequence.first_token_at = sequence.first_token_at or now
        done = [sequence for sequence in self._running if sequence.is_done]
        self._retire(done, results)
        self._row_budget = min(self._row_budget + len(done), self._runner.table.capacity)

    def _choose_tokens(self, logits: Floats, results: StepResults) -> None:
        """Give every row its next token.

        Where that fails nobody knows what it had changed before. So all begin anew, and until they
        have ended tokens are chosen for one sequence after the other: the culprit fails alone. A
        device that had no memory for it has no culprit.
        """
        self._suspects = [one for one in self._suspects if not one.has_ended]
        if self._suspects:
            for sequence in list(self._running):
                self._choose_tokens_of(sequence, logits, results)
            return
        try:
            self._search.advance(self._running, logits)
            results.extended += self._extended(self._running)
        except Exception as error:
            raise_if_device_lost(error)
            logger.exception("choosing tokens for %d sequences failed", len(self._running))
            if is_out_of_memory(error):
                self._lower_row_budget()
                self._starve(list(self._running), results)
                return
            self._suspects = list(self._running)
            self._set_back(self._suspects, "error")

    def _choose_tokens_of(self, sequence: Sequence, logits: Floats, results: StepResults) -> None:
        try:
            self._search.advance([sequence], logits)
            results.extended += self._extended([sequence])
        except Exception as error:
            raise_if_device_lost(error)
            logger.exception("choosing tokens for one sequence failed")
            if is_out_of_memory(error):
                self._starve([sequence], results)
            else:
                self._fail([sequence], results)

    def _logits(self, results: StepResults) -> Floats | None:
        """Those of one step, (R, V); sequences that make it fail end with an error.

        None where nobody is left.
        """
        table = self._runner.table
        logits: list[Floats] = []  # the same memory, once for each part of the rows

        def step(parts: SequenceOf[range]) -> None:
            logits.append(self._runner.step(range(parts[0].start, parts[-1].stop)))

        rows = range(table.num_rows)
        parts = [range(row, row + 1) for row in rows] if self._runner.steps_parts else [rows]
        failures = run_by_halves(step, parts)
        if not failures.errors:
            return logits[-1]
        _log(f"a decode step of {len(rows)} rows", failures, len(parts))
        self._learn_of_memory(failures)
        failed = self._owners(failures.members)
        starved = [one for one in self._owners(failures.starved) if one not in failed]
        if len(starved) == len(self._running) > 1:
            return None  # those over the row budget wait from the next turn on: it was halved
        self._starve(starved, results)
        self._fail(failed, results)
        return logits[-1] if self._running else None

    def _owners(self, parts: SequenceOf[range]) -> list[Sequence]:
        """Whose rows these are, each once."""
        owners = (self._runner.table.owners[row] for rows in parts for row in rows)
        return list(dict.fromkeys(owner for owner in owners if owner is not None))

    def _learn_of_memory(self, failures: Failures[Any]) -> None:
        if failures.lack_memory:
            self._lower_row_budget()

    def _lower_row_budget(self) -> None:
        num_rows = self._num_rows
        self._row_budget = max(1, num_rows // 2)
        logger.warning("no memory for %d rows; %d from now", num_rows, self._row_budget)

    def _starve(self, sequences: list[Sequence], results: StepResults) -> None:
        """There was no memory for these.

        They wait until there are fewer beside them, and end with an error where nobody is.
        """
        if len(self._running) > 1:
            self._set_back(sequences, "memory")
        else:
            self._fail(sequences, results, NoMemory("the server has no memory for this text now"))

    def _retire(self, done: list[Sequence], results: StepResults) -> None:
        if not done:
            return
        now = time.monotonic()
        for sequence in done:
            sequence.finished_at = now
            sequence.num_steps = int(self._runner.table.lengths[sequence.rows].max())
        self._measures.finished(done, self._runner.table)
        self._release(done)
        results.finished += done

    def _extended(self, sequences: SequenceOf[Sequence]) -> list[tuple[Sequence, list[int]]]:
        """The streamed ones that have more tokens that cannot change, and those tokens."""
        extended = []
        now = time.monotonic()
        for sequence in sequences:
            if sequence.streamed and not sequence.is_done and now >= sequence.quiet_until:
                stable = self._search.stable_tokens(sequence)
                if len(stable) > sequence.num_streamed:
                    sequence.num_streamed = len(stable)
                    sequence.quiet_until = math.inf
                    extended.append((sequence, stable))
        return extended

    def _drop_cancelled(self, results: StepResults) -> None:
        cancelled = [sequence for sequence in self._running if sequence.is_cancelled]
        if cancelled:
            self._measures.cancelled(cancelled, self._runner.table)
            self._release(cancelled)
            results.finished += cancelled

    def _fail(
        self,
        sequences: list[Sequence],
        results: StepResults,
        error: AttendantError | None = None,
    ) -> None:
        """These sequences end with an error, if none is given a bug's, and their rows are free."""
        if not sequences:
            return
        self._measures.failed(sequences, self._runner.table)
        self._release(sequences)
        for sequence in sequences:
            sequence.error = error or InternalError()
        results.finished += sequences

    def _release(self, sequences: list[Sequence]) -> None:
        self._runner.table.release(sequences)
        ended = set(map(id, sequences))
        self._running = [one for one in self._running if id(one) not in ended]
        if not self._running:
            self._runner.table.close_gaps(self._runner)


def _log(what: str, failures: Failures[Any], count: int) -> None:
    """One line, with one traceback, however many runs it took."""
    num_failed = len(failures.members) + len(failures.starved)
    logger.error(
        "%s failed, alone too for %d of %d parts",
        what,
        num_failed,
        count,
        exc_info=failures.errors[-1],
    )
