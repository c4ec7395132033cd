"""A bound on the memory of images that are being unpacked, whatever the number of threads."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from service.cores import num_cores
from service.memory import map_large_blocks
from service.settings import Settings

SMALL_PIXELS = 1 << 20  # of an image that waits for nobody: 16 MiB on each thread
PHOTO_PIXELS = 12_500_000  # of a telephone's picture


def pixels_at_a_time(settings: Settings) -> int:
    """The largest image, or a photo on each thread, whichever is more."""
    threads = settings.image_threads or num_cores()
    return max(settings.max_image_pixels, threads * PHOTO_PIXELS)


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
            try:  # one behind another: a large image is not passed by small ones for ever
                self._changed.wait_for(
                    lambda: self._line[0] is this and num_pixels <= self._num_free
                )
                self._num_free -= num_pixels
            finally:
                self._line.remove(this)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._num_free += num_pixels
                self._changed.notify_all()
