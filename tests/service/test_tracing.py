"""Spans of calls, as an exporter of OpenTelemetry's SDK gets them, and over the wire."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
from opentelemetry.proto.collector.trace.v1 import (
    trace_service_pb2,
    trace_service_pb2_grpc,
)
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from attendant.v1 import (
    classification_pb2,
    classification_pb2_grpc,
    translation_pb2,
    translation_pb2_grpc,
)
from service.server import Server
from service.settings import Settings
from service.timeline import Timeline
from service.tracing import Tracing
from tests.server_process import serving
from tests.service.conftest import total

ROOT = Path(__file__).resolve().parents[2]
SHIP = (ROOT / "examples" / "ship.jpg").read_bytes()

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
STAGES = ["tokenize", "queue", "encode", "decode", "detokenize"]


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
async def server(exporter: InMemorySpanExporter) -> AsyncIterator[Server]:
    """A real server on the models of the repository."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    settings = Settings(models=ROOT / "models", grpc_port=0, http_port=0, drain_seconds=0.0)
    running = Server(settings, tracing=Tracing(provider))
    await running.start()
    yield running
    await running.drain()


async def of_call(exporter: InMemorySpanExporter) -> tuple[ReadableSpan, list[ReadableSpan]]:
    """The one call's span, and those inside it, in their order.

    A caller may hear of the call's end before its span is over.
    """
    async with asyncio.timeout(30):
        while all(span.kind is not SpanKind.SERVER for span in exporter.get_finished_spans()):
            await asyncio.sleep(0)
    spans = exporter.get_finished_spans()
    [call] = [span for span in spans if span.kind is SpanKind.SERVER]
    inside = [span for span in spans if span is not call]
    for span in inside:
        assert span.parent is not None
        assert span.parent.span_id == call.context.span_id
        assert call.start_time <= span.start_time <= span.end_time <= call.end_time
    return call, inside


async def translate(server: Server, request: Any, **given: Any) -> Any:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub: Any = translation_pb2_grpc.TranslationServiceStub(channel)
        return await stub.Translate(request, **given)


async def test_a_translation_has_a_span_with_its_stages_inside(
    server: Server, exporter: InMemorySpanExporter
) -> None:
    request = translation_pb2.TranslateRequest(
        contents=["Two dogs play.", "A man sleeps. A woman reads."]
    )
    request.options.beam_size = 3
    answer = await translate(server, request, metadata=(("traceparent", TRACEPARENT),), timeout=30)
    call, inside = await of_call(exporter)
    assert call.name == "attendant.v1.TranslationService/Translate"
    assert f"{call.context.trace_id:032x}" == TRACE
    assert call.parent is not None
    assert f"{call.parent.span_id:016x}" == PARENT
    assert [span.name for span in inside] == STAGES
    attributes = dict(call.attributes or {})
    assert attributes["rpc.grpc.status_code"] == 0
    assert attributes["attendant.model"] == "captions-en-de/1"
    assert attributes["attendant.texts"] == 2
    assert attributes["attendant.sequences"] == 3
    assert attributes["attendant.rows"] == 9
    assert attributes["attendant.batch_rows"] in range(3, 10)
    results = answer.results
    assert attributes["attendant.source_tokens"] == sum(one.source_tokens for one in results)
    tokens = [one.hypotheses[0].target_tokens for one in results]
    assert attributes["attendant.target_tokens"] == sum(tokens)
    timing = answer.timing
    seconds = {span.name: (span.end_time - span.start_time) / 1e9 for span in inside}
    assert seconds["tokenize"] == pytest.approx(
        timing.preprocess_duration.ToTimedelta().total_seconds(), abs=0.005
    )
    assert seconds["decode"] >= timing.decode_duration.ToTimedelta().total_seconds() * 0.99


async def test_a_stream_and_a_classification_have_spans_too(
    server: Server, exporter: InMemorySpanExporter
) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        translation: Any = translation_pb2_grpc.TranslationServiceStub(channel)
        request = translation_pb2.TranslateRequest(contents=["Two dogs play."])
        stream = translation_pb2.StreamTranslateRequest(request=request)
        async for _ in translation.StreamTranslate(stream, timeout=30):
            pass
        call, inside = await of_call(exporter)
        assert call.parent is None
        assert [span.name for span in inside] == STAGES
        exporter.clear()

        classification: Any = classification_pb2_grpc.ClassificationServiceStub(channel)
        images = [classification_pb2.Image(content=SHIP)] * 3
        await classification.Classify(classification_pb2.ClassifyRequest(images=images), timeout=30)
    call, inside = await of_call(exporter)
    assert [span.name for span in inside] == ["queue", "preprocess", "batch", "inference"]
    attributes = dict(call.attributes or {})
    assert attributes["attendant.images"] == 3
    assert attributes["attendant.batch_images"] in (1, 2, 3)


async def test_a_call_over_http_is_in_the_trace_of_its_header(
    server: Server, exporter: InMemorySpanExporter
) -> None:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{server.http_port}") as session:
        body, headers = {"contents": ["Two dogs play."]}, {"traceparent": TRACEPARENT}
        async with session.post("/v1/translate", json=body, headers=headers) as response:
            assert response.status == 200
        async with session.get("/healthz", headers=headers):
            pass
    call, inside = await of_call(exporter)
    assert call.name == "POST /v1/translate"
    assert f"{call.context.trace_id:032x}" == TRACE
    assert [span.name for span in inside] == STAGES
    assert (call.attributes or {})["http.response.status_code"] == 200


async def test_a_call_that_is_left_shows_how_far_it_came(
    server: Server, exporter: InMemorySpanExporter
) -> None:
    request = translation_pb2.TranslateRequest(contents=["Two dogs play."] * 512)
    request.options.beam_size, request.options.min_target_tokens = 8, 60
    leaving = asyncio.create_task(translate(server, request))
    while not total(server.metrics, "attendant_decode_step_rows_count"):
        await asyncio.sleep(0.001)
    leaving.cancel()
    while not (spans := exporter.get_finished_spans()) or spans[-1].kind is not SpanKind.SERVER:
        await asyncio.sleep(0.001)
    call, inside = await of_call(exporter)
    assert (call.attributes or {})["rpc.grpc.status_code"] == 1
    assert [span.name for span in inside] == STAGES[:-1]


async def test_a_bug_makes_the_span_an_error(exporter: InMemorySpanExporter) -> None:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    timeline = Timeline()
    timeline.end()
    tracing = Tracing(provider)
    tracing.end(tracing.begin("a call", {}, timeline), timeline, {}, error="INTERNAL")
    call, _ = await of_call(exporter)
    assert (call.status.status_code, call.status.description) == (StatusCode.ERROR, "INTERNAL")


async def test_what_is_wrong_with_a_call_is_no_error_of_the_server(
    server: Server, exporter: InMemorySpanExporter
) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await translate(server, translation_pb2.TranslateRequest(), timeout=30)
    call, inside = await of_call(exporter)
    assert call.status.status_code is StatusCode.UNSET
    assert inside == []


@pytest.mark.parametrize(
    "header", ["", "rubbish", f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{'0' * 16}-01"]
)
async def test_a_header_that_is_no_context_begins_a_new_trace(
    server: Server, exporter: InMemorySpanExporter, header: str
) -> None:
    request = translation_pb2.TranslateRequest(contents=["Two dogs play."])
    await translate(server, request, metadata=(("traceparent", header),), timeout=30)
    call, _ = await of_call(exporter)
    assert call.parent is None
    assert call.context.trace_id != int(TRACE, 16)


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes spans over the wire."""

    def __init__(self) -> None:
        self.received: SimpleQueue[trace_service_pb2.ExportTraceServiceRequest] = SimpleQueue()

    def Export(self, request: Any, context: Any) -> Any:
        self.received.put(request)
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
def collector() -> Iterator[tuple[Collector, str]]:
    collector, server = Collector(), grpc.server(ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield collector, f"http://127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.mark.parametrize("by", ["flag", "environment"])
def test_a_server_sends_its_spans_by_otlp(collector: tuple[Collector, str], by: str) -> None:
    taken, endpoint = collector
    flags = ("--otlp-endpoint", endpoint) if by == "flag" else ()
    environment = {} if by == "flag" else {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
    with (
        serving(*flags, **environment) as ports,
        grpc.insecure_channel(f"127.0.0.1:{ports.grpc}") as channel,
    ):
        stub: Any = translation_pb2_grpc.TranslationServiceStub(channel)
        stub.Translate(translation_pb2.TranslateRequest(contents=["Two dogs."]), timeout=30)
    received = taken.received.get(timeout=10)
    [resource] = received.resource_spans
    names = {one.key: one.value.string_value for one in resource.resource.attributes}
    assert names["service.name"] == "attendant"
    spans = [span.name for scope in resource.scope_spans for span in scope.spans]
    assert sorted(spans) == sorted([*STAGES, "attendant.v1.TranslationService/Translate"])


def test_without_the_extra_a_server_works_and_says_what_spans_need() -> None:
    """A package that cannot be imported stands for one that is not installed."""
    program = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from service.tracing import Tracing\n"
        "from service.__main__ import main\n"
        "Tracing.of('').close()\n"
        "sys.argv[1:] = ['--otlp-endpoint', 'http://127.0.0.1:4317', '--grpc-port', '0']\n"
        "main()"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | {"ATTENDANT_HTTP_PORT": "0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == 1
    last = ran.stderr.splitlines()[-1]
    assert last.startswith("attendant-server: spans are asked for, and the extra otel is not")
