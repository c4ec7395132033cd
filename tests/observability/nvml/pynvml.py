"""Stands for nvidia-ml-py and a driver in a server's process: one GPU, at work."""

from types import SimpleNamespace
from typing import Any


class NVMLError(Exception):
    """What the real one raises."""


def nvmlInit() -> None:
    """Nothing to find."""


def nvmlDeviceGetCount() -> int:
    return 1


def nvmlDeviceGetHandleByIndex(number: int) -> int:
    return number


def nvmlDeviceGetMemoryInfo(device: int) -> Any:
    return SimpleNamespace(used=20 << 30, total=80 << 30)


def nvmlDeviceGetUtilizationRates(device: int) -> Any:
    return SimpleNamespace(gpu=60)
