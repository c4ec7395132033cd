"""The attention caches keep what rows have in any layout, and never take more than their budget."""

import random
import threading
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.bundle import Bundle
from service.devices import Devices
from service.errors import BundleError
from service.metrics import Metrics
from service.settings import Settings
from service.translation import caches
from service.translation.caches import CAPACITY_STEP, CachePool, CacheSizes, round_up
from service.translation.engine import TranslationEngine
from service.translation.graphs import Graphs
from service.translation.options import DecodingOptions
from service.translation.placement import Placement
from service.translation.runner import Runner, open_runners
from service.translation.sequence import Sequence
from service.translation.workers import Workers
from tests.translation.fakes import Bench, make_sequence

SIZES = CacheSizes(
    planes=4,
    heads=2,
    head_size=8,
    kind=np.dtype(np.float32),
    max_target_tokens=64,
    max_source_tokens=48,
)
MIB = 1 << 20


@pytest.mark.parametrize("max_bytes", [MIB, 5 * SIZES.row_bytes(64, 48) + 4])
def test_rows_keep_their_tokens_in_every_layout(max_bytes: int) -> None:
    rng = random.Random(3)
    pool = CachePool(SIZES, max_rows=12, max_bytes=max_bytes)
    num_rows, target, source = 5, 16, 8
    pool.resize(target, source, 0)
    own = np.random.default_rng(1).normal(size=(4, num_rows, 2, 16, 8)).astype(np.float32)
    cross = own[:, :, :, :8] + 1
    pool.own[:, :num_rows], pool.cross[:, :num_rows] = own, cross
    for _ in range(100):
        target, source = (round_up(rng.randint(low, high)) for low, high in ((16, 64), (8, 48)))
        pool.resize(target, source, num_rows)
        assert pool.capacities == (target, source)
        assert np.array_equal(pool.own[:, :num_rows, :, :16], own)
        assert np.array_equal(pool.cross[:, :num_rows, :, :8], cross)
        assert pool.own.nbytes + pool.cross.nbytes <= max_bytes
        assert pool.own.flags.aligned
        assert pool.cross.flags.aligned


def test_what_does_not_grow_stays_where_it_is() -> None:
    pool = CachePool(SIZES, max_rows=12, max_bytes=MIB)
    pool.resize(16, 24, 0)
    address = pool.cross.ctypes.data
    pool.resize(32, 24, 5)
    assert pool.cross.ctypes.data == address


def test_a_layout_for_which_there_is_no_memory_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = CachePool(SIZES, max_rows=12, max_bytes=MIB)
    pool.resize(16, 24, 0)
    pool.own[:, :5], pool.cross[:, :5] = 1, 2
    before = pool.own.ctypes.data, pool.cross.ctypes.data
    kept: list[str] = []

    def keep(planes: NDArray[Any], num_rows: int, length: int) -> NDArray[Any]:
        if kept:
            raise MemoryError
        kept.append("own")
        return planes[:, :num_rows, :, :length].copy()

    monkeypatch.setattr(caches, "_front", keep)
    with pytest.raises(MemoryError):
        pool.resize(32, 48, 5)
    assert kept == ["own"]
    assert pool.capacities == (16, 24)
    assert (pool.own.ctypes.data, pool.cross.ctypes.data) == before
    assert (pool.own[:, :5] == 1).all()
    assert (pool.cross[:, :5] == 2).all()


@pytest.mark.parametrize("leaving", ["retired", "cancelled"])
def test_a_long_source_joins_as_soon_as_others_have_left(bundle: Bundle, leaving: str) -> None:
    """Where few rows fit: the gaps of those who left are no rows that the caches need room for."""
    graphs = Graphs.open(bundle, "int8", "cpu")
    sizes = CacheSizes.of(bundle.translation, "int8")
    answers = []
    for cache_bytes in (max(sizes.longest_row_bytes, 10 * sizes.row_bytes(8, 8)), 1 << 30):
        runner = Runner(graphs, 64, cache_bytes)
        bench = Bench(runner)
        stays = _forced(5, 7, beam_size=2)
        leave = [_forced(5, 6, beam_size=4) for _ in range(5)]
        bench.add(*leave, stays)
        for _ in range(6 if leaving == "retired" else 5):
            bench.turn()
        for sequence in leave:
            assert sequence.has_ended == (leaving == "retired")
            sequence.is_cancelled = True
        assert not stays.has_ended
        late = _forced(40, 5)
        bench.run(late)
        assert (late.error, stays.error) == (None, None)
        answers.append([late.finished, stays.finished])
    assert answers[0] == answers[1]


def test_caches_are_as_short_as_they_may_be_soon_after_a_long_one_has_left(bundle: Bundle) -> None:
    runner = Runner(Graphs.open(bundle, "int8", "cpu"), 64)
    bench = Bench(runner)
    longest, long, short = _forced(20, 60), _forced(20, 50), _forced(4, 30)
    bench.add(longest)
    for _ in range(25):
        bench.turn()
    bench.add(long)
    while not longest.has_ended:
        bench.turn()
    bench.add(short)
    bench.turn()
    assert runner._caches.capacities == (64, 24)  # less than twice what the long one needs
    long.is_cancelled = True
    for _ in range(CAPACITY_STEP + 1):
        bench.turn()
    assert not short.has_ended
    assert runner._caches.capacities == (16, 8)


def _forced(num_source_tokens: int, num_tokens: int, beam_size: int = 1) -> Sequence:
    return make_sequence(
        (*range(10, 9 + num_source_tokens), 2),
        beam_size=beam_size,
        min_target_tokens=num_tokens,
        max_target_tokens=num_tokens,
    )


def test_there_are_as_many_rows_as_the_budget_takes() -> None:
    budget = 10 * SIZES.row_bytes(16, 8)
    pool = CachePool(SIZES, max_rows=64, max_bytes=budget)
    assert pool.num_rows_at(16, 8) == 10
    assert pool.num_rows_at(64, 48) == 2
    assert CachePool(SIZES, max_rows=4, max_bytes=budget).num_rows_at(16, 8) == 4


@pytest.mark.parametrize(("beam_size", "min_set_back"), [(1, 5), (4, 2)])
def test_sequences_that_outgrow_the_memory_begin_anew_and_say_the_same(
    bundle: Bundle, beam_size: int, min_set_back: int
) -> None:
    """All join while they are short; at 200 tokens only some of them fit."""
    sizes = CacheSizes.of(bundle.translation, "int8")
    little = 2 * beam_size * sizes.longest_row_bytes
    answers = []
    for cache_bytes in (little, 1 << 30):
        workers = Workers(count=1, max_rows=64, cache_bytes=cache_bytes)
        (runner,) = open_runners(bundle, "int8", "cpu", workers)
        bench = Bench(runner)
        sequences = [
            make_sequence((*range(10, 20 + n), 2), beam_size=beam_size, **FORCED) for n in range(14)
        ]
        bench.run(*sequences)
        answers.append([one.finished for one in sequences])
        lost = bench.metrics.registry.get_sample_value(
            "attendant_wasted_tokens_total", {"model": "fake/1", "reason": "memory"}
        )
        assert (lost or 0) >= (min_set_back if cache_bytes == little else 0)
    assert answers[0] == answers[1]


FORCED = {"min_target_tokens": 200, "max_target_tokens": 200}


async def test_a_thousand_long_texts_at_once_finish_on_16_mib(bundle: Bundle) -> None:
    settings = Settings.model_validate(
        {"cache_memory": 16 * MIB, "max_queued_sequences": 20_000, "device": "cpu"}
    )
    engine = TranslationEngine(bundle, settings=settings, metrics=Metrics.create())
    engine.start()
    try:
        text = " ".join(f"the {n} red horse is running over a green field" for n in range(50))
        options = DecodingOptions(max_target_tokens=8)
        found = await engine.translate([text] * 1000, options)
    finally:
        await engine.stop()
    assert all(result.error is None for result in found.results)
    assert {result.num_source_tokens for result in found.results} == {
        found.results[0].num_source_tokens
    }
    assert found.results[0].num_source_tokens >= 500
    assert len({result.hypotheses[0].text for result in found.results}) == 1
    assert threading.active_count() < 20


def test_a_gpu_has_all_of_the_budget_however_many_cores_there_are(bundle: Bundle) -> None:
    """It was divided by the decode workers of the CPU: no beam was left on a host of 64 cores."""
    settings = Settings.model_validate({"cache_memory": 4 * MIB, "decode_workers": 64})
    on_gpu = Placement.choose(bundle, settings, Devices(choose=lambda setting: "cuda"))
    assert (on_gpu.device, on_gpu.workers.count) == ("cuda", 1)
    row_bytes = CacheSizes.of(bundle.translation, "fp16").longest_row_bytes
    assert on_gpu.limits.max_beam_size == 4 * MIB // row_bytes > 1
    with pytest.raises(BundleError, match=r"64 decode workers share a cache_memory of 4,194,304"):
        Placement.choose(bundle, settings, Devices(choose=lambda setting: "cpu"))


def test_a_budget_that_no_sequence_fits_is_refused(bundle: Bundle) -> None:
    settings = Settings.model_validate({"cache_memory": 1 << 20, "decode_workers": 16})
    with pytest.raises(Exception, match=r"the longest sequence needs [\d,]+ bytes"):
        TranslationEngine(bundle, settings=settings, metrics=Metrics.create())
