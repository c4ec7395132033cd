"""Which device a model goes to, and what became of the GPU of this process.

Of models it knows what they are for and ship, of runtimes no sessions. Safe in any thread.
"""

import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from service.errors import BundleError
from service.runtime import Device, choose_device
from service.settings import Settings

logger = logging.getLogger(__name__)

# What a GPU computes as it should, by task, best first. Attention over caches takes float16 alone
# there. In another type it is left to the CPU, beside a GPU that has the caches: wrong words came
# out, without an error.
GPU_PRECISIONS: Mapping[str, Sequence[str]] = {
    "translation": ("fp16",),
    "classification": ("fp16", "fp32"),
}
CPU_PRECISIONS = ("int8", "fp32")  # best first; the rest is slower there

# After the loss of a GPU: the share of what a queue took before it that it takes on the CPU.
QUEUE_SHARE_AFTER_LOSS = 1 / 8


class Shipped(Protocol):
    """A bundle, or the card of one."""

    @property
    def task(self) -> str:
        """ "translation" or "classification"."""

    @property
    def precisions(self) -> Collection[str]:
        """Those it ships."""


class Devices:
    """One a process: a GPU that is lost, is lost to all of it, and comes back by a restart."""

    def __init__(self, choose: Callable[[str], Device] = choose_device) -> None:
        self._choose = choose
        self._lock = threading.Lock()
        self._watchers: list[Callable[[], None]] = []
        self._kept: list[object] = []
        self.loss = ""  # how the GPU was lost; empty: it was not

    def place(self, settings: Settings, model: Shipped) -> tuple[Device, str]:
        """The device and, of those that the model ships, the precision.

        What no GPU computes goes to the CPU, unless a GPU was asked for. Raises BundleError.
        """
        setting = settings.precision
        if self.loss:
            # Who asked for fp16 asked for it on the GPU.
            setting = "auto" if setting == "fp16" else setting
        elif self._choose(settings.device) == "cuda":
            if (precision := _gpu_precision(settings, model)) is not None:
                return "cuda", precision
            if settings.device == "cuda":
                raise BundleError(_not_for_gpus(setting, model))
        return "cpu", choose_precision(setting, model.precisions)

    def trouble(self, settings: Settings, model: Shipped) -> str | None:
        """Why a model does not run where these settings want it; None where it does."""
        if not self.loss or settings.device == "cpu" or _gpu_precision(settings, model) is None:
            return None
        return f"the GPU was lost: {self.loss}, on the CPU from now on"

    def max_queued(self, settings: Settings, model: Shipped, limit: int) -> int:
        """How much a model's queue of this limit takes now."""
        if self.trouble(settings, model) is None:
            return limit
        return max(1, int(limit * QUEUE_SHARE_AFTER_LOSS))

    def watch(self, on_loss: Callable[[], None]) -> None:
        """Call `on_loss` once when the GPU is lost, on any thread, or at once if it is already."""
        with self._lock:
            self._watchers.append(on_loss)
            is_lost = bool(self.loss)
        if is_lost:
            on_loss()

    def unwatch(self, on_loss: Callable[[], None]) -> None:
        """Call it no more."""
        with self._lock:
            self._watchers = [one for one in self._watchers if one != on_loss]

    def lose(self, loss: str) -> None:
        """The GPU failed in this way; whoever says so first is heard."""
        with self._lock:
            if self.loss:
                return
            self.loss = loss
            watchers = list(self._watchers)
        logger.critical("the GPU was lost: %s", loss)
        for on_loss in watchers:
            on_loss()

    def keep(self, *objects: object) -> None:
        """Hold on to what lies on a lost GPU: to free it there can hang or end the process."""
        self._kept += objects


# Of this process.
DEVICES = Devices()


def choose_precision(setting: str, precisions: Collection[str]) -> str:
    """The precision to load on a CPU, of those that a bundle ships. Raises BundleError."""
    for precision in (*CPU_PRECISIONS, *precisions) if setting == "auto" else (setting,):
        if precision in precisions:
            return precision
    raise BundleError(f"expected precision {setting}, found {', '.join(precisions) or 'none'}")


def _gpu_precision(settings: Settings, model: Shipped) -> str | None:
    """The one that a GPU computes the model in, if it ships one and no other was asked for."""
    for precision in GPU_PRECISIONS[model.task]:
        if precision in model.precisions and settings.precision in ("auto", precision):
            return precision
    return None


def _not_for_gpus(setting: str, model: Shipped) -> str:
    asked = "" if setting == "auto" else f", asked for {setting}"
    return (
        f"device cuda: a GPU computes {model.task} in {' or '.join(GPU_PRECISIONS[model.task])}, "
        f"found {', '.join(model.precisions) or 'none'}{asked}; without --device cuda it goes to "
        "the CPU"
    )
