"""What a burst has freed goes back to the system."""

import re
import sys
from pathlib import Path

import pytest

from service.memory import give_back

NUM_PIECES = 100_000
PIECE_BYTES = 1000  # too large for Python's own pools


def resident_mebibytes() -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_free_memory_between_pieces_in_use_goes_back_to_the_system() -> None:
    pieces: list[bytes | None] = [bytes(PIECE_BYTES) for _ in range(NUM_PIECES)]
    for number in range(NUM_PIECES):
        if number % 100:
            pieces[number] = None
    held = resident_mebibytes()

    give_back()

    freed = 0.9 * NUM_PIECES * PIECE_BYTES / 2**20
    assert held - resident_mebibytes() > freed / 2
