"""Who made it fail, and whether it was the device."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from service import faults
from service.devices import QUEUE_SHARE_AFTER_LOSS, Devices
from service.errors import BundleError
from service.faults import MEMORY_PAUSES_SECONDS, DeviceLost, raise_if_device_lost, run_by_halves
from service.settings import Precision, Settings
from tests.losses import ILLEGAL_ACCESS, LOSSES, NO_LOSSES


@pytest.mark.parametrize(("words", "loss"), LOSSES.items())
def test_what_a_runtime_says_of_a_lost_device_is_understood(words: str, loss: str) -> None:
    with pytest.raises(DeviceLost) as found:
        raise_if_device_lost(RuntimeError(words))
    assert str(found.value) == loss
    outer = RuntimeError("a step failed")
    outer.__cause__ = RuntimeError(words)
    with pytest.raises(DeviceLost, match="failure"):
        raise_if_device_lost(outer)


@pytest.mark.parametrize("words", NO_LOSSES)
def test_a_lack_of_memory_and_a_failing_graph_lose_no_device(words: str) -> None:
    raise_if_device_lost(RuntimeError(words))


def test_nobody_is_blamed_for_a_lost_device() -> None:
    sizes: list[int] = []

    def run(members: range) -> None:
        sizes.append(len(members))
        raise RuntimeError(ILLEGAL_ACCESS)

    with pytest.raises(DeviceLost):
        run_by_halves(run, range(8))  # type: ignore[arg-type]
    assert sizes == [8]


def test_who_finds_no_memory_alone_is_told_from_who_makes_it_fail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(faults, "MEMORY_PAUSES_SECONDS", (0.0, 0.0))
    done: list[int] = []

    def run(members: Sequence[int]) -> None:
        if 5 in members:
            raise RuntimeError("this one cannot be run")
        if 2 in members or 3 in members:
            raise MemoryError
        done.extend(members)

    failures = run_by_halves(run, range(8))
    assert (failures.members, failures.starved) == ([5], [2, 3])
    assert failures.lack_memory
    assert done == [0, 1, 4, 6, 7]


def test_who_finds_no_memory_alone_is_run_again_a_moment_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For all together as often as for one: a batch that starves does not wait for each."""
    pauses: list[float] = []
    monkeypatch.setattr(faults.time, "sleep", pauses.append)
    runs: list[int] = []

    def run(members: Sequence[int]) -> None:
        runs.append(len(members))
        if len(pauses) < 2:
            raise MemoryError

    failures = run_by_halves(run, range(4))
    assert not failures.starved
    assert failures.lack_memory
    assert runs == [4, 2, 1, 1, 1, 1, 2]
    pauses.clear()
    monkeypatch.setattr(faults.time, "sleep", lambda seconds: None)
    assert run_by_halves(run, range(4)).starved == [0, 1, 2, 3]
    assert len(runs) == 7 + 7 + len(MEMORY_PAUSES_SECONDS)


@dataclass(frozen=True)
class Model:
    """What is known of a bundle."""

    task: str
    precisions: tuple[str, ...]


@pytest.mark.parametrize(
    ("task", "asked", "shipped", "expected"),
    [
        ("translation", "auto", ("fp32", "int8", "fp16"), ("cuda", "fp16")),
        ("translation", "auto", ("fp32", "int8"), ("cpu", "int8")),
        ("translation", "fp32", ("fp32", "int8", "fp16"), ("cpu", "fp32")),
        ("classification", "auto", ("fp32", "int8", "fp16"), ("cuda", "fp16")),
        ("classification", "auto", ("fp32", "int8"), ("cuda", "fp32")),
        ("classification", "int8", ("fp32", "int8", "fp16"), ("cpu", "int8")),
    ],
)
def test_what_no_gpu_computes_goes_to_the_cpu(
    task: str, asked: Precision, shipped: tuple[str, ...], expected: tuple[str, str]
) -> None:
    devices = Devices(choose=lambda setting: "cuda")
    model = Model(task, shipped)
    assert devices.place(Settings(precision=asked), model) == expected
    told = Settings(precision=asked, device="cuda")
    if expected[0] == "cuda":
        assert devices.place(told, model) == expected
    else:
        with pytest.raises(
            BundleError, match=rf"a GPU computes {task} in fp16.*, found fp32, int8"
        ):
            devices.place(told, model)


def test_who_watches_hears_of_a_loss_once_and_models_go_to_the_cpu() -> None:
    devices = Devices(choose=lambda setting: "cuda")
    heard: list[str] = []
    devices.watch(lambda: heard.append("early"))
    gone = heard.clear
    devices.watch(gone)
    devices.unwatch(gone)
    settings = Settings(precision="fp16")
    model = Model("translation", ("fp32", "int8", "fp16"))
    assert devices.place(settings, model) == ("cuda", "fp16")
    assert devices.max_queued(settings, model, 80) == 80
    devices.lose("first")
    devices.lose("second")
    devices.watch(lambda: heard.append("late"))
    assert heard == ["early", "late"]
    assert devices.place(settings, model) == ("cpu", "int8")
    assert devices.max_queued(settings, model, 80) == 80 * QUEUE_SHARE_AFTER_LOSS
    assert devices.max_queued(settings, model, 1) == 1
    assert devices.trouble(settings, model) == "the GPU was lost: first, on the CPU from now on"
    assert devices.trouble(Settings(device="cpu"), model) is None


def test_what_was_always_on_the_cpu_has_lost_nothing_with_a_gpu() -> None:
    """Such models were called degraded, and let in an eighth of their queue."""
    devices = Devices(choose=lambda setting: "cuda")
    devices.lose("it fell off the bus")
    for precision, shipped in (("auto", ("fp32", "int8")), ("int8", ("fp32", "int8", "fp16"))):
        settings = Settings.model_validate({"precision": precision})
        model = Model("translation", shipped)
        assert devices.place(settings, model) == ("cpu", "int8")
        assert devices.trouble(settings, model) is None
        assert devices.max_queued(settings, model, 80) == 80
    assert devices.trouble(Settings(), Model("translation", ("fp32", "fp16"))) is not None
