"""The engine's promises to its callers, with a bundle's tokenizer, scripted logits and threads."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from service.bundle import Bundle
from service.callers import Priority, current_priority
from service.errors import (
    DeadlineUnreachable,
    Draining,
    InternalError,
    InvalidOption,
    ModelUnavailable,
    Overloaded,
    TextTooLong,
)
from service.translation.options import DecodingOptions, FinishReason, Segmentation
from service.translation.preparation import TextPreparer
from service.translation.results import Summary, TextDelta, TextFinished
from tests.translation.rig import TIMEOUT_SECONDS, Gate, Rig, copied

GREEDY = DecodingOptions(return_scores=True)


StartRig = Callable[..., AbstractAsyncContextManager[Rig]]


@pytest.fixture
def start_rig(bundle: Bundle) -> StartRig:
    """An engine with these settings; leaving the block ends it, and finds it at rest."""

    @asynccontextmanager
    async def start(**given: Any) -> AsyncIterator[Rig]:
        rig = Rig(bundle, **given)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            rig.engine.start()
            yield rig
            await rig.engine.stop()
        rig.assert_at_rest()

    return start


@pytest.fixture
async def rig(start_rig: StartRig) -> AsyncIterator[Rig]:
    async with start_rig() as running:
        yield running


async def test_texts_without_words_come_back_as_they_are(rig: Rig) -> None:
    texts = ["", " ", "\r\n\t", "\u3000\n"]
    translation = await rig.engine.translate(texts, GREEDY)
    for text, result in zip(texts, translation.results, strict=True):
        assert result.error is None
        assert [one.text for one in result.hypotheses] == [text]
        assert result.num_sequences == 0
    assert rig.runner.num_steps == 0


async def test_no_texts_have_no_results(rig: Rig) -> None:
    """Regression: the call waited for ever."""
    assert (await rig.engine.translate([], GREEDY)).results == []


async def test_line_breaks_tabs_and_spaces_are_kept(rig: Rig) -> None:
    text = "\tA dog runs.  A cat sleeps.\r\n\r\nA title\tand a cell\n \nThe end. "
    assert await copied(rig, text) == text


async def test_a_long_sentence_is_cut_and_joined(rig: Rig, sentences: list[str]) -> None:
    text = ", ".join(one.rstrip(".!?").replace(".", "") for one in sentences[:12])
    (result,) = (await rig.engine.translate([text], GREEDY, Segmentation.NONE)).results
    assert result.num_sequences > 1
    assert result.hypotheses[0].text == text
    assert result.hypotheses[0].finish_reason is FinishReason.EOS


async def test_a_split_text_has_a_joint_score_and_ends_as_its_worst_piece(rig: Rig) -> None:
    options = DecodingOptions(return_scores=True, max_target_tokens=4)
    pieces = ["A dog runs.", "No."]
    (joint,) = (await rig.engine.translate(["  ".join(pieces)], options)).results
    alone = [one.hypotheses[0] for one in (await rig.engine.translate(pieces, options)).results]
    (found,) = joint.hypotheses
    assert {one.finish_reason for one in alone} == {FinishReason.EOS, FinishReason.LENGTH}
    assert found.finish_reason is FinishReason.LENGTH
    assert found.score == sum(one.score or 0.0 for one in alone)
    assert found.num_target_tokens == sum(one.num_target_tokens for one in alone)


async def test_what_is_wrong_with_one_text_is_its_own_error(start_rig: StartRig) -> None:
    async with start_rig(max_text_bytes=20) as rig:
        options = DecodingOptions(beam_size=2, num_hypotheses=2)
        texts = ["A dog.", "A dog. A cat.", "x" * 21, "\ud800"]
        fine, split, long, broken = (await rig.engine.translate(texts, options)).results
    assert fine.error is None
    assert len(fine.hypotheses) == 2
    assert isinstance(split.error, InvalidOption)
    assert isinstance(long.error, TextTooLong)
    assert broken.error is not None
    assert broken.error.reason == "INVALID_TEXT"


async def test_a_full_queue_refuses_a_call_whole_and_says_when_to_come_back(
    start_rig: StartRig,
) -> None:
    async with start_rig(max_queued_sequences=3, max_rows=1) as rig:
        gate = Gate(rig.runner)
        running = asyncio.create_task(copied(rig, "Yes."))
        await gate.wait()
        waiting = asyncio.create_task(rig.engine.translate(["A dog.", "A cat."], GREEDY))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="2 sequences wait, 2 more") as refused:
            await rig.engine.translate(["One.", "Two."], GREEDY)
        assert refused.value.retry_after_seconds is not None
        assert rig.reading("requests_waiting") == 2
        with pytest.raises(
            Overloaded, match="the first 2 of 2 texts have 4 sequences, the queue takes 3"
        ) as never:
            await rig.engine.translate(["One. Two.", "Three. Four."], GREEDY)
        assert never.value.retry_after_seconds is None
        gate.open()
        assert await running == "Yes."
        assert len((await waiting).results) == 2
        assert rig.reading("requests_rejected_total", reason="QUEUE_FULL") == 2


async def test_a_deadline_that_cannot_be_met_is_refused(start_rig: StartRig) -> None:
    async with start_rig(max_rows=1) as rig:
        await copied(rig, "Yes.")
        with pytest.raises(DeadlineUnreachable, match=r"the deadline is in 0\.000 s"):
            await rig.engine.translate(["A dog."], GREEDY, deadline_seconds=0.0)
        assert rig.reading("requests_rejected_total", reason="DEADLINE_UNREACHABLE") == 1


@pytest.mark.parametrize("leaver", [0, 1, 2])
async def test_a_call_that_is_cancelled_leaves_the_others_alone(leaver: int, rig: Rig) -> None:
    gate = Gate(rig.runner)
    texts = ["A dog runs.", "A cat sleeps.", "A bird sings."]
    calls = [asyncio.create_task(copied(rig, text, beam_size=4)) for text in texts]
    await gate.wait()
    calls[leaver].cancel()
    gate.open()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(results[leaver], asyncio.CancelledError)
    assert [one for one in results if isinstance(one, str)] == [
        text for number, text in enumerate(texts) if number != leaver
    ]


async def test_a_stream_that_is_closed_frees_its_rows_within_a_step(rig: Rig) -> None:
    gate = Gate(rig.runner)
    stream = rig.engine.stream(["A dog runs through the snow."], GREEDY)
    first = asyncio.create_task(anext(stream))
    await gate.wait()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await stream.aclose()  # type: ignore[attr-defined]
    gate.open()
    await rig.engine.stop()
    assert rig.runner.num_steps == 1
    assert rig.reading("sequences_finished_total", reason="cancelled") == 1
    rig.assert_at_rest()


async def test_a_call_that_is_cancelled_in_the_queue_never_starts(start_rig: StartRig) -> None:
    async with start_rig(max_rows=1) as rig:
        gate = Gate(rig.runner)
        running = asyncio.create_task(copied(rig, "Yes."))
        await gate.wait()
        waiting = asyncio.create_task(copied(rig, "A dog runs."))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert rig.reading("requests_waiting") == 0
        gate.open()
        assert await running == "Yes."
        assert rig.reading("sequences_finished_total", reason="cancelled") == 1


async def test_a_failing_step_is_an_internal_error_and_later_calls_succeed(rig: Rig) -> None:
    rig.runner.failing_steps = {2}
    (result,) = (await rig.engine.translate(["A dog runs."], GREEDY)).results
    assert isinstance(result.error, InternalError)
    assert "step" not in result.error.message
    assert await copied(rig, "A dog runs.") == "A dog runs."
    assert rig.reading("sequences_finished_total", reason="error") == 1


async def test_a_decode_thread_that_dies_is_started_again_once(rig: Rig) -> None:
    changes: list[tuple[bool, bool]] = []
    rig.engine.on_change = lambda: changes.append(
        (rig.engine.degraded is not None, rig.engine.failed is not None)
    )
    rig.runner.dying_steps = {1}
    (result,) = (await rig.engine.translate(["A dog runs."], GREEDY)).results
    assert isinstance(result.error, InternalError)
    assert await copied(rig, "A dog runs.") == "A dog runs."
    assert changes == [(True, False)]
    assert rig.reading("decode_thread_deaths_total") == 1


async def test_an_engine_whose_decode_threads_are_dead_answers_all_who_wait_and_refuses(
    start_rig: StartRig,
) -> None:
    async with start_rig(max_rows=1) as rig:
        changed = asyncio.Event()
        rig.engine.on_change = changed.set
        rig.runner.dying_steps = {1, 2}
        calls = [rig.engine.translate(["A dog runs."], GREEDY) for _ in range(4)]
        for translation in await asyncio.gather(*calls):
            assert isinstance(translation.results[0].error, InternalError)
        await changed.wait()
        assert rig.engine.failed == "its decode threads have died"
        with pytest.raises(ModelUnavailable, match="decode threads have died"):
            await rig.engine.translate(["A dog runs."], GREEDY)
        assert rig.reading("decode_thread_deaths_total") == 2


async def test_what_is_left_of_a_failed_text_is_not_decoded(start_rig: StartRig) -> None:
    """Regression: its other sentences were decoded to their ends."""
    async with start_rig(max_rows=1) as rig:
        told = threading.Event()
        rig.runner.failing_steps = {2}
        rig.runner.before_step = lambda: rig.runner.num_steps < 2 or told.wait(TIMEOUT_SECONDS)
        (result,) = (await rig.engine.translate(["A dog runs. " * 40], GREEDY)).results
        told.set()
        assert isinstance(result.error, InternalError)
    assert rig.runner.num_steps <= 3
    assert rig.reading("sequences_finished_total", reason="cancelled") == 39


async def test_a_result_that_cannot_be_used_does_not_hang_its_call(rig: Rig) -> None:
    """Regression: an error behind the last step left this call, and those delivered with it,
    waiting for ever."""
    rig.runner.before_step = lambda: rig.runner.table.history.fill(1 << 20)  # no such pieces
    (result,) = (await rig.engine.translate(["A dog."], GREEDY)).results
    assert isinstance(result.error, InternalError)


async def test_an_engine_that_ends_finishes_what_waits_and_refuses_the_rest(rig: Rig) -> None:
    """Regression: a call after the end waited for ever."""
    calls = [asyncio.create_task(copied(rig, "A dog runs.")) for _ in range(5)]
    await asyncio.sleep(0)
    await rig.engine.stop()
    assert await asyncio.gather(*calls) == ["A dog runs."] * 5
    with pytest.raises(Draining):
        await rig.engine.translate(["A dog."], GREEDY)


@pytest.mark.parametrize("decode_workers", [1, 3])
async def test_after_so_many_calls_so_many_are_counted(
    decode_workers: int, start_rig: StartRig, sentences: list[str]
) -> None:
    async with start_rig(decode_workers=decode_workers) as rig:
        texts = [one for one in sentences if len(one) < 80][:40]
        calls = [rig.engine.translate([text], GREEDY) for text in texts]
        results = [one.results[0] for one in await asyncio.gather(*calls)]
        num_tokens = sum(one.num_source_tokens for one in results)
        assert rig.reading("sequences_finished_total", reason="eos") == 40
        assert rig.reading("source_tokens_total") == num_tokens
        assert rig.reading("target_tokens_total") == num_tokens  # it copies
        assert rig.reading("queue_seconds_count") == 40
        assert rig.reading("time_to_first_token_seconds_count") == 40
        num_steps = sum(runner.num_steps for runner in rig.runners)
        assert rig.reading("decode_step_rows_sum") == num_tokens
        assert decode_workers > 1 or rig.reading("decode_step_seconds_count") == num_steps


async def test_a_stream_ends_in_what_a_call_returns(rig: Rig, sentences: list[str]) -> None:
    texts = [" ".join(sentences[:3]), "", sentences[4]]
    translation = await rig.engine.translate(texts, GREEDY)
    events = [event async for event in rig.engine.stream(texts, GREEDY)]
    finished = {one.content_index: one.result for one in events if isinstance(one, TextFinished)}
    assert [finished[index] for index in range(3)] == translation.results
    for index, result in enumerate(translation.results):
        sent = [e.text for e in events if isinstance(e, TextDelta) and e.content_index == index]
        assert "".join(sent) == result.hypotheses[0].text
    assert isinstance(events[-1], Summary)
    assert events[-1].timing.total_seconds > 0


@pytest.mark.parametrize(("interval", "fewest", "most"), [(0.0, 5, 12), (3600.0, 2, 2)])
async def test_how_often_a_stream_has_words_is_a_setting(
    interval: float, fewest: int, most: int, start_rig: StartRig
) -> None:
    text = "A man in a red hat stands in front of a house."
    async with start_rig(stream_interval_seconds=interval) as rig:
        loop = asyncio.get_running_loop()

        def wait_for_the_loop() -> None:
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(TIMEOUT_SECONDS)

        rig.runner.before_step = wait_for_the_loop
        events = [event async for event in rig.engine.stream([text], GREEDY)]
    sent = [event.text for event in events if isinstance(event, TextDelta)]
    assert fewest <= len(sent) <= most
    assert "".join(sent) == text


async def test_what_cannot_be_let_in_is_refused_before_its_texts_are_looked_at(
    start_rig: StartRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start_rig(max_rows=1) as rig:

        def prepare(*_: object) -> None:
            raise AssertionError("it was looked at")

        monkeypatch.setattr(TextPreparer, "prepare", prepare)
        with pytest.raises(DeadlineUnreachable):
            await rig.engine.translate(["A dog. " * 9000], GREEDY, deadline_seconds=1e-4)


async def test_a_call_that_has_not_begun_when_it_must_is_given_up(start_rig: StartRig) -> None:
    """Decoding it would be in vain, and its caller knows before its time is over."""
    async with start_rig(max_rows=1) as rig:
        gate = Gate(rig.runner)
        running = asyncio.create_task(copied(rig, "Yes."))
        await gate.wait()
        begun = time.monotonic()
        with pytest.raises(DeadlineUnreachable, match="were not enough to begin") as given_up:
            await rig.engine.translate(["A dog."], GREEDY, deadline_seconds=0.2)
        assert time.monotonic() - begun > 0.1
        assert given_up.value.retry_after_seconds is not None
        stream = rig.engine.stream(["A dog."], GREEDY, deadline_seconds=0.2)
        with pytest.raises(DeadlineUnreachable):
            await anext(stream)
        assert rig.reading("requests_rejected_total", reason="DEADLINE_UNREACHABLE") == 2
        assert rig.reading("deadlines_total", outcome="missed") == 2
        assert rig.reading("requests_waiting") == 0
        gate.open()
        assert await running == "Yes."


async def test_a_call_that_was_given_up_is_none_whose_caller_left(start_rig: StartRig) -> None:
    async with start_rig(max_rows=1) as rig:
        gate = Gate(rig.runner)
        running = asyncio.create_task(copied(rig, "Yes."))
        await gate.wait()
        with pytest.raises(DeadlineUnreachable) as given_up:
            await rig.engine.translate(["A dog."], GREEDY, deadline_seconds=0.2)
        # What it waited for runs and is in no queue, so the hint is at least what it waited.
        assert (given_up.value.retry_after_seconds or 0.0) > 0.05
        assert rig.reading("sequences_finished_total", reason="deadline") == 1
        assert rig.reading("sequences_finished_total", reason="cancelled") == 0
        gate.open()
        await running


async def is_let_in(rig: Rig, deadline_seconds: float) -> bool:
    try:
        await rig.engine.translate(["A dog."], GREEDY, deadline_seconds=deadline_seconds)
    except DeadlineUnreachable:
        return False
    return True


async def test_slow_steps_are_learned_and_forgotten_by_an_idle_engine(
    start_rig: StartRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.admission.HALF_LIFE_SECONDS", 0.01)
    async with start_rig() as rig:
        assert (await rig.engine.translate(["A dog."], GREEDY, deadline_seconds=5.0)).results
        rig.runner.before_step = lambda: time.sleep(0.03)
        await rig.engine.translate(["A dog."] * 200, GREEDY)
        rig.runner.before_step = lambda: None
        gate = Gate(rig.runner)
        running = asyncio.create_task(copied(rig, "Yes."))
        await gate.wait()
        with pytest.raises(DeadlineUnreachable, match=r"would take 0\.[0-9]+ s, 0\.000 of them"):
            await rig.engine.translate(["A dog."], GREEDY, deadline_seconds=0.1)
        gate.open()
        await running
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while not await is_let_in(rig, 0.1):
                await asyncio.sleep(0)


async def test_steps_that_a_caller_has_forced_say_nothing_of_others(start_rig: StartRig) -> None:
    """One call made everybody's deadlines unreachable."""
    async with start_rig() as rig:
        forced = DecodingOptions(min_target_tokens=50, max_target_tokens=50)
        await rig.engine.translate(["Yes."] * 200, forced)
        assert await is_let_in(rig, 0.5)


async def test_what_is_done_when_nobody_waits_says_nothing_of_what_could_be(
    start_rig: StartRig,
) -> None:
    async def predicted_wait(rig: Rig) -> float:
        gate = Gate(rig.runner)
        first = asyncio.create_task(copied(rig, "Yes."))
        await gate.wait()
        calls = [asyncio.create_task(copied(rig, "A dog.")) for _ in range(20)]
        await asyncio.sleep(0)
        found = rig.reading("predicted_wait_seconds")
        gate.open()
        await asyncio.gather(first, *calls)
        return found

    async with start_rig(max_rows=1) as busy, start_rig(max_rows=1) as sparse:
        for _ in range(8):
            await copied(sparse, "A dog.")
            await asyncio.to_thread(threading.Event().wait, 0.03)
        assert await predicted_wait(sparse) <= 2 * await predicted_wait(busy) + 0.01


async def test_a_stream_that_nobody_reads_is_done_when_it_is_decoded(start_rig: StartRig) -> None:
    """It taught that answers come late."""
    async with start_rig() as rig:
        stream = rig.engine.stream(["A dog."], GREEDY, deadline_seconds=5.0)
        await anext(stream)
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not rig.reading("deadlines_total", outcome="met"):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        await stream.aclose()
        assert rig.reading("deadlines_total", outcome="missed") == 0


async def test_a_call_that_runs_when_its_last_moment_passes_goes_on(start_rig: StartRig) -> None:
    async with start_rig() as rig:
        gate = Gate(rig.runner)
        running = asyncio.create_task(rig.engine.translate(["Yes."], GREEDY, deadline_seconds=0.1))
        await gate.wait()
        late = asyncio.Event()
        asyncio.get_running_loop().call_later(0.2, late.set)
        await late.wait()
        gate.open()
        assert (await running).results[0].hypotheses[0].text == "Yes."
        assert rig.reading("deadlines_total", outcome="missed") == 1


async def test_bulk_gives_way_to_interactive_calls(start_rig: StartRig) -> None:
    async with start_rig(max_rows=1) as rig:
        gate = Gate(rig.runner)
        first = asyncio.create_task(copied(rig, "Yes."))
        await gate.wait()
        ended: list[str] = []

        async def ask(text: str, priority: Priority) -> None:
            current_priority.set(priority)
            ended.append(await copied(rig, text))

        calls = [
            asyncio.create_task(ask(text, priority))
            for text, priority in (
                ("A dog.", Priority.BULK),
                ("A cat.", Priority.INTERACTIVE),
                ("A bird.", Priority.INTERACTIVE),
            )
        ]
        await asyncio.sleep(0)
        gate.open()
        await asyncio.gather(first, *calls)
        assert ended == ["A cat.", "A bird.", "A dog."]


async def test_who_has_the_least_slack_goes_first(start_rig: StartRig) -> None:
    async with start_rig(max_rows=1) as rig:
        gate = Gate(rig.runner)
        first = asyncio.create_task(copied(rig, "Yes."))
        await gate.wait()
        ended: list[str] = []

        async def ask(text: str, seconds: float | None) -> None:
            found = await rig.engine.translate([text], GREEDY, deadline_seconds=seconds)
            ended.append(found.results[0].hypotheses[0].text)

        asked = (("A dog.", None), ("A cat.", 25.0), ("A bird.", 20.0), ("A horse.", 45.0))
        calls = [asyncio.create_task(ask(*one)) for one in asked]
        await asyncio.sleep(0)
        gate.open()
        await asyncio.gather(first, *calls)
        assert ended == ["A bird.", "A cat.", "A dog.", "A horse."]
