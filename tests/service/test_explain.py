"""JSON logs have the ids of request and trace, and from them a slow call is explained."""

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio
import pytest

from attendant.v1 import translation_pb2, translation_pb2_grpc
from tests.server_process import serving

ROOT = Path(__file__).resolve().parents[2]
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
HEADERS = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01", "x-request-id": "by-http"}


def explain(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service", "--explain", *arguments],
        cwd=ROOT,
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )


async def call_both_ways(grpc_port: str, http_port: str) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
        stub: Any = translation_pb2_grpc.TranslationServiceStub(channel)
        request = translation_pb2.TranslateRequest(contents=["Two dogs play in the snow."] * 8)
        request.options.beam_size = 4
        await stub.Translate(request, timeout=30, metadata=(("x-request-id", "by-grpc"),))
    async with (
        aiohttp.ClientSession(f"http://127.0.0.1:{http_port}", headers=HEADERS) as session,
        session.post("/v1/classify", data=(ROOT / "examples" / "ship.jpg").read_bytes()) as answer,
    ):
        assert answer.status == 200


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a server has logged that was called both ways."""
    path = tmp_path_factory.mktemp("log") / "server.log"
    with serving("--log-format", "json", log=path) as ports:
        asyncio.run(call_both_ways(ports.grpc, ports.http))
    return path


def test_a_line_of_a_call_has_its_ids_and_where_its_time_went(log: Path) -> None:
    lines = {line["request_id"]: line for line in map(json.loads, log.read_text().splitlines())}
    assert "trace_id" not in lines["by-grpc"]
    assert lines["by-http"]["trace_id"] == TRACE
    call = lines["by-grpc"]["call"]
    assert call["model"] == "captions-en-de/1"
    assert (call["texts"], call["sequences"], call["rows"], call["steps"] > 3) == (8, 8, 32, True)
    assert [stage["name"] for stage in call["stages"]] == [
        *("tokenize", "queue", "encode", "decode", "detokenize"),
    ]
    ends = [stage["begin_ms"] + stage["ms"] for stage in call["stages"]]
    assert ends == sorted(ends)
    assert 0.9 * call["ms"] < ends[-1] <= call["ms"]
    assert lines["by-http"]["call"]["images"] == 1


def test_a_call_is_explained_by_its_id(log: Path) -> None:
    ran = explain("by-grpc", str(log))
    assert ran.returncode == 0
    assert "attendant.v1.TranslationService/Translate OK in " in ran.stdout
    assert "captions-en-de/1: 8 texts, 8 sequences, 32 rows, " in ran.stdout
    assert re.search(r"^  decode +\d+\.\d ms  \| +#+ *\|$", ran.stdout, re.MULTILINE)
    assert re.search(r"\w+ had \d+% of \d+\.\d ms\. \w+", ran.stdout.splitlines()[-1])


def test_a_log_may_come_by_standard_input(log: Path) -> None:
    ran = explain("by-http", given="no JSON\n" + log.read_text() + '{"cut')
    assert f"trace {TRACE}" in ran.stdout
    assert "cifar10/1: 1 images" in ran.stdout
    assert "preprocess" in ran.stdout


def test_the_longest_stage_is_named_with_what_helps(tmp_path: Path) -> None:
    stages = [
        {"name": "queue", "begin_ms": 1.0, "ms": 800.0},
        {"name": "decode", "begin_ms": 801.0, "ms": 199.0},
    ]
    call = {"model": "m/1", "texts": 1, "ms": 1000.0, "stages": stages, "predicted_ms": 700.0}
    line = {"time": "t", "level": "INFO", "message": "x", "request_id": "a", "call": call}
    (tmp_path / "log").write_text(json.dumps(line))
    out = explain("a", str(tmp_path / "log")).stdout
    assert "queue had 80% of 1000.0 ms. It mostly waited" in out
    assert "predicted when it was let in: 700.0 ms\n" in out
    assert f"|{' ' * 38}{'#' * 10}|" in out


def test_lines_of_others_and_files_that_are_not_there_are_no_bugs(tmp_path: Path) -> None:
    foreign = {"ts": 1, "request_id": "a", "message": "by a proxy"}
    (tmp_path / "log").write_text(json.dumps(foreign))
    assert explain("a", str(tmp_path / "log")).stdout == "by a proxy\n"
    ran = explain("a", str(tmp_path / "none"))
    assert (ran.returncode, ran.stderr) == (2, f"{tmp_path / 'none'}: No such file or directory\n")


def test_an_id_that_no_line_has_is_an_error(log: Path) -> None:
    ran = explain("by-nobody", str(log))
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "no line of request by-nobody" in ran.stderr
    assert explain().returncode == 1


def test_what_other_servers_have_logged_is_told_as_far_as_it_is_known() -> None:
    """Nested JSON, a stage of another version, and a call that took no time."""
    call = {"ms": 5.0, "stages": [{"name": "ponder", "begin_ms": 0.0, "ms": 5.0}]}
    empty = {"ms": 0.1, "stages": [{"name": "tokenize", "begin_ms": 0.0, "ms": 0.1}]}
    lines = ["[" * 100_000]
    lines += [json.dumps({"request_id": "one", "call": one}) for one in (call, empty)]
    told = explain("one", given="\n".join(lines))
    assert told.returncode == 0
    assert "ponder had 100% of 5.0 ms." in told.stdout
    assert "tokenize had 100% of 0.1 ms. There is nothing to gain." in told.stdout
