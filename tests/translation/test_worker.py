"""A worker's sequences come, go and fail without disturbing each other."""

import os

import pytest

from service import faults
from service.errors import InternalError, NoMemory
from service.translation.options import FinishReason
from service.translation.processors import TokenRules
from service.translation.sequence import Sequence
from tests.translation.fakes import (
    EOS,
    START,
    Bench,
    FakeRunner,
    Outcome,
    make_sequence,
    outcome,
    random_script,
    reading,
)

SCRIPT = random_script(40)
NUM_STEPS = 9


def three(beam_size: int) -> list[Sequence]:
    """Sequences that take nine steps each, or close to it."""
    return [
        make_sequence(
            (source, EOS),
            beam_size=beam_size,
            max_target_tokens=NUM_STEPS,
            min_target_tokens=NUM_STEPS,
        )
        for source in (11, 12, 13)
    ]


def alone(sequence: Sequence) -> Outcome:
    other = make_sequence(sequence.source_ids.tolist(), sequence.options)
    Bench(FakeRunner(SCRIPT)).run(other)
    return outcome(other)


def assert_at_rest(bench: Bench, *runners: FakeRunner) -> None:
    assert [runner.table.num_rows for runner in runners] == [0] * len(runners)
    for gauge in ("requests_waiting", "sequences_running", "rows_running"):
        assert reading(bench.metrics, f"attendant_{gauge}") == 0


@pytest.mark.parametrize("leaver", [0, 1, 2])
@pytest.mark.parametrize("beam_size", [1, 4])
@pytest.mark.parametrize("after", [0, 1, 4])
def test_a_cancelled_sequence_does_not_disturb_its_neighbours(
    leaver: int, beam_size: int, after: int
) -> None:
    runner = FakeRunner(SCRIPT)
    bench = Bench(runner)
    sequences = three(beam_size)
    bench.add(*sequences)
    for _ in range(after):
        bench.turn()
    sequences[leaver].is_cancelled = True
    bench.run()
    for sequence in sequences:
        if sequence is not sequences[leaver]:
            assert outcome(sequence) == alone(sequence)
            assert sequence.receiver.finished == [sequence]  # type: ignore[attr-defined]
    assert sequences[leaver].receiver.finished == []  # type: ignore[attr-defined]
    assert_at_rest(bench, runner)
    ended = "attendant_sequences_finished_total"
    assert reading(bench.metrics, ended, reason="cancelled") == 1
    assert reading(bench.metrics, ended, reason="length") == 2


def test_a_cancelled_sequence_frees_its_rows_before_the_next_step() -> None:
    runner = FakeRunner(SCRIPT)
    bench = Bench(runner)
    sequences = three(4)
    bench.add(*sequences)
    bench.turn()
    bench.turn()
    rows_at_steps: list[int] = []
    runner.before_step = lambda: rows_at_steps.append(runner.table.num_rows)
    sequences[1].is_cancelled = True
    bench.turn()
    assert runner.num_steps == 3
    assert rows_at_steps == [8]
    for sequence in sequences:
        sequence.is_cancelled = True
    bench.turn()
    assert runner.num_steps == 3  # nobody is left to run a step for
    assert_at_rest(bench, runner)


@pytest.mark.parametrize("culprit", [0, 1, 2])
@pytest.mark.parametrize("beam_size", [1, 2])
def test_a_step_that_fails_ends_the_culprit_and_nobody_else(culprit: int, beam_size: int) -> None:
    runner = FakeRunner(SCRIPT)
    bench = Bench(runner)
    sequences = three(beam_size)
    bench.add(*sequences)
    bench.turn()
    failed = sequences[culprit]
    runner.poison = {tuple(failed.source_ids.tolist())}
    bench.run()
    assert isinstance(failed.error, InternalError)
    assert all(one.receiver.finished == [one] for one in sequences)  # type: ignore[attr-defined]
    for sequence in sequences:
        if sequence is not failed:
            assert outcome(sequence) == alone(sequence)
    assert_at_rest(bench, runner)
    ended = "attendant_sequences_finished_total"
    assert reading(bench.metrics, ended, reason="error") == 1
    assert reading(bench.metrics, ended, reason="length") == 2


@pytest.mark.parametrize("steps_parts", [True, False], ids=["in parts", "as one"])
@pytest.mark.parametrize("beam_size", [1, 4])
def test_who_finds_no_memory_runs_fewer_rows_and_nobody_fails(
    beam_size: int, steps_parts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU, whose steps are run as one, a single lack of memory ended everybody."""
    monkeypatch.setattr(faults, "MEMORY_PAUSES_SECONDS", (0.0,))
    runner = FakeRunner(SCRIPT)
    runner.rows_in_memory = 6
    runner.steps_parts = steps_parts
    bench = Bench(runner)
    sequences = [one for _ in range(4) for one in three(beam_size)]
    rows_at_steps: list[int] = []
    runner.before_step = lambda: rows_at_steps.append(runner.table.num_rows)
    bench.run(*sequences)
    assert [outcome(one) for one in sequences] == [alone(one) for one in sequences]
    assert_at_rest(bench, runner)
    assert rows_at_steps[0] == 12 * beam_size  # then half of them, and one more a step
    assert sum(num_rows <= 8 for num_rows in rows_at_steps) > len(rows_at_steps) / 2
    runner.rows_in_memory = 64
    bench.run(*three(4))
    rows_at_steps.clear()
    for _ in range(8):
        bench.run(*three(4))
    rows_at_steps.clear()
    bench.run(*[one for _ in range(4) for one in three(1)])
    assert max(rows_at_steps) == 12  # the memory is there again


@pytest.mark.parametrize("num_turns", [0, 1, 4], ids=["encoder", "first step", "later step"])
@pytest.mark.parametrize("beam_size", [1, 4])
def test_who_finds_no_memory_beside_others_waits_until_they_have_left(
    beam_size: int, num_turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "MEMORY_PAUSES_SECONDS", ())
    runner = FakeRunner(SCRIPT)
    bench = Bench(runner)
    sequences = three(beam_size)
    bench.add(*sequences)
    for _ in range(num_turns):
        bench.turn()
    runner.starving = {tuple(sequences[0].source_ids.tolist())}
    bench.run()
    assert [outcome(one) for one in sequences] == [alone(one) for one in sequences]
    assert_at_rest(bench, runner)
    assert reading(bench.metrics, "attendant_sequences_finished_total", reason="error") == 0


@pytest.mark.parametrize("beam_size", [1, 4])
@pytest.mark.parametrize("where", ["encoder", "step"])
def test_who_finds_no_memory_though_nobody_else_runs_may_come_again(
    beam_size: int, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "MEMORY_PAUSES_SECONDS", ())
    runner = FakeRunner(SCRIPT)
    if where == "step":
        runner.rows_in_memory = 0
    else:
        monkeypatch.setattr(runner, "admit", _raise_memory_error)
    bench = Bench(runner)
    sequences = three(beam_size)
    bench.run(*sequences)
    assert [type(one.error) for one in sequences] == [NoMemory] * 3
    assert_at_rest(bench, runner)
    monkeypatch.undo()
    runner.rows_in_memory = 64
    again = three(beam_size)
    bench.run(*again)
    assert [outcome(one) for one in again] == [alone(one) for one in again]


def _raise_memory_error(sequences: object) -> int:
    raise MemoryError


def test_a_thread_that_dies_answers_those_who_join_and_those_who_had_failed() -> None:
    """Regression: what a turn had found out before it died was told to nobody."""
    runner = FakeRunner(SCRIPT)
    bench = Bench(runner)
    unreadable, dying, later = three(2)
    runner.failing_sources = {tuple(unreadable.source_ids.tolist())}
    runner.dying_steps = {1}  # behind the encoder, before the step
    bench.add(unreadable, dying)
    worker = bench.workers[0]
    worker.start()
    bench.scheduler.add([later])
    bench.scheduler.close()
    worker.join()
    assert isinstance(unreadable.error, InternalError)
    assert isinstance(dying.error, InternalError)
    assert sorted(map(id, bench.finished)) == sorted(map(id, (unreadable, dying, later)))
    assert worker.num_deaths == 1
    assert runner.table.num_rows == 0


def test_a_step_that_fails_once_ends_nobody() -> None:
    runner = FakeRunner(SCRIPT)
    runner.failing_steps = {3}
    bench = Bench(runner)
    bench.run(*(sequences := three(2)))
    assert [outcome(one) for one in sequences] == [alone(one) for one in sequences]
    assert_at_rest(bench, runner)


@pytest.mark.parametrize("culprit", [0, 1, 2])
@pytest.mark.parametrize("beam_size", [1, 4])
def test_a_search_that_fails_ends_the_culprit_and_nobody_else(culprit: int, beam_size: int) -> None:
    """Its rules force a token that there is not, in the last step: others have ended by then."""
    runner = FakeRunner(SCRIPT)
    bench = Bench(runner)
    sequences = [*three(3 - beam_size // 2), *three(beam_size)]
    failed = sequences[3 + culprit]
    failed.rules = TokenRules(eos=EOS, decoder_start=START, forced_eos=1 << 20)
    streamed = sequences[0]
    streamed.streamed = True
    bench.run(*sequences)
    assert isinstance(failed.error, InternalError)
    assert failed.finished == []
    for sequence in sequences:
        assert sequence.receiver.finished == [sequence]  # type: ignore[attr-defined]
        if sequence is not failed:
            assert outcome(sequence) == alone(sequence)
    told = streamed.receiver.extended  # type: ignore[attr-defined]
    assert [len(tokens) for tokens in told] == sorted({len(tokens) for tokens in told})
    assert_at_rest(bench, runner)
    ended = "attendant_sequences_finished_total"
    assert reading(bench.metrics, ended, reason="error") == 1
    assert reading(bench.metrics, ended, reason="length") == 5
    num_steps = runner.num_steps
    bench.run(*(later := three(beam_size)))
    assert runner.num_steps == num_steps + NUM_STEPS  # all together again
    assert [outcome(sequence) for sequence in later] == [alone(sequence) for sequence in later]


def test_what_a_leaver_and_a_late_one_throw_away_is_counted_apart() -> None:
    bench = Bench(FakeRunner(SCRIPT))
    staying, leaving, late = three(2)
    bench.add(staying, leaving, late)
    for _ in range(3):
        bench.turn()
    late.cancel_reason = "deadline"
    leaving.is_cancelled = late.is_cancelled = True
    waiting = make_sequence((14, EOS))
    waiting.cancel_reason, waiting.is_cancelled = "deadline", True
    bench.run(waiting)
    for reason, count in (("cancelled", 1), ("deadline", 2), ("error", 0)):
        assert reading(bench.metrics, "attendant_sequences_finished_total", reason=reason) == count
    for reason in ("cancelled", "deadline"):
        assert reading(bench.metrics, "attendant_wasted_tokens_total", reason=reason) == 6


def test_a_runner_that_is_broken_ends_those_who_run_and_serves_again_when_it_is_mended() -> None:
    runner = FakeRunner(SCRIPT)
    bench = Bench(runner)
    bench.add(*(failed := three(2)))
    runner.poison = {tuple(one.source_ids.tolist()) for one in failed}
    bench.run()
    assert all(isinstance(sequence.error, InternalError) for sequence in failed)
    assert_at_rest(bench, runner)
    runner.poison = set()
    bench.run(*(later := three(2)))
    assert [outcome(sequence) for sequence in later] == [alone(sequence) for sequence in later]
    assert_at_rest(bench, runner)


def test_of_sources_that_join_together_only_those_end_that_cannot_be_encoded() -> None:
    runner = FakeRunner(SCRIPT)
    bench = Bench(runner)
    first, second, third = three(3)
    runner.failing_sources.add(tuple(second.source_ids.tolist()))
    bench.run(first, second, third)
    assert isinstance(second.error, InternalError)
    assert outcome(first) == alone(first)
    assert outcome(third) == alone(third)
    assert_at_rest(bench, runner)


def test_sequences_join_those_who_run_at_the_next_step() -> None:
    runner = FakeRunner(SCRIPT)
    bench = Bench(runner)
    first, second, third = three(1)
    for joining in (first, second, third):
        bench.add(joining)
        bench.turn()
    assert [runner.table.lengths[one.rows[0]] for one in (first, second, third)] == [3, 2, 1]
    bench.run()
    assert runner.num_steps == NUM_STEPS + 2


def test_a_sequence_knows_the_most_rows_that_ran_with_it() -> None:
    """Regression: it knew those that had joined before it, and of its own pass some."""
    bench = Bench(FakeRunner(SCRIPT))
    early, late = three(1), three(4)
    bench.add(*early)
    bench.turn()
    assert [one.batch_rows for one in early] == [3, 3, 3]
    bench.add(*late)
    bench.run()
    assert [one.batch_rows for one in (*early, *late)] == [15] * 6


def test_whoever_does_not_fit_waits_for_rows() -> None:
    runner = FakeRunner(SCRIPT, max_rows=8)
    bench = Bench(runner)
    sequences = three(4)
    bench.add(*sequences)
    bench.turn()
    assert runner.table.num_rows == 8
    assert reading(bench.metrics, "attendant_requests_waiting") == 1
    bench.run()
    assert [outcome(one) for one in sequences] == [alone(one) for one in sequences]


def test_a_worker_ends_only_when_all_who_wait_are_served() -> None:
    """Regression: closed, with only cancelled sequences taken, a worker left others waiting."""
    runner = FakeRunner(SCRIPT)
    bench = Bench(runner, FakeRunner(SCRIPT))  # so a worker takes half of those who wait
    cancelled, sequences = three(1), three(1)
    for sequence in cancelled:
        sequence.is_cancelled = True
    bench.add(*cancelled, *sequences)
    bench.scheduler.close()
    worker = bench.workers[0]
    worker.start()
    worker.join()
    assert all(sequence.is_done for sequence in sequences)
    assert reading(bench.metrics, "attendant_sequences_finished_total", reason="cancelled") == 3


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="the kernel is not Linux")
def test_a_decode_thread_takes_the_core_of_nobody_who_is_at_work() -> None:
    runner = FakeRunner(SCRIPT)
    bench = Bench(runner)
    policies: list[int] = []
    runner.before_step = lambda: policies.append(os.sched_getscheduler(0))
    bench.add(*three(1))
    bench.scheduler.close()
    bench.workers[0].start()
    bench.workers[0].join()
    assert set(policies) == {os.SCHED_BATCH}
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_everything_is_counted_once() -> None:
    runner = FakeRunner(SCRIPT)
    bench = Bench(runner)
    sequences = [*three(1), *three(2)]
    bench.run(*sequences)
    num_returned = sum(len(one.finished[0].token_ids) for one in sequences)
    metrics = bench.metrics
    assert reading(metrics, "attendant_source_tokens_total") == 12
    assert reading(metrics, "attendant_target_tokens_total") == num_returned == 6 * NUM_STEPS
    assert reading(metrics, "attendant_wasted_tokens_total", reason="beam") == 3 * NUM_STEPS
    assert reading(metrics, "attendant_decode_step_seconds_count") == runner.num_steps
    assert reading(metrics, "attendant_decode_step_rows_sum") == 9 * NUM_STEPS
    for count in ("queue_seconds", "time_to_first_token_seconds"):
        assert reading(metrics, f"attendant_{count}_count") == 6
    assert reading(metrics, "attendant_sequences_finished_total", reason="length") == 6
    assert {one.finished[0].finish_reason for one in sequences} == {FinishReason.LENGTH}
    assert_at_rest(bench, runner)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_a_sequence_that_is_done_knows_how_many_steps_it_took(beam_size: int) -> None:
    bench = Bench(FakeRunner(SCRIPT))
    sequences = three(beam_size)
    bench.run(*sequences)
    assert [sequence.num_steps for sequence in sequences] == [NUM_STEPS] * 3
