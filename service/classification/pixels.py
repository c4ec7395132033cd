"""A bound on the memory of images that are being unpacked, whatever the number of threads."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from service.memory import map_large_blocks

SMALL_PIXELS = 1 << 20  # of an image that waits for nobody: 16 MiB on each thread


class PixelBudget:
    """So many pixels of large images at a time, of all threads together; others wait in line."""

    def __init__(self, num_pixels: int) -> None:
        self._num_free = num_pixels
        self._line: deque[object] = deque()
        self._changed = threading.Condition()
        map_large_blocks()  # or what one thread has freed stays in its own arena

    @contextmanager
    def taken(self, num_pixels: int) -> Iterator[None]:
        """Have room for an image of so many pixels, at most those of the budget, for the block."""
        if num_pixels <= SMALL_PIXELS:
            yield
            return
        this = object()
        with self._changed:
            self._line.append(this)
            self._changed.wait_for(
                lambda: self._line[0] is this and num_pixels <= self._num_free
            )  # one behind another: a large image is not passed by small ones for ever
            self._line.popleft()
            self._give(-num_pixels)
        try:
            yield
        finally:
            with self._changed:
                self._give(num_pixels)

    def _give(self, num_pixels: int) -> None:
        self._num_free += num_pixels
        self._changed.notify_all()
