"""What the device can do, measured: operations and bytes a second, the time of an empty kernel."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from service.runtime import Device

NUM_KERNELS = 1000


@dataclass(frozen=True, slots=True)
class Chip:
    """A device by its name and its limits."""

    name: str
    operations_per_second: float  # of float16 matrix products (float32 on a CPU)
    bytes_per_second: float  # read and written by a copy
    kernel_seconds: float  # of one that does next to nothing, in a CUDA graph


def measure_chip(device: Device) -> Chip:
    """Some seconds on a GPU."""
    on_gpu = device == "cuda"
    name = torch.cuda.get_device_name() if on_gpu else "cpu"
    size, num_bytes = (8192, 1 << 30) if on_gpu else (256, 1 << 22)
    kind = torch.float16 if on_gpu else torch.float32
    left, right = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    product_seconds = best_seconds(lambda: left @ right, device)
    source = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy_seconds = best_seconds(lambda: target.copy_(source), device)
    return Chip(
        name=name,
        operations_per_second=2 * size**3 / product_seconds,
        bytes_per_second=2 * num_bytes / copy_seconds,
        kernel_seconds=_kernel_seconds(device),
    )


def best_seconds(work: Callable[[], object], device: Device, rounds: int = 10) -> float:
    """The shortest time of some rounds, after a few to warm up."""
    for _ in range(3):
        work()
    seconds = []
    for _ in range(rounds):
        synchronise(device)
        begun = time.perf_counter()
        work()
        synchronise(device)
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def synchronise(device: Device) -> None:
    """Wait for all that PyTorch has asked of the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def count_kernels(work: Callable[[], object]) -> int:
    """The kernels that some work launches, whoever does; 0 where there is no GPU."""
    work()
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    on_gpu = torch.autograd.DeviceType.CUDA
    names = [event.name for event in profile.events() if event.device_type == on_gpu]
    return sum(not name.startswith(("Memcpy", "Memset")) for name in names)


def _kernel_seconds(device: Device) -> float:
    number = torch.zeros(1, device=device)

    def launch() -> None:
        for _ in range(NUM_KERNELS):
            number.add_(0)

    if device == "cpu":
        return best_seconds(launch, device) / NUM_KERNELS
    launch()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch()
    return best_seconds(graph.replay, device) / NUM_KERNELS
