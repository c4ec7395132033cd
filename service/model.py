"""One version of one model as the repository keeps it, and what it needs of an engine.

Knows neither engines' insides, nor folders, nor the wire.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from time import monotonic
from typing import Protocol

from service.bundle import Bundle, BundleCard


class Engine(Protocol):
    """What the repository needs of an engine; constructing one loads and warms up its model."""

    @property
    def model_name(self) -> str:
        """ "NAME/VERSION"."""

    @property
    def device(self) -> str:
        """ "cpu" or "cuda"."""

    @property
    def precision(self) -> str:
        """ "fp32", "int8" or "fp16"."""

    @property
    def degraded(self) -> str | None:
        """Why it does not serve as it was meant to; None while it does."""

    @property
    def failed(self) -> str | None:
        """Why it can no longer serve at all; None while it can."""

    def start(self, on_change: Callable[[], None] = ...) -> None:
        """Begin to serve, on the running loop, and tell there of `degraded` and `failed`."""

    async def stop(self) -> None:
        """End all threads; no call is running any more."""


EngineFactory = Callable[[Bundle], Engine]


class ModelState(Enum):
    """Whether a model can be called."""

    UNLOADED = "unloaded"  # the first call loads it
    LOADING = "loading"
    READY = "ready"
    DEGRADED = "degraded"
    FAILED = "failed"


class LoadedEngine:
    """An engine and the calls that it is in, none of which it is stopped under."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.last_used = monotonic()
        self._num_calls = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def is_idle(self) -> bool:
        """Whether no call uses it."""
        return self._num_calls == 0

    def hold(self) -> None:
        """Count a call; whoever does calls `release` at its end."""
        self._num_calls += 1
        self._idle.clear()

    def release(self) -> None:
        """The call is over."""
        self.last_used = monotonic()
        self._num_calls -= 1
        if self.is_idle:
            self._idle.set()

    async def wait_idle(self) -> None:
        """Return when no call uses it."""
        await self._idle.wait()

    async def stop(self) -> None:
        """Wait for the last call, then end the engine."""
        await self.wait_idle()
        await self.engine.stop()


@dataclass(slots=True, eq=False)
class Model:
    """One version of one model, whatever became of it; lives on the event loop."""

    name: str
    version: int
    folder: Path
    fingerprint: tuple[int, int] = (0, 0)  # of its card: modified at, in nanoseconds, and size
    card: BundleCard | None = None
    num_bytes: int = 0  # of the weights and graphs that an engine loads
    loaded: LoadedEngine | None = None
    loading: asyncio.Task[None] | None = None
    # Calls that wait to be handed the engine, already held for them; None: it could not be loaded.
    waiting: list[asyncio.Future[LoadedEngine | None]] = field(default_factory=list)
    failure: str = ""
    refused: str = ""  # what is wrong with the bundle that was to replace it while it serves
    is_new: bool = True  # until the scan that found it has decided whether to load it
    has_served: bool = False  # it was loaded once, as it is now

    @property
    def full_name(self) -> str:
        """ "NAME/VERSION"."""
        return f"{self.name}/{self.version}"

    @property
    def engine(self) -> Engine | None:
        """Its engine, while it is loaded."""
        return self.loaded.engine if self.loaded is not None else None

    @property
    def state(self) -> ModelState:
        """Derived from what it has: an engine, a task that loads it, a failure, or nothing."""
        if not self.can_serve:
            return ModelState.FAILED
        if self.loaded is not None:
            return ModelState.DEGRADED if self.state_message else ModelState.READY
        return ModelState.LOADING if self.loading is not None else ModelState.UNLOADED

    @property
    def state_message(self) -> str:
        """Why it is degraded or failed."""
        if self.loaded is None:
            return self.failure
        refused = self.refused and f"it was to be replaced, but: {self.refused}"
        engine = self.loaded.engine
        return "; ".join(filter(None, (engine.failed, engine.degraded, refused)))

    @property
    def can_serve(self) -> bool:
        """Whether a call may be sent to it, even if it has to be loaded first."""
        if self.loaded is not None:
            return not self.loaded.engine.failed
        return self.loading is not None or not self.failure

    @property
    def task(self) -> str:
        """The card's task; empty where the card could not be read."""
        return self.card.task if self.card is not None else ""

    def hand_over(self) -> None:
        """Give those who wait the engine, a call held for each; or None if there is none."""
        waiting, self.waiting = self.waiting, []
        for waiter in waiting:
            if not waiter.done():  # its caller may have left
                if self.loaded is not None:
                    self.loaded.hold()
                waiter.set_result(self.loaded)
