"""How fast work gets done while there is enough of it: what predictions are computed from."""

from time import monotonic

WINDOW_SECONDS = 0.1  # of one sample: shorter ones see sequences finish in lumps
WEIGHT = 0.2  # of a new sample: the average forgets half in 0.3 s under load


class WorkRate:
    """Work finished a second while more waits: a moving average; before the first sample a guess.

    Where nothing waits, what is finished says what was asked for, and not what could be done.
    """

    def __init__(self) -> None:
        self._work_a_second: float | None = None
        self._is_guess = True
        self._last = 0.0
        self._waited = False
        self._work = self._seconds = 0.0  # of the window that is open

    def finished(self, work: float, *, others_wait: bool, now: float | None = None) -> None:
        """So much work is done now, and others wait for theirs or do not."""
        now = monotonic() if now is None else now
        if self._waited:
            self._work += work
            self._seconds += now - self._last
            if self._seconds >= WINDOW_SECONDS:
                self._sample(self._work / self._seconds)
                self._work = self._seconds = 0.0
        self._last, self._waited = now, others_wait

    def suppose(self, work_a_second: float | None) -> None:
        """A guess, which counts until there is a sample."""
        if self._is_guess:
            self._work_a_second = work_a_second

    @property
    def work_a_second(self) -> float | None:
        """None where nothing was measured yet, nor guessed."""
        return self._work_a_second

    def seconds(self, work: float) -> float:
        """How long so much work takes; 0 where nothing is known yet."""
        return work / self._work_a_second if self._work_a_second else 0.0

    def _sample(self, work_a_second: float) -> None:
        if self._work_a_second is None or self._is_guess:
            self._work_a_second = work_a_second
            self._is_guess = False
        self._work_a_second += WEIGHT * (work_a_second - self._work_a_second)
