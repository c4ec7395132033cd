"""Free memory goes back to the system, and what never will be is not looked at for that.

glibc keeps what a burst of calls has freed wherever anything after it is still in use: hundreds of
megabytes after a crowd of connections or of broken requests, for as long as the process lives.
"""

import asyncio
import ctypes
import gc

# Giving 140 MiB back takes 12 ms of another thread, giving nothing back 0.3 ms.
PERIOD_SECONDS = 10.0

# Pillow takes pixels in blocks of 16 MiB, the last of an image less.
LARGE_BLOCK_BYTES = 8 << 20
# Less than this at the end of an arena is kept: what comes again and again costs no page faults.
KEPT_BYTES = 64 << 20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)

_libc = ctypes.CDLL(None)


def keep_imported() -> None:
    """What exists now stays: the collector of cycles looks at it no more.

    A full collection of all that was imported takes 40 ms of every thread.
    """
    gc.collect()
    gc.freeze()


def map_large_blocks() -> None:
    """From now on large blocks go back to the system as soon as they are freed.

    By itself glibc keeps blocks of up to 32 MiB in an arena for each thread, once one was freed.
    Told this, it no longer finds out either how much smaller ones to keep. Does nothing where the C
    library has no mallopt.
    """
    if mallopt := getattr(_libc, "mallopt", None):
        mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)


async def keep_giving_back() -> None:
    """Once in a while, until cancelled."""
    while True:
        await asyncio.sleep(PERIOD_SECONDS)
        await asyncio.to_thread(give_back)


def give_back() -> None:
    """Whole pages that hold nothing; does nothing where the C library has no malloc_trim."""
    if trim := getattr(_libc, "malloc_trim", None):
        trim(0)
