"""One version of one model as the repository keeps it, and what it needs of an engine.

Knows neither engines' insides, nor folders, nor the wire.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from time import monotonic
from typing import Protocol

from service.bundle import Bundle, BundleCard
from service.errors import ModelUnavailable


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

    def start(self) -> None:
        """Begin to serve, on the running loop."""

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


@dataclass(slots=True, eq=False)
class Model:
    """One version of one model, whatever became of it; lives on the event loop."""

    name: str
    version: int
    folder: Path
    fingerprint: tuple[int, int]
    card: BundleCard | None = None
    num_bytes: int = 0  # of the weights and graphs that an engine loads
    engine: Engine | None = None
    loading: asyncio.Task[None] | None = None
    failure: str = ""
    refused: str = ""  # what is wrong with the bundle that was to replace it while it serves
    has_served: bool = False  # it was loaded once, as it is now
    last_used: float = 0.0  # monotonic seconds
    num_calls: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def full_name(self) -> str:
        """ "NAME/VERSION"."""
        return f"{self.name}/{self.version}"

    @property
    def state(self) -> ModelState:
        """Derived from what it has: an engine, a task that loads it, a failure, or nothing."""
        if self.engine is not None:
            return ModelState.DEGRADED if self.state_message else ModelState.READY
        if self.loading is not None:
            return ModelState.LOADING
        return ModelState.FAILED if self.failure else ModelState.UNLOADED

    @property
    def state_message(self) -> str:
        """Why it is degraded or failed."""
        if self.engine is None:
            return self.failure
        refused = self.refused and f"it was to be replaced, but: {self.refused}"
        return "; ".join(filter(None, (self.engine.degraded, refused)))

    @property
    def can_serve(self) -> bool:
        """Whether a call may be sent to it, even if it has to be loaded first."""
        return self.state is not ModelState.FAILED

    @property
    def task(self) -> str:
        """The card's task; empty where the card could not be read."""
        return self.card.task if self.card is not None else ""

    @contextmanager
    def in_use(self) -> Iterator[Engine]:
        """Its engine, which is not stopped within the block. Raises ModelUnavailable."""
        if self.engine is None:
            raise ModelUnavailable(f"{self.full_name} is {self.state.value}")
        self.num_calls += 1
        self.idle.clear()
        try:
            yield self.engine
        finally:
            self.last_used = monotonic()
            self.num_calls -= 1
            if self.num_calls == 0:
                self.idle.set()

    async def unload(self) -> Engine | None:
        """Take its engine away: no call finds it any more, and it stops after the last one."""
        engine, self.engine = self.engine, None
        if engine is not None:
            if self.num_calls:
                await self.idle.wait()
            await engine.stop()
        return engine
