"""Callers of a real server who leave, however they do, free rows and places in the queue.

Before each step a model that copies its source, on scripted logits, can be held.
"""

import asyncio
import json
import logging
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from attendant.v1 import common_pb2, translation_pb2, translation_pb2_grpc
from service.admission import Admission, Admitted
from service.bundle import Bundle
from service.lifecycle import Phase
from service.server import Server
from service.settings import Settings
from tests.service.conftest import StartServer, total
from tests.service.fakes import FakeTranslator
from tests.translation.rig import TIMEOUT_SECONDS, Gate, Rig

ROOT = Path(__file__).resolve().parents[2]
BEAM_SIZE = 4


class Wire:
    """Carries TCP connections to a server until they are cut."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.reads = asyncio.Event()  # whether what the server sends is taken
        self.reads.set()

    async def start(self) -> int:
        """Returns the port to connect to."""
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def cut(self) -> None:
        """End every connection without a word of gRPC."""
        for writer in self._writers:
            writer.transport.abort()

    async def stop(self) -> None:
        self.cut()
        self._server.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers += [writer, there_writer]
        always = asyncio.Event()
        always.set()
        for source, target, gate in (
            (reader, there_writer, always),
            (there_reader, writer, self.reads),
        ):
            task = asyncio.create_task(_carry(source, target, gate))
            self._tasks.add(task)


async def _carry(
    source: asyncio.StreamReader, target: asyncio.StreamWriter, gate: asyncio.Event
) -> None:
    while received := await source.read(1 << 16):
        await gate.wait()
        target.write(received)
        await target.drain()


class Caller:
    """A call that runs and one that waits, a stream each or not, over a connection of their own."""

    def __init__(self, channel: grpc.aio.Channel, wire: Wire) -> None:
        self.channel = channel
        self.wire = wire
        self.calls: list[Any] = []

    def call(self, *, streamed: bool, timeout: float | None) -> None:
        stub: Any = translation_pb2_grpc.TranslationServiceStub(self.channel)
        options = common_pb2.DecodingOptions(beam_size=BEAM_SIZE)
        request = translation_pb2.TranslateRequest(contents=["A dog runs."], options=options)
        if streamed:
            stream = translation_pb2.StreamTranslateRequest(request=request)
            self.calls.append(stub.StreamTranslate(stream, timeout=timeout))
        else:
            self.calls.append(stub.Translate(request, timeout=timeout))


async def cancel_calls(caller: Caller) -> None:
    for call in caller.calls:
        call.cancel()


async def close_channel(caller: Caller) -> None:
    await caller.channel.close()


async def cut_connection(caller: Caller) -> None:
    caller.wire.cut()


async def wait_for_deadline(caller: Caller) -> None:
    late = {grpc.StatusCode.DEADLINE_EXCEEDED}
    # One that waits is given up a moment before, of which its caller may hear in time.
    late.add(grpc.StatusCode.RESOURCE_EXHAUSTED)
    for call in caller.calls:
        assert await call.code() in late


Leave = Callable[[Caller], Coroutine[None, None, None]]


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[Rig, Server]]:
    """A server of one model with rows for one call."""
    shutil.copytree(ROOT / "models" / "captions-en-de", folder / "captions-en-de")
    rigs: list[Rig] = []

    def make(bundle: Bundle) -> Any:
        rigs.append(Rig(bundle, max_rows=BEAM_SIZE))
        return rigs[0].engine

    settings = Settings(models=folder, grpc_port=0, http_port=0, drain_seconds=0.0)
    server = Server(settings, factory=make)
    await server.start()
    try:
        yield rigs[0], server
    finally:
        await server.drain()


@asynccontextmanager
async def calling(server: Server) -> AsyncIterator[Caller]:
    wire = Wire(server.grpc_port)
    options = [
        *(("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)),
        ("grpc.max_receive_message_length", 1 << 26),
    ]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{await wire.start()}", options) as channel:
        yield Caller(channel, wire)
    await wire.stop()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while not holds():
            await asyncio.sleep(0)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("leave", "reason"),
    [
        (cancel_calls, "cancelled"),
        (close_channel, "cancelled"),
        (cut_connection, "cancelled"),
        (wait_for_deadline, "deadline"),
    ],
)
async def test_who_leaves_frees_rows_within_a_step_and_places_at_once(
    tmp_path: Path, leave: Leave, reason: str, streamed: bool
) -> None:
    timeout = 2.0 if reason == "deadline" else None
    async with serving(tmp_path) as (rig, server), calling(server) as caller:
        gate = Gate(rig.runner)
        caller.call(streamed=streamed, timeout=timeout)
        await gate.wait()
        caller.call(streamed=streamed, timeout=timeout)
        await until(lambda: rig.reading("requests_waiting") == 1)
        await leave(caller)
        await until(lambda: rig.reading("requests_waiting") == 0)  # while the step is held
        await until(
            lambda: (
                rig.reading("sequences_finished_total", reason=reason) == 1
                and all(one.is_cancelled for one in rig.runner.table.owners if one is not None)
            )
        )
        gate.open()
        await until(lambda: rig.reading("rows_running") == 0)
        assert rig.runner.num_steps == 1  # the one that was held
        assert rig.reading("sequences_finished_total", reason=reason) == 2
        assert rig.reading("wasted_tokens_total", reason=reason) == BEAM_SIZE
        rig.assert_at_rest()


async def test_who_hangs_up_http_frees_rows_within_a_step_and_places_at_once(
    tmp_path: Path,
) -> None:
    body = json.dumps({"contents": ["A dog runs."], "options": {"beam_size": BEAM_SIZE}}).encode()
    head = f"POST /v1/translate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    writers: list[asyncio.StreamWriter] = []

    async def ask(server: Server) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", server.http_port)
        writer.write(head.encode() + body)
        writers.append(writer)

    async with serving(tmp_path) as (rig, server):
        gate = Gate(rig.runner)
        await ask(server)
        await gate.wait()
        await ask(server)
        await until(lambda: rig.reading("requests_waiting") == 1)
        for writer in writers:
            writer.transport.abort()
        await until(lambda: rig.reading("requests_waiting") == 0)  # while the step is held
        gate.open()
        await until(lambda: rig.reading("rows_running") == 0)
        assert rig.runner.num_steps == 1
        assert rig.reading("sequences_finished_total", reason="cancelled") == 2
        rig.assert_at_rest()
        labels = {"route": "/v1/translate", "code": "499"}
        name = "attendant_http_requests_total"
        await until(lambda: server.metrics.registry.get_sample_value(name, labels) == 2)


async def test_a_call_that_waited_and_is_given_up_has_a_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: it was passed over as if it had been refused at the door."""
    caplog.set_level(logging.INFO)
    consider = Admission.consider

    def consider_impatiently(*given: Any) -> Admitted:
        admitted = consider(*given)
        return replace(admitted, last_moment=min(admitted.last_moment, admitted.at + 0.1))

    monkeypatch.setattr(Admission, "consider", consider_impatiently)
    async with serving(tmp_path) as (rig, server), calling(server) as caller:
        gate = Gate(rig.runner)
        caller.call(streamed=False, timeout=None)
        await gate.wait()
        caller.call(streamed=False, timeout=60.0)
        assert await caller.calls[1].code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await until(lambda: "Translate RESOURCE_EXHAUSTED in " in caplog.text)
        gate.open()
        assert await caller.calls[0].code() is grpc.StatusCode.OK


async def test_an_answer_that_its_caller_reads_slowly_is_sent_to_the_end(
    start_server: StartServer, fakes: dict[str, FakeTranslator], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its call is over when a server that is told to end waits for none but that."""
    monkeypatch.setattr("service.server._HANG_UP_SECONDS", 0.0)
    texts = ["x" * 60_000] * 200 + ["WAIT"]  # more than the buffers in between take
    async with start_server(drain_seconds=600.0) as server, calling(server) as caller:
        stub: Any = translation_pb2_grpc.TranslationServiceStub(caller.channel)
        call = stub.Translate(translation_pb2.TranslateRequest(contents=texts))
        await fakes["en-de"].started.wait()
        caller.wire.reads.clear()
        fakes["en-de"].release.set()
        handled = "grpc_server_handled_total"
        await until(lambda: total(server.metrics, handled, grpc_method="Translate") == 1)
        draining = asyncio.create_task(server.drain())
        await until(lambda: server.lifecycle.phase is Phase.DRAINING)
        assert not call.done()
        caller.wire.reads.set()
        assert len((await call).results) == len(texts)
        await draining
