"""How fast something is finished: what a refused caller's retry hint is computed from."""

from time import monotonic

# A retry hint while nothing has been measured yet.
UNMEASURED_SECONDS = 1.0


class RateMeter:
    """Seconds between two finished units while any wait: a moving average over about twenty."""

    _WEIGHT = 0.05

    def __init__(self) -> None:
        self._seconds_a_unit: float | None = None
        self._last_finished = 0.0

    def finished(self, admitted: float, *, others_wait: bool = True) -> None:
        """A unit that was admitted at `admitted` (time.monotonic()) is done now.

        Where nothing else waits, its seconds are its own latency, which says nothing of a rate.
        """
        now = monotonic()
        interval = now - max(admitted, self._last_finished)
        self._last_finished = now
        if not others_wait:
            return
        if self._seconds_a_unit is None:
            self._seconds_a_unit = interval
        self._seconds_a_unit += self._WEIGHT * (interval - self._seconds_a_unit)

    def seconds(self, num_units: int) -> float | None:
        """Seconds that so many units take; None before the first."""
        return None if self._seconds_a_unit is None else num_units * self._seconds_a_unit

    def retry_seconds(self, num_units: int) -> float:
        """When a caller may come back who has to wait for so many units to be finished."""
        seconds = self.seconds(num_units)
        return UNMEASURED_SECONDS if seconds is None else max(seconds, 0.001)
