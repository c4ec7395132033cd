"""The runner for devices gives the answers of the CPU's, here over the CPU's memory."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service import faults
from service.bundle import Bundle
from service.errors import BundleError
from service.faults import is_out_of_memory
from service.metrics import Metrics
from service.runtime import Device
from service.settings import Settings
from service.translation import device_memory
from service.translation.device_memory import (
    DeviceBuffer,
    DeviceError,
    DeviceGraph,
    DeviceMemoryError,
    Tensors,
)
from service.translation.device_runner import (
    GRAPHS,
    DeviceModel,
    DeviceRunner,
    buckets,
    open_device_runner,
)
from service.translation.engine import TranslationEngine
from service.translation.graphs import Graphs
from service.translation.options import DecodingOptions, EarlyStopping
from service.translation.processors import TokenRules
from service.translation.runner import Runner, open_runners
from service.translation.sequence import Sequence
from service.translation.tokenizer import Tokenizer
from service.translation.worker import StepRunner
from service.translation.workers import Workers
from tests.losses import NO_MEMORY
from tests.translation.fakes import Bench, make_sequence

NUM_SENTENCES = 40
MAX_ROWS = 24
CACHE_BYTES = 1 << 30
SCORE_TOLERANCE = 1e-5  # the same sums, in another order


def random_options(rng: random.Random) -> DecodingOptions:
    beam_size = rng.choice((1, 1, 1, 2, 4, 5))
    return DecodingOptions(
        beam_size=beam_size,
        num_hypotheses=rng.randint(1, beam_size),
        length_penalty=rng.choice((0.0, 0.6, 1.0)),
        early_stopping=rng.choice(list(EarlyStopping)),
        max_target_tokens=rng.randint(4, 40),
        min_target_tokens=rng.choice((0, 0, 4)),
        repetition_penalty=rng.choice((1.0, 1.0, 1.3)),
        no_repeat_ngram_size=rng.choice((0, 0, 2)),
        return_scores=rng.random() < 0.5,
    )


@pytest.fixture(scope="module")
def sources(bundle: Bundle, sentences: list[str]) -> list[list[int]]:
    chosen = random.Random(5).sample(sentences, NUM_SENTENCES)
    return [list(ids) for ids in Tokenizer.from_bundle(bundle).encode(chosen)]


@pytest.fixture(scope="module")
def graphs(bundle: Bundle) -> Graphs:
    return Graphs.open(bundle, "fp32", "cpu")


@pytest.fixture(scope="module")
def model(bundle: Bundle) -> DeviceModel:
    return DeviceModel.of(bundle, "fp32", "cpu")


def rules_of(bundle: Bundle, kind: str) -> TokenRules:
    tokens = bundle.translation.tokens
    return TokenRules(
        eos=tokens.eos,
        decoder_start=tokens.decoder_start,
        suppressed={"plain": (), "forbidding": (11, 45), "renormalising": (11, 45, 90)}[kind],
        renormalize=kind == "renormalising",
    )


def decode(runner: StepRunner, rules: TokenRules, sequences: list[Sequence], seed: int) -> None:
    """They join at random steps."""
    rng = random.Random(seed)
    bench = Bench(runner, rules=rules, encode_tokens_per_step=200)
    waiting = list(sequences)
    while waiting or not bench.workers[0].is_idle:
        for _ in range(min(len(waiting), rng.choice((0, 0, 1, 3)))):
            bench.add(waiting.pop())
        bench.turn()


def assert_same(found: list[Sequence], expected: list[Sequence]) -> None:
    for one, other in zip(found, expected, strict=True):
        count = one.options.num_hypotheses
        assert len(one.finished) == len(other.finished) > 0
        for hypothesis, reference in zip(one.finished[:count], other.finished[:count], strict=True):
            assert hypothesis.token_ids == reference.token_ids
            assert hypothesis.finish_reason is reference.finish_reason
            assert hypothesis.score == pytest.approx(reference.score, abs=SCORE_TOLERANCE)


@pytest.mark.parametrize(
    ("kind", "fixed_bucket"),
    [("plain", False), ("plain", True), ("forbidding", False), ("renormalising", False)],
)
def test_answers_are_those_of_the_cpu_runner_whoever_joins_and_leaves(
    bundle: Bundle,
    graphs: Graphs,
    model: DeviceModel,
    sources: list[list[int]],
    kind: str,
    fixed_bucket: bool,
) -> None:
    rules, rng = rules_of(bundle, kind), random.Random(kind)
    options = [random_options(rng) for _ in sources]
    expected, found = (
        [make_sequence(source, one) for source, one in zip(sources, options, strict=True)]
        for _ in range(2)
    )
    for sequence in expected:
        Bench(Runner(graphs, sequence.beam_size), rules=rules).run(sequence)
    runner = DeviceRunner(model, MAX_ROWS, CACHE_BYTES, fixed_bucket=fixed_bucket)
    decode(runner, rules, found, seed=1)
    assert_same(found, expected)
    assert runner.table.num_rows == 0


def test_a_sequence_that_is_cancelled_does_not_disturb_its_neighbours(
    bundle: Bundle, graphs: Graphs, model: DeviceModel, sources: list[list[int]]
) -> None:
    rules, rng = rules_of(bundle, "plain"), random.Random(8)
    options = [DecodingOptions(beam_size=rng.choice((1, 4))) for _ in sources[:12]]
    pairs = list(zip(sources, options, strict=False))
    expected, found = ([make_sequence(*pair) for pair in pairs] for _ in range(2))
    for sequence in expected:
        Bench(Runner(graphs, sequence.beam_size), rules=rules).run(sequence)
    bench = Bench(DeviceRunner(model, MAX_ROWS, CACHE_BYTES), rules=rules)
    bench.add(*found)
    for place in (0, 5, 11):  # the first, one in the middle, the last
        for _ in range(3):
            bench.turn()
        found[place].is_cancelled = True
    bench.run()
    staying = [place for place in range(12) if place not in (0, 5, 11)]
    assert_same([found[place] for place in staying], [expected[place] for place in staying])


def test_moves_of_rows_that_have_not_been_made_follow_each_other(
    bundle: Bundle, model: DeviceModel, sources: list[list[int]]
) -> None:
    runner = DeviceRunner(model, 8, CACHE_BYTES)
    rng = np.random.default_rng(1)
    own = rng.normal(0, 1, runner._own_cache.shape).astype(np.float32)
    cross = rng.normal(0, 1, runner._cross_cache.shape).astype(np.float32)
    runner._own_cache.write(own)
    runner._cross_cache.write(cross)
    runner.table.lengths[:] = 8
    runner.table.source_ends[:] = 7
    for source, target in ((7, 3), (6, 2), (3, 1), (5, 3)):
        runner.move_row(source, target)
    runner.copy_rows(np.array([1]), np.array([0]), np.array([8]))
    found = runner._own_cache.read()[..., :8, :]
    for target, source in ((1, 7), (2, 6), (3, 5), (0, 7), (4, 4)):
        assert (found[:, target] == own[:, source, :, :8]).all()
    assert (runner._cross_cache.read()[:, 1, :, :8] == cross[:, 7, :, :8]).all()


class ForgetfulSession:
    """A session of ONNX Runtime that finds no memory on its device, every so many runs, for
    several sequences."""

    def __init__(self, session: Any, every: int, runner: DeviceRunner) -> None:
        self._session = session
        self._every = every
        self._owners = runner.table.owners
        self._num_runs = self.num_refused = 0

    def io_binding(self) -> Any:
        return self._session.io_binding()

    def run_with_iobinding(self, binding: Any, options: Any = None) -> None:
        self._num_runs += 1
        several = len({id(owner) for owner in self._owners if owner is not None}) > 1
        if several and self._num_runs % self._every == 0:
            self.num_refused += 1
            raise RuntimeError(NO_MEMORY)
        self._session.run_with_iobinding(binding, options)


@pytest.mark.parametrize(
    ("graph", "every"),
    [
        *(("_encoder", 3), ("_decoder", 4), ("_transfer", 3), ("_candidates", 40)),
        *(("_fetch", 25), ("_edit", 2)),
    ],
)
def test_a_device_that_has_no_memory_for_a_run_harms_no_answer(
    bundle: Bundle,
    graphs: Graphs,
    model: DeviceModel,
    sources: list[list[int]],
    graph: str,
    every: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It ended all who ran, and rows whose move had failed went on with another row's past."""
    monkeypatch.setattr(faults, "MEMORY_PAUSES_SECONDS", ())
    rules, rng = rules_of(bundle, "plain"), random.Random(11)
    options = [random_options(rng) for _ in sources]
    expected, found = (
        [make_sequence(source, one) for source, one in zip(sources, options, strict=True)]
        for _ in range(2)
    )
    for sequence in expected:
        Bench(Runner(graphs, sequence.beam_size), rules=rules).run(sequence)
    runner = DeviceRunner(model, MAX_ROWS, CACHE_BYTES)
    owner = getattr(runner, graph)
    owner = getattr(owner, "_graph", owner)
    owner.session = session = ForgetfulSession(owner.session, every, runner)
    decode(runner, rules, found, seed=2)
    assert session.num_refused > 1
    assert_same(found, expected)


def test_a_row_without_numbers_disturbs_no_other(model: DeviceModel) -> None:
    """Its likeliest token was one behind the vocabulary, and an IndexError everybody's."""
    runner = DeviceRunner(model, 4, CACHE_BYTES)
    runner.table.num_rows = 4
    logits = runner.step()
    expected = logits.argmax(axis=1)
    logits = runner.step()
    logits[np.array([2]), np.array([7])] = np.nan
    found = logits.argmax(axis=1)
    assert found[2] == 7  # as NumPy has it
    assert found[[0, 1, 3]].tolist() == expected[[0, 1, 3]].tolist()
    assert np.isfinite(logits[np.arange(4), found]).tolist() == [True, True, False, True]


def test_steps_run_over_powers_of_two_and_all_rows() -> None:
    assert buckets(1) == (1,)
    assert buckets(24) == (1, 2, 4, 8, 16, 24)
    assert buckets(64) == (1, 2, 4, 8, 16, 32, 64)


def test_a_runner_is_opened_from_a_bundle_checked_and_warm(bundle: Bundle) -> None:
    runner = open_device_runner(bundle, "fp32", "cpu", max_rows=3, cache_bytes=CACHE_BYTES)
    assert runner.table.capacity == 3
    assert not runner.is_captured
    sizes = DeviceModel.of(bundle, "fp32", "cpu").sizes
    fewer = DeviceRunner(
        DeviceModel.of(bundle, "fp32", "cpu"), 8, cache_bytes=2 * sizes.longest_row_bytes + 1
    )
    assert fewer.table.capacity == 2  # as many as the bytes are for


def test_too_little_memory_is_said_with_what_was_needed(model: DeviceModel) -> None:
    with pytest.raises(BundleError, match="bytes of caches for a row on cpu, found 1000"):
        DeviceRunner(model, 8, 1000)
    with pytest.raises(BundleError, match=r"expected \d+ bytes of memory on cpu for caches"):
        DeviceBuffer("cpu", (1 << 60,), np.float16, "caches")


def test_int8_caches_are_refused(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="expected float caches on cpu, int8 has int8 ones"):
        DeviceModel.of(bundle, "int8", "cpu")


def test_an_error_of_the_device_names_it() -> None:
    graph = DeviceGraph(GRAPHS / "fetch.onnx", "cpu")
    logits = np.zeros((2, 3), np.float32)
    outside = Tensors({}, {}, {"logits": logits, "rows": np.array([9])}, fetched=("fetched",))
    with pytest.raises(DeviceError, match=r"device cpu failed in fetch\.onnx: .*out of"):
        graph.run_once(outside)
    inside = Tensors({}, {}, {"logits": logits, "rows": np.array([1])}, fetched=("fetched",))
    assert graph.run_once(inside)[0].shape == (1, 3)  # it goes on


class WithoutGraphs:
    """A session in which nothing can be captured."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def io_binding(self) -> Any:
        return self._session.io_binding()

    def run_with_iobinding(self, binding: Any, options: Any = None) -> None:
        if options is not None:
            raise RuntimeError("operation not permitted when stream is capturing")
        self._session.run_with_iobinding(binding)


def edited(graph: DeviceGraph, place: int) -> list[float]:
    logits = DeviceBuffer("cpu", (1, 3), np.float32, "logits")
    view = logits.view()
    given = {"places": np.array([[0, place]]), "values": np.ones(1, np.float32)}
    graph.run(place, lambda: Tensors({"logits": view}, {"result": view}, given))
    values: list[float] = logits.read()[0].tolist()
    return values


def test_where_nothing_can_be_captured_graphs_run_as_they_are(
    caplog: pytest.LogCaptureFixture,
) -> None:
    graph = DeviceGraph(GRAPHS / "edit.onnx", "cpu", capture=True)
    assert edited(graph, 0) == [1.0, 0.0, 0.0]
    graph.session = WithoutGraphs(graph.session)
    assert edited(graph, 1) == [0.0, 1.0, 0.0]
    assert "edit.onnx runs without CUDA graphs: operation not permitted" in caplog.text
    caplog.clear()
    assert edited(graph, 2) == [0.0, 0.0, 1.0]
    assert not caplog.text
    with pytest.raises(DeviceError, match=r"device cpu failed in edit\.onnx"):
        edited(graph, 7)


def test_a_graph_that_cannot_be_opened_again_is_an_error_of_the_device_until_it_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph = DeviceGraph(GRAPHS / "edit.onnx", "cpu", capture=True)
    graph.session = WithoutGraphs(graph.session)
    with monkeypatch.context() as patch:
        patch.setattr(device_memory, "open_session", _find_no_memory)
        for _ in range(2):
            with pytest.raises(DeviceMemoryError, match=r"failed in edit\.onnx: expected a graph"):
                edited(graph, 1)
    assert edited(graph, 1) == [0.0, 1.0, 0.0]


def _find_no_memory(path: Path, **given: object) -> None:
    raise BundleError(f"expected a graph in {path}, found: {NO_MEMORY}")


def test_a_lack_of_memory_is_told_from_a_failure() -> None:
    assert issubclass(DeviceMemoryError, DeviceError)
    assert is_out_of_memory(RuntimeError("CUDA failure 2: out of memory ; GPU=0"))
    assert is_out_of_memory(RuntimeError("BFCArena: Failed to allocate memory for requested"))
    assert not is_out_of_memory(RuntimeError("CUDA failure 700: an illegal memory access"))


async def test_an_engine_over_a_device_runner_translates_as_over_the_cpu_runner(
    bundle: Bundle, sentences: list[str]
) -> None:
    def open_there(
        bundle: Bundle, precision: str, device: Device, workers: Workers
    ) -> list[DeviceRunner]:
        return [
            open_device_runner(
                bundle, precision, device, max_rows=16, cache_bytes=workers.cache_bytes
            )
        ]

    settings = Settings.model_validate({"device": "cpu", "precision": "fp32"})
    answers = []
    for opener in (open_there, open_runners):
        engine = TranslationEngine(
            bundle, settings=settings, metrics=Metrics.create(), open_runners=opener
        )
        engine.start()
        found = await engine.translate(sentences[:40], engine.default_options)
        await engine.stop()
        answers.append([one.hypotheses[0].text for one in found.results])
    assert answers[0] == answers[1]
    assert len(set(answers[0])) > 30
