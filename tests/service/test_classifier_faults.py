"""Runs of a classifier that fail: the culprit, too little memory, a lost GPU; callers who leave.

The runner is the real one, on the CPU, but for what it is told to say.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service import faults
from service.bundle import Bundle
from service.classification.engine import Classification, ClassificationEngine
from service.devices import Devices
from service.errors import (
    BundleError,
    Draining,
    InternalError,
    ModelUnavailable,
    NoMemory,
    Overloaded,
)
from service.metrics import Metrics
from service.settings import Settings
from tests.losses import ILLEGAL_ACCESS, LOSSES, NO_MEMORY
from tests.service.conftest import LABELS, image_file, total, write_classifier
from tests.service.faulty import FaultyRunner

COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


class Rig:
    """An engine over faulty runners."""

    def __init__(self, folder: Path, devices: Devices | None = None, **given: Any) -> None:
        self.metrics = Metrics.create()
        self.runners: list[FaultyRunner] = []
        self.devices = devices or Devices(choose=lambda setting: "cuda")
        self.refuses = False
        self.engine = ClassificationEngine(
            Bundle.open(folder),
            settings=Settings(**{"image_batch_delay_seconds": 60.0, **given}),
            metrics=self.metrics,
            devices=self.devices,
            open_runner=self._open,
        )
        self.changes: list[tuple[str, str | None]] = []
        self.engine.start(lambda: self.changes.append((self.engine.device, self.engine.failed)))

    def _open(self, bundle: Bundle, *, device: str, **given: Any) -> FaultyRunner:
        if self.refuses:
            raise BundleError("expected a graph that a CPU can run")
        self.runners.append(FaultyRunner(bundle, device=device, **given))
        return self.runners[-1]


def colours(count: int) -> list[bytes]:
    return [image_file(COLOURS[number % 3]) for number in range(count)]


def labels(classification: Classification) -> list[str]:
    return [one.labels[0].label if one.error is None else "" for one in classification.results]


def is_blue(pixels: NDArray[np.float32]) -> bool:
    return bool(pixels[2].mean() > pixels[0].mean())


def blames(
    words: str, culprit: Callable[[NDArray[np.float32]], bool]
) -> Callable[[Sequence[NDArray[np.float32]]], str | None]:
    return lambda images: words if any(map(culprit, images)) else None


async def test_only_the_image_that_makes_a_run_fail_is_an_error(tmp_path: Path) -> None:
    rig = Rig(write_classifier(tmp_path))
    rig.runners[0].fault = blames("this image cannot be classified", is_blue)
    files = [*colours(2) * 3, image_file(COLOURS[2]), *colours(2)]
    found = await rig.engine.classify(files)
    assert labels(found) == ["red", "green"] * 3 + [""] + ["red", "green"]
    assert isinstance(found.results[6].error, InternalError)
    assert "classified" not in found.results[6].error.message
    assert rig.runners[0].batches[0] == 9
    assert len(rig.runners[0].batches) <= 1 + 2 * 4
    assert rig.engine.degraded is None
    await rig.engine.stop()


async def test_where_memory_lacks_batches_are_halved_and_grow_by_one_a_run(tmp_path: Path) -> None:
    rig = Rig(write_classifier(tmp_path))
    (runner,) = rig.runners
    runner.fault = lambda images: NO_MEMORY if len(images) > 5 else None
    assert labels(await rig.engine.classify(colours(16))) == [*LABELS[:3] * 5, "red"]
    assert runner.batches == [16, 8, 4, 4, 8, 4, 4]
    runner.fault = lambda images: None
    runner.batches.clear()
    assert None not in labels(await rig.engine.classify(colours(64)))
    assert runner.batches == [8, 9, 10, 11, 12, 13, 1]
    await rig.engine.stop()


async def test_an_image_that_memory_lacks_for_alone_may_be_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "MEMORY_PAUSES_SECONDS", (0.0, 0.0))
    rig = Rig(write_classifier(tmp_path))
    (runner,) = rig.runners
    runner.fault = blames(NO_MEMORY, is_blue)
    found = await rig.engine.classify(colours(4))
    assert labels(found) == ["red", "green", "", "red"]
    assert isinstance(found.results[2].error, NoMemory)
    num_lean = len(runner.batches)
    runner.fault = lambda images: NO_MEMORY if len(runner.batches) < num_lean + 2 else None
    assert labels(await rig.engine.classify(colours(1))) == ["red"]
    await rig.engine.stop()


async def test_an_image_that_memory_lacks_for_to_decode_it_may_be_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(write_classifier(tmp_path))
    preprocess, blue = rig.engine._preprocess, image_file(COLOURS[2])

    def lean(content: bytes) -> NDArray[np.float32]:
        if content == blue:
            raise MemoryError
        return preprocess(content)

    monkeypatch.setattr(rig.engine, "_preprocess", lean)
    found = await rig.engine.classify(colours(4))
    assert labels(found) == ["red", "green", "", "red"]
    assert isinstance(found.results[2].error, NoMemory)
    await rig.engine.stop()


@pytest.mark.parametrize("words", LOSSES)
async def test_images_on_a_lost_gpu_are_classified_by_the_cpu(tmp_path: Path, words: str) -> None:
    rig = Rig(write_classifier(tmp_path), max_queued_images=64)
    rig.runners[0].fault = lambda images: words
    found = await asyncio.gather(*(rig.engine.classify(colours(4)) for _ in range(8)))
    assert [labels(one) for one in found] == [["red", "green", "blue", "red"]] * 8
    assert [runner.device for runner in rig.runners] == ["cuda", "cpu"]
    assert rig.engine.device == "cpu"
    assert rig.engine.degraded == f"the GPU was lost: {LOSSES[words]}, on the CPU from now on"
    assert ("cpu", None) in rig.changes
    with pytest.raises(Overloaded, match="the call has 9 images, the queue takes 8 at most"):
        await rig.engine.classify(colours(9))
    assert total(rig.metrics, "attendant_requests_waiting") == 0
    await rig.engine.stop()


async def test_an_idle_classifier_follows_when_another_model_loses_the_gpu(tmp_path: Path) -> None:
    rig = Rig(write_classifier(tmp_path))
    moved = asyncio.Event()
    rig.engine.on_change = lambda: moved.set() if rig.engine.device == "cpu" else None
    await asyncio.to_thread(rig.devices.lose, "elsewhere")
    await asyncio.wait_for(moved.wait(), 30)
    rig.runners[0].fault = lambda images: ILLEGAL_ACCESS
    assert labels(await rig.engine.classify(colours(2))) == ["red", "green"]
    await rig.engine.stop()


async def test_a_classifier_that_cannot_be_opened_on_the_cpu_hangs_nobody(tmp_path: Path) -> None:
    rig = Rig(write_classifier(tmp_path))
    rig.refuses = True
    rig.runners[0].fault = lambda images: ILLEGAL_ACCESS
    for _ in range(2):
        with pytest.raises(ModelUnavailable, match="it cannot be opened on the CPU"):
            await asyncio.wait_for(rig.engine.classify(colours(3)), 30)
    assert rig.engine.failed is not None
    assert total(rig.metrics, "attendant_requests_waiting") == 0
    await rig.engine.stop()


async def test_where_the_server_is_to_end_no_image_waits_for_the_cpu(tmp_path: Path) -> None:
    rig = Rig(write_classifier(tmp_path), exit_on_device_loss=True)
    rig.runners[0].fault = lambda images: ILLEGAL_ACCESS
    with pytest.raises(Draining, match="the GPU was lost"):
        await asyncio.wait_for(rig.engine.classify(colours(3)), 30)
    assert len(rig.runners) == 1
    await rig.engine.stop()


async def test_images_whose_caller_left_are_neither_decoded_nor_run(tmp_path: Path) -> None:
    rig = Rig(write_classifier(tmp_path), image_threads=1)
    large = image_file(size=4000)  # takes the only thread for longer than it takes to leave
    leaving = asyncio.create_task(rig.engine.classify([large, *colours(20)]))
    classify = partial(rig.engine.classify, colours(2))
    for _ in range(3):
        await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    assert labels(await classify()) == ["red", "green"]
    assert total(rig.metrics, "attendant_preprocess_seconds_count") == 3
    assert rig.runners[0].batches == [2]
    await rig.engine.stop()
