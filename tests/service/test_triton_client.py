"""Triton's own client against a server of ours, and beside its stubs in one process."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from service.server import Server
from tests.service.conftest import image_file
from tests.service.fakes import FakeTranslator

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("kind", ["sync", "aio"])
async def test_triton_s_client_gets_what_it_asks_for(
    server: Server, fakes: dict[str, FakeTranslator], tmp_path: Path, kind: str
) -> None:
    image = tmp_path / "green.png"
    image.write_bytes(image_file((0, 255, 0)))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.service.triton_calls"),
        *(f"127.0.0.1:{server.grpc_port}", kind, str(image)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    assert json.loads(output) == {
        "live": True,
        "ready": True,
        "models": [True, True, False],
        "server": ["attendant", "0.1.0"],
        "metadata": ["colours", ["IMAGE", "LABEL", "PROBABILITY"]],
        "id": "mine",
        "translation": ["A MAN", "FÜR ZWEI"],
        "labels": [["green", "dark", "red", "blue"], None],
        "both": [["green", "green"], [0.97, 0.97]],
        "shape": [2, 1],
        "bad item": ["StatusCode.INVALID_ARGUMENT", "TEXT[1]: text is bad"],
        "no model": [
            "StatusCode.NOT_FOUND",
            "no model nothing; there are: colours/1, en-de/1",
        ],
        "wrong output": [
            "StatusCode.INVALID_ARGUMENT",
            "no output 'LABEL'; there are: TRANSLATION",
        ],
    }
    assert (fakes["en-de"].options[1].beam_size, fakes["en-de"].options[1].length_penalty) == (
        *(2, 0.7),
    )


@pytest.mark.parametrize(
    "order", ["service.server, tritonclient.grpc", "tritonclient.grpc, service.server"]
)
def test_our_messages_live_beside_those_of_triton_s_client(order: str) -> None:
    """Two descriptions of the package `inference` in protobuf's default pool are an error."""
    subprocess.run([sys.executable, "-c", f"import {order}"], check=True, cwd=ROOT)
