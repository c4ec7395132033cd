"""Batches: full or late, cancelled callers, failing runs, and answers that no neighbour changes."""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.bundle import Bundle
from service.callers import Priority, current_priority
from service.classification.batcher import Batcher
from service.classification.engine import ClassificationEngine, probabilities, rank
from service.classification.runner import Batching, ClassifierRunner
from service.errors import BundleError, DeadlineUnreachable, Draining, Overloaded
from service.metrics import Metrics
from service.settings import Settings
from tests.service.conftest import SIZE, image_file, total, write_classifier
from tests.service.faulty import FaultyRunner


class SlowDoubler:
    """Doubles numbers in batches; every run waits to be allowed."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.were_alone: list[bool] = []
        self.allowed = threading.Semaphore(0)
        self.began = threading.Semaphore(0)

    def run(self, items: Sequence[int], alone: bool) -> list[int]:
        self.batches.append(list(items))
        self.were_alone.append(alone)
        self.began.release()
        assert self.allowed.acquire(timeout=10)
        if -1 in items:
            raise RuntimeError("a failing run")
        return [2 * item for item in items]


async def until_run(doubler: SlowDoubler) -> None:
    assert await asyncio.to_thread(doubler.began.acquire, timeout=10)


def submit(batcher: Batcher[int, int], *items: int) -> list[asyncio.Task[int]]:
    async def one(item: int) -> int:
        return (await batcher.submit(item)).result

    return [asyncio.create_task(one(item)) for item in items]


def batcher_of(
    doubler: SlowDoubler, *, delay_seconds: float = 60.0, num_runs: int = 1
) -> Batcher[int, int]:
    batcher: Batcher[int, int] = Batcher(
        doubler.run, max_size=3, delay_seconds=delay_seconds, num_runs=num_runs
    )
    batcher.start()
    return batcher


async def test_a_lone_item_runs_at_once() -> None:
    doubler = SlowDoubler()
    batcher = batcher_of(doubler)
    doubler.allowed.release()
    assert await asyncio.gather(*submit(batcher, 5)) == [10]
    await batcher.stop()


async def test_items_that_arrive_during_a_run_make_the_next_batches() -> None:
    doubler = SlowDoubler()
    batcher = batcher_of(doubler)
    tasks = submit(batcher, 1)
    await until_run(doubler)
    tasks += submit(batcher, 2, 3, 4, 5)
    await asyncio.sleep(0)
    doubler.allowed.release(3)
    assert await asyncio.gather(*tasks) == [2, 4, 6, 8, 10]
    assert doubler.batches == [[1], [2, 3, 4], [5]]
    await batcher.stop()


async def test_an_item_waits_for_one_that_is_announced_until_the_deadline() -> None:
    doubler = SlowDoubler()
    doubler.allowed.release(9)
    batcher = batcher_of(doubler, delay_seconds=0.01)
    batcher.announce()
    assert await asyncio.gather(*submit(batcher, 1)) == [2]  # nobody came
    await batcher.stop()
    batcher = batcher_of(doubler)
    batcher.announce()
    tasks = submit(batcher, 3)
    await asyncio.sleep(0)
    tasks += submit(batcher, 4)
    await asyncio.sleep(0)
    batcher.retract()
    assert await asyncio.gather(*tasks) == [6, 8]
    assert doubler.batches == [[1], [3, 4]]
    await batcher.stop()


@pytest.mark.parametrize("leaver", [0, 1, 2])
async def test_a_caller_who_leaves_is_left_out_and_harms_nobody(leaver: int) -> None:
    doubler = SlowDoubler()
    batcher = batcher_of(doubler)
    first = submit(batcher, 9)
    await until_run(doubler)
    tasks = submit(batcher, 0, 1, 2)
    await asyncio.sleep(0)
    tasks[leaver].cancel()
    doubler.allowed.release(2)
    results = await asyncio.gather(*first, *tasks, return_exceptions=True)
    assert isinstance(results.pop(1 + leaver), asyncio.CancelledError)
    stayed = [item for item in (0, 1, 2) if item != leaver]
    assert results == [18, *(2 * item for item in stayed)]
    assert doubler.batches == [[9], stayed]
    await batcher.stop()


async def test_a_caller_who_leaves_during_the_run_harms_nobody() -> None:
    doubler = SlowDoubler()
    batcher = batcher_of(doubler)
    tasks = submit(batcher, 1, 2)
    await until_run(doubler)
    tasks[0].cancel()
    doubler.allowed.release(2)
    results = await asyncio.gather(*tasks, *submit(batcher, 3), return_exceptions=True)
    assert results[1:] == [4, 6]
    await batcher.stop()


async def test_a_failing_run_fails_its_batch_alone() -> None:
    doubler = SlowDoubler()
    batcher = batcher_of(doubler)
    bad = submit(batcher, -1, 1)
    await until_run(doubler)
    good = submit(batcher, 2)
    doubler.allowed.release(2)
    results = await asyncio.gather(*bad, *good, return_exceptions=True)
    assert [type(result) for result in results] == [RuntimeError, RuntimeError, int]
    await batcher.stop()


async def test_several_batches_run_at_once_and_share_what_waits() -> None:
    doubler = SlowDoubler()
    batcher = batcher_of(doubler, num_runs=2)
    tasks = submit(batcher, 1)
    await until_run(doubler)
    tasks += submit(batcher, 2, 3, 4, 5)
    await until_run(doubler)
    assert doubler.batches == [[1], [2, 3, 4]]
    doubler.allowed.release(2)
    await until_run(doubler)
    tasks += submit(batcher, 6)
    doubler.allowed.release(2)
    assert await asyncio.gather(*tasks) == [2, 4, 6, 8, 10, 12]
    assert doubler.were_alone[:2] == [True, False]
    await batcher.stop()


async def test_what_arrives_together_is_shared_by_all_runs() -> None:
    doubler = SlowDoubler()
    batcher = batcher_of(doubler, num_runs=2)
    doubler.allowed.release(2)
    assert await asyncio.gather(*submit(batcher, 1, 2, 3, 4)) == [2, 4, 6, 8]
    assert sorted(doubler.batches) == [[1, 2], [3, 4]]
    assert doubler.were_alone == [False, False]
    await batcher.stop()


async def test_stopping_answers_those_who_wait() -> None:
    doubler = SlowDoubler()
    batcher = batcher_of(doubler)
    tasks = submit(batcher, 1)
    await until_run(doubler)
    tasks += submit(batcher, 2)
    await asyncio.sleep(0)
    await batcher.stop()
    doubler.allowed.release()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [Draining, Draining]


def runner(folder: Path, threads: int = 1) -> ClassifierRunner:
    return ClassifierRunner(
        Bundle.open(folder),
        size=(SIZE, SIZE),
        device="cpu",
        precision="fp32",
        batching=Batching(threads, max_batch=16),
    )


def test_an_image_gets_the_same_bits_alone_and_in_any_batch(tmp_path: Path) -> None:
    classifier = runner(write_classifier(tmp_path))
    generator = np.random.default_rng(1)
    images = list(generator.standard_normal((16, 3, SIZE, SIZE), np.float32))
    alone = np.concatenate([classifier.run([image]) for image in images])
    for size in range(2, 17):
        assert np.array_equal(classifier.run(images[:size]), alone[:size])


def test_all_cores_give_the_bits_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.classification.runner._WORTHWHILE_GAIN", 0.0)
    classifier = runner(write_classifier(tmp_path), threads=2)
    images = list(np.random.default_rng(2).standard_normal((3, 3, SIZE, SIZE), np.float32))
    assert classifier.num_runs == 2
    assert np.array_equal(classifier.run(images, alone=True), classifier.run(images))


def test_a_graph_that_leaks_between_images_runs_them_one_by_one(tmp_path: Path) -> None:
    assert runner(write_classifier(tmp_path, leaky=True)).max_batch == 1


def test_a_graph_that_is_not_what_the_card_says_is_refused(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path, labels=["one", "two"])
    with pytest.raises(BundleError, match=r"expected logits to be float32 \(None, 2\), found"):
        runner(folder)


async def engine(folder: Path, metrics: Metrics, **settings: int) -> ClassificationEngine:
    bundle = Bundle.open(folder)
    made = ClassificationEngine(bundle, settings=Settings(**settings), metrics=metrics)
    made.start()
    return made


async def test_a_full_queue_refuses_with_a_measured_hint(tmp_path: Path) -> None:
    metrics = Metrics.create()
    serving = await engine(write_classifier(tmp_path), metrics, max_queued_images=4)
    await serving.classify([image_file()] * 4)
    first = asyncio.create_task(serving.classify([image_file()] * 3))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded) as caught:
        await serving.classify([image_file()] * 2)
    assert caught.value.retry_after_seconds is not None
    assert 0 < caught.value.retry_after_seconds < 1
    assert len((await first).results) == 3
    assert total(metrics, "attendant_requests_waiting") == 0
    await serving.stop()


async def test_a_deadline_that_cannot_be_met_is_refused_at_the_door(tmp_path: Path) -> None:
    metrics = Metrics.create()
    serving = await engine(write_classifier(tmp_path), metrics)
    await serving.classify([image_file()] * 8)
    ahead = asyncio.create_task(serving.classify([image_file()] * 64))
    await asyncio.sleep(0)
    with pytest.raises(DeadlineUnreachable):
        await serving.classify([image_file()], deadline_seconds=1e-6)
    assert len((await ahead).results) == 64
    await serving.stop()


async def test_slow_single_calls_do_not_refuse_a_large_one(tmp_path: Path) -> None:
    # One call after the other has a latency, but no queue: it once counted as the rate of one.
    serving = await engine(write_classifier(tmp_path), Metrics.create())
    for _ in range(5):
        await serving.classify([image_file()])
    assert len((await serving.classify([image_file()] * 64, deadline_seconds=20)).results) == 64
    await serving.stop()


async def test_images_that_came_seldom_teach_no_low_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = await engine(write_classifier(tmp_path), Metrics.create())
    now = 0.0
    monkeypatch.setattr("service.rate.monotonic", lambda: now)
    for _ in range(5):  # nobody else there
        now += 100.0
        await serving.classify([image_file()])
    assert len((await serving.classify([image_file()], deadline_seconds=30.0)).results) == 1
    await serving.stop()


async def test_an_image_that_takes_long_itself_is_no_work_for_a_short_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However fast others are done meanwhile."""
    serving = await engine(write_classifier(tmp_path), Metrics.create())
    now, preprocess = 0.0, serving._preprocess

    def slow(content: bytes) -> Any:
        nonlocal now
        now += 50.0
        return preprocess(content)

    monkeypatch.setattr("service.classification.engine.monotonic", lambda: now)
    monkeypatch.setattr(serving, "_preprocess", slow)
    await serving.classify([image_file()])
    serving._admission.rate.suppose(1000.0)  # all cores at once
    with pytest.raises(DeadlineUnreachable, match=r"would take 50\.\d+ s, 0\.000 of them waiting"):
        await serving.classify([image_file()], deadline_seconds=40.0)
    await serving.stop()


async def test_images_of_bulk_calls_give_way(tmp_path: Path) -> None:
    runner: list[FaultyRunner] = []

    def open_one(bundle: Bundle, **given: Any) -> FaultyRunner:
        runner.append(FaultyRunner(bundle, **given))
        runner[0].max_batch = 1
        return runner[0]

    serving = ClassificationEngine(
        Bundle.open(write_classifier(tmp_path)),
        settings=Settings(),
        metrics=Metrics.create(),
        open_runner=open_one,
    )
    serving.start()
    held, opened = threading.Event(), threading.Event()

    def hold(images: object) -> None:
        held.set()
        opened.wait(30)

    runner[0].fault = hold
    ended: list[str] = []

    async def ask(name: str, priority: Priority) -> None:
        current_priority.set(priority)
        await serving.classify([image_file()])
        ended.append(name)

    first = asyncio.create_task(ask("first", Priority.INTERACTIVE))
    await asyncio.to_thread(held.wait, 30)
    others = [
        asyncio.create_task(ask(name, priority))
        for name, priority in (("bulk", Priority.BULK), ("other", Priority.INTERACTIVE))
    ]
    while len(serving._batcher._waiting) < 2:
        await asyncio.sleep(0)
    opened.set()
    await asyncio.gather(first, *others)
    assert ended == ["first", "other", "bulk"]
    await serving.stop()


async def test_a_cancelled_call_frees_its_places(tmp_path: Path) -> None:
    metrics = Metrics.create()
    serving = await engine(write_classifier(tmp_path), metrics, max_queued_images=64)
    for ticks in range(8):
        call = asyncio.create_task(serving.classify([image_file()] * 64))
        for _ in range(ticks):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    await asyncio.sleep(0)
    assert total(metrics, "attendant_requests_waiting") == 0
    assert len((await serving.classify([image_file()] * 64)).results) == 64
    await serving.stop()


def test_ranking_is_by_probability_and_stable() -> None:
    labels = ("a", "b", "c")
    found = rank(np.float32([1, 3, 3]), labels, 2, multi_label=False)
    assert [(score.label, score.index) for score in found] == [("b", 1), ("c", 2)]
    assert probabilities(np.float32([1000, 0, -1000]), multi_label=False).tolist() == [1, 0, 0]
    each = probabilities(np.float32([1000, 0, -1000]), multi_label=True)
    assert each.tolist() == [1, 0.5, 0]
