"""Who made it fail, and whether it was the device."""

import pytest

from service.devices import QUEUE_SHARE_AFTER_LOSS, Devices
from service.faults import DeviceLost, raise_if_device_lost, run_by_halves
from service.settings import Settings
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


def test_who_watches_hears_of_a_loss_once_and_models_go_to_the_cpu() -> None:
    devices = Devices(choose=lambda setting: "cuda")
    heard: list[str] = []
    devices.watch(lambda: heard.append("early"))
    gone = heard.clear
    devices.watch(gone)
    devices.unwatch(gone)
    settings = Settings(precision="fp16")
    shipped = ("fp32", "int8", "fp16")
    assert devices.place(settings, shipped) == ("cuda", "fp16")
    assert devices.max_queued(settings, 80) == 80
    devices.lose("first")
    devices.lose("second")
    devices.watch(lambda: heard.append("late"))
    assert heard == ["early", "late"]
    assert devices.place(settings, shipped) == ("cpu", "int8")
    assert devices.max_queued(settings, 80) == 80 * QUEUE_SHARE_AFTER_LOSS
    assert devices.max_queued(settings, 1) == 1
    assert devices.trouble(settings) == "the GPU was lost: first, on the CPU from now on"
    assert devices.trouble(Settings(device="cpu")) is None
