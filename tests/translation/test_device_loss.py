"""A GPU that is lost under load loses no call: the model goes on on the CPU.

Runners on the CPU stand in for those on the GPU, and say what ONNX Runtime says of a lost device.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from service.bundle import Bundle
from service.devices import Devices, Shipped
from service.errors import BundleError, ModelUnavailable, Overloaded, Unavailable
from service.metrics import Metrics
from service.runtime import Device
from service.settings import Settings
from service.translation.caches import CacheSizes
from service.translation.device_runner import open_device_runner
from service.translation.engine import TranslationEngine
from service.translation.options import DecodingOptions
from service.translation.results import TextFinished
from service.translation.runner import open_runners
from service.translation.worker import StepRunner
from service.translation.workers import Workers
from tests.losses import ILLEGAL_ACCESS, LOSSES
from tests.translation.fakes import FakeRunner
from tests.translation.rig import TIMEOUT_SECONDS, Gate, Rig, copied

LOSS = LOSSES[ILLEGAL_ACCESS]
TROUBLE = f"the GPU was lost: {LOSS}, on the CPU from now on"
TEXTS = ["A dog runs.", "A cat sleeps on the sofa.", "Two birds sing.", "Yes.", "It is cold."]

StartRig = Callable[..., AbstractAsyncContextManager[Rig]]


def lose(runner: FakeRunner, *, at_step: int, words: str = ILLEGAL_ACCESS) -> None:
    """From this step on, counted from now, whatever is done with the runner fails."""
    runner.loss, runner.lost_at_step = words, runner.num_steps + at_step


@pytest.fixture
def start_rig(bundle: Bundle) -> StartRig:
    """An engine on a GPU; leaving the block ends it, wherever it runs, and finds it at rest."""

    @asynccontextmanager
    async def start(devices: Devices | None = None, **given: Any) -> AsyncIterator[Rig]:
        devices = devices or Devices(choose=lambda setting: "cuda")
        rig = Rig(bundle, devices, **{"device": "auto", "max_rows": 64, **given})
        async with asyncio.timeout(TIMEOUT_SECONDS):
            rig.engine.start()
            yield rig
            await rig.engine.stop()
        rig.assert_at_rest()

    return start


@pytest.mark.parametrize("words", LOSSES)
@pytest.mark.parametrize("decode_workers", [1, 2])
async def test_calls_on_a_lost_gpu_are_answered_by_the_cpu(
    words: str, decode_workers: int, start_rig: StartRig
) -> None:
    async with start_rig(decode_workers=decode_workers) as rig:
        on_gpu = rig.runners
        for runner in on_gpu:
            lose(runner, at_step=3, words=words)
        calls = [copied(rig, text, beam_size=1 + number) for number, text in enumerate(TEXTS * 4)]
        assert await asyncio.gather(*calls) == TEXTS * 4
        assert rig.engine.device == "cpu"
        assert rig.engine.precision == "int8"
        assert rig.engine.degraded == f"the GPU was lost: {LOSSES[words]}, on the CPU from now on"
        assert rig.engine.failed is None
        assert rig.runners is not on_gpu
        assert await copied(rig, "Later.") == "Later."
        assert rig.reading("wasted_tokens_total", reason="device") > 0
        assert rig.reading("sequences_finished_total", reason="error") == 0


async def test_calls_wait_while_the_cpu_is_made_ready_and_fewer_are_let_in(
    start_rig: StartRig,
) -> None:
    async with start_rig(max_queued_sequences=16) as rig:
        opening, may_open = threading.Event(), threading.Event()

        def wait() -> None:
            opening.set()
            may_open.wait(TIMEOUT_SECONDS)

        rig.before_open = wait
        lose(rig.runner, at_step=1)
        first = asyncio.create_task(copied(rig, "A dog runs."))
        await asyncio.to_thread(opening.wait, TIMEOUT_SECONDS)
        assert rig.engine.degraded == TROUBLE
        second = asyncio.create_task(copied(rig, "A cat sleeps."))
        leaving = asyncio.create_task(copied(rig, "Two."))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        assert rig.reading("requests_waiting") == 2
        with pytest.raises(Overloaded, match="2 sequences wait, 1 more"):
            await copied(rig, "A bird sings.")
        may_open.set()
        assert await asyncio.gather(first, second) == ["A dog runs.", "A cat sleeps."]


async def test_an_idle_model_follows_when_another_one_loses_the_gpu(start_rig: StartRig) -> None:
    devices = Devices(choose=lambda setting: "cuda")
    async with start_rig(devices) as rig, start_rig(devices) as idle:
        opened = asyncio.Event()
        loop = asyncio.get_running_loop()
        idle.before_open = lambda: loop.call_soon_threadsafe(opened.set)  # type: ignore[assignment]
        lose(rig.runner, at_step=1)
        assert await copied(rig, "A dog runs.") == "A dog runs."
        await opened.wait()
        assert (idle.engine.device, idle.engine.degraded) == ("cpu", TROUBLE)
        assert await copied(idle, "A cat.") == "A cat."


async def test_a_model_that_cannot_be_opened_on_the_cpu_hangs_nobody(start_rig: StartRig) -> None:
    async with start_rig(max_rows=2) as rig:

        def refuse() -> None:
            raise BundleError("expected a graph that a CPU can run")

        changes: list[str | None] = []
        rig.engine.on_change = lambda: changes.append(rig.engine.failed)
        rig.before_open = refuse
        lose(rig.runner, at_step=1)
        calls = [rig.engine.translate([text], DecodingOptions()) for text in TEXTS]
        for translation in await asyncio.gather(*calls):
            assert isinstance(translation.results[0].error, ModelUnavailable)
        assert rig.engine.failed == "it cannot be opened on the CPU; the server's log has it"
        assert changes == [None, rig.engine.failed]
        with pytest.raises(ModelUnavailable, match="cannot be opened"):
            await copied(rig, "Later.")
        assert rig.reading("sequences_finished_total", reason="error") == len(TEXTS)


async def test_a_stream_whose_words_were_sent_ends_and_one_that_waits_goes_on(
    start_rig: StartRig,
) -> None:
    async with start_rig(max_rows=1) as rig:
        lose(rig.runner, at_step=4)

        async def last(text: str) -> TextFinished:
            events = [one async for one in rig.engine.stream([text], DecodingOptions())]
            return next(one for one in events if isinstance(one, TextFinished))

        begun = asyncio.create_task(last("A dog runs through the deep snow."))
        await asyncio.sleep(0)
        waiting = asyncio.create_task(last("A cat sleeps."))
        error = (await begun).result.error
        assert isinstance(error, Unavailable)
        assert error.message == "the GPU was lost when a part of the translation was sent"
        assert (await waiting).result.hypotheses[0].text == "A cat sleeps."


class NarrowOnCpu(Devices):
    """Where caches take four times as much on the CPU as on the GPU."""

    def place(self, settings: Settings, model: Shipped) -> tuple[Device, str]:
        return ("cpu", "fp32") if self.loss else ("cuda", "int8")


async def test_beams_that_the_cpu_has_no_room_for_end_with_an_error(
    bundle: Bundle, start_rig: StartRig
) -> None:
    row_bytes = CacheSizes.of(bundle.translation, "fp32").longest_row_bytes
    async with start_rig(NarrowOnCpu(), cache_memory=4 * row_bytes, max_rows=8) as rig:
        assert rig.engine.limits.max_beam_size == 8
        lose(rig.runner, at_step=2)
        gate = Gate(rig.runner)
        wide = [
            asyncio.create_task(rig.engine.translate([text], DecodingOptions(beam_size=8)))
            for text in TEXTS
        ]
        await gate.wait()
        narrow = asyncio.create_task(copied(rig, "Yes.", beam_size=4))
        await asyncio.sleep(0)
        gate.open()
        for translation in await asyncio.gather(*wide):
            error = translation.results[0].error
            assert isinstance(error, Unavailable)
            assert "beam_size is 8, the limit is now 4" in error.message
        assert await narrow == "Yes."
        with pytest.raises(Unavailable, match="the limit is now 4"):
            await rig.engine.translate(["No."], DecodingOptions(beam_size=8))


class LosingSession:
    """A session of ONNX Runtime on a device that is lost after so many runs."""

    def __init__(self, session: Any, num_runs: int) -> None:
        self._session = session
        self._num_left = num_runs

    def io_binding(self) -> Any:
        return self._session.io_binding()

    def run_with_iobinding(self, binding: Any, options: Any = None) -> None:
        self._num_left -= 1
        if self._num_left < 0:
            raise RuntimeError(ILLEGAL_ACCESS)
        self._session.run_with_iobinding(binding, options)


@pytest.mark.parametrize("graph", ["_encoder", "_decoder", "_fetch", "_transfer"])
async def test_the_device_runner_is_left_for_the_cpu_whatever_graph_fails(
    graph: str, bundle: Bundle, sentences: list[str]
) -> None:
    """The real runner of a GPU, on the CPU until it is lost, then the real one of a CPU."""

    def open_there(
        bundle: Bundle, precision: str, device: Device, workers: Workers
    ) -> Sequence[StepRunner]:
        if device == "cpu":
            return open_runners(bundle, precision, device, workers)
        there = open_device_runner(bundle, precision, "cpu", max_rows=16, cache_bytes=1 << 28)
        opened.append(there)
        return [there]

    opened: list[Any] = []
    options = DecodingOptions(beam_size=4, repetition_penalty=1.3, return_scores=True)
    answers = []
    for devices in (Devices(choose=lambda setting: "cuda"), Devices(choose=lambda setting: "cpu")):
        engine = TranslationEngine(
            bundle,
            settings=Settings(precision="fp32", decode_workers=2),
            metrics=Metrics.create(),
            devices=devices,
            open_runners=open_there,
        )
        if engine.device == "cuda":
            owner = opened[0]
            found = getattr(owner, graph)
            found = getattr(found, "_graph", found)
            found.session = LosingSession(found.session, 5)
        engine.start()
        async with asyncio.timeout(TIMEOUT_SECONDS):
            translation = await engine.translate(sentences[:12], options)
            await engine.stop()
        assert engine.device == "cpu"
        answers.append([one.hypotheses for one in translation.results])
    assert devices.loss == ""
    assert answers[0] == answers[1]
