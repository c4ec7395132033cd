"""What a burst has freed goes back to the system."""

import gc
import re
import sys
from pathlib import Path

import grpc
import grpc.aio
import pytest

from attendant.v1 import translation_pb2
from service.memory import give_back

NUM_PIECES = 100_000
PIECE_BYTES = 1000  # too large for Python's own pools
NUM_REFUSED = 10
MESSAGE_BYTES = 8 << 20


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


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_a_refused_message_is_gone_with_its_call(
    channel: grpc.aio.Channel,
) -> None:
    """Regression: gRPC's error kept it until Python's collector came, which may be minutes."""
    request = translation_pb2.TranslateRequest(contents=["x" * MESSAGE_BYTES], model="nowhere")
    call = channel.unary_unary("/attendant.v1.TranslationService/Translate")
    content = request.SerializeToString()

    async def refused() -> None:
        with pytest.raises(grpc.aio.AioRpcError, match="no translation model nowhere"):
            await call(content)

    await refused()
    gc.collect()
    gc.disable()
    try:
        before = resident_mebibytes()
        for _ in range(NUM_REFUSED):
            await refused()
        give_back()
        grown = resident_mebibytes() - before
    finally:
        gc.enable()
    assert grown < NUM_REFUSED * MESSAGE_BYTES / 2**20 / 2
