"""What one call was and where its time went: engines write it, logs and spans tell it.

Knows neither OpenTelemetry nor logging nor the wire.
"""

import time
from contextvars import ContextVar
from dataclasses import dataclass, field

Fact = str | int | float


@dataclass(frozen=True, slots=True)
class Stage:
    """From its first begin to its last end in the call, by time.monotonic().

    Sentences and images of one call go their ways side by side, so stages of it may overlap.
    """

    name: str
    begun: float
    ended: float


@dataclass(slots=True)
class Timeline:
    """One call, from when it came."""

    begun: float = field(default_factory=time.monotonic)
    begun_ns: int = field(default_factory=time.time_ns)  # the same moment, since 1970
    ended: float = 0.0
    stages: list[Stage] = field(default_factory=list)
    facts: dict[str, Fact] = field(default_factory=dict)

    @property
    def was_let_in(self) -> bool:
        """Whether the call was in a queue: what it waited for there is worth a line."""
        return "predicted_ms" in self.facts

    def add(self, name: str, begun: float, ended: float) -> None:
        """A stage, by time.monotonic()."""
        self.stages.append(Stage(name, begun, max(begun, ended)))

    def end(self) -> None:
        """The call is over."""
        self.ended = time.monotonic()

    def nanoseconds(self, moment: float) -> int:
        """A moment of time.monotonic(), since 1970."""
        return self.begun_ns + round((moment - self.begun) * 1e9)

    def summary(self) -> dict[str, object]:
        """As JSON values; milliseconds from when the call came."""
        stages = [
            {
                "name": stage.name,
                "begin_ms": _milliseconds(stage.begun - self.begun),
                "ms": _milliseconds(stage.ended - stage.begun),
            }
            for stage in self.stages
        ]
        return {**self.facts, "ms": _milliseconds(self.ended - self.begun), "stages": stages}


_current: ContextVar[Timeline | None] = ContextVar("timeline", default=None)


def begin_timeline() -> Timeline:
    """That of the call which begins in this context."""
    timeline = Timeline()
    _current.set(timeline)
    return timeline


def current_timeline() -> Timeline:
    """That of the call in this context; outside of one, one that nobody reads."""
    return _current.get() or Timeline()


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
