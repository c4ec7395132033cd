"""A bar for each of the steps of an export, on a terminal; elsewhere a line for each."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

WIDTH = 24


class Progress:
    """Steps of known number; each says what it does, and the last one that all is done."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._done = 0
        self._begun = time.monotonic()

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Show what is done now, and count it when it is done."""
        self._show(text)
        yield
        self._done += 1
        if self._done == self._steps:
            self._show("done")
            if sys.stderr.isatty():
                print(file=sys.stderr)

    def _show(self, text: str) -> None:
        filled = WIDTH * self._done // self._steps
        seconds = time.monotonic() - self._begun
        line = f"[{'#' * filled}{'.' * (WIDTH - filled)}] {seconds:5.1f} s  {text}"
        if sys.stderr.isatty():
            print("\r" + line, end="\x1b[K", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)
