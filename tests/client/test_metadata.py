"""What goes along with a call: token, priority, trace."""

import asyncio

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from attendant import AsyncClient, Client, RetryPolicy
from attendant.cli import main
from tests.client.scripted import Failure

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def span() -> NonRecordingSpan:
    """OpenTelemetry's own, of a trace that began elsewhere."""
    return NonRecordingSpan(
        SpanContext(
            trace_id=int(PARENT[3:35], 16),
            span_id=int(PARENT[36:52], 16),
            is_remote=True,
            trace_flags=TraceFlags(1),
            trace_state=TraceState([("vendor", "value")]),
        )
    )


def of(metadata, *keys: str):
    return [metadata.get(key) for key in keys]


TRACE = ("traceparent", "tracestate")


def test_nothing_goes_along_that_is_not_asked_for(script, client, translated):
    script.answers = [translated("x")]

    client.translate("x")

    keys = script.metadata[0].keys() - {"user-agent"}
    assert keys == {"x-request-id"}


def test_a_token_goes_with_every_call_and_every_attempt(script, translated, described, streamed):
    script.answers = [Failure(grpc.StatusCode.UNAVAILABLE), translated("x"), streamed("x")]

    retry = RetryPolicy(initial_backoff_seconds=0.001)
    with Client(script.target, token="secret", retry=retry) as client:
        client.translate("x")
        list(client.translate_stream("x"))

    assert of(script.metadata[0], "authorization") == ["Bearer secret"]
    assert [one["authorization"] for one in script.metadata] == ["Bearer secret"] * 3


def test_metadata_of_the_callers_own_goes_along(script, client, translated):
    script.answers = [translated("x")]

    client.translate("x", metadata={"multiplexed_model_id": "captions-en-de"})

    assert of(script.metadata[0], "multiplexed_model_id") == ["captions-en-de"]


def test_the_priority_of_a_call_goes_along(script, client, translated):
    script.answers = [translated("x")]

    client.translate("x", priority="bulk")

    assert of(script.metadata[0], "attendant-priority") == ["bulk"]


def test_a_trace_that_is_given_is_passed_on_and_wins(script, client, translated):
    script.answers = [translated("x")]

    with trace.use_span(span()):
        client.translate("x", traceparent="given", tracestate="state")
        client.translate("x", traceparent="given")

    assert of(script.metadata[0], *TRACE) == ["given", "state"]
    assert of(script.metadata[1], *TRACE) == ["given", None]


def test_the_current_span_of_opentelemetry_is_passed_on(script, client, translated):
    script.answers = [translated("x")]

    with trace.use_span(span()):
        client.translate("x")
    client.translate("x")

    assert of(script.metadata[0], *TRACE) == [PARENT, "vendor=value"]
    assert of(script.metadata[1], *TRACE) == [None, None]


async def test_the_asyncio_client_passes_on_the_span_of_its_task(script, translated):
    script.answers = [translated("x")]

    async with AsyncClient(script.target, token="secret") as client:

        async def traced() -> None:
            with trace.use_span(span()):
                await client.translate("x", priority="interactive")

        await asyncio.create_task(traced())
        await client.translate("x")

    assert of(script.metadata[0], *TRACE) == [PARENT, "vendor=value"]
    assert of(script.metadata[0], "authorization", "attendant-priority") == [
        *("Bearer secret", "interactive"),
    ]
    assert of(script.metadata[1], *TRACE) == [None, None]


@pytest.mark.parametrize("from_file", [True, False])
def test_the_command_sends_a_token_from_a_file_or_the_environment(
    script, translated, tmp_path, monkeypatch, capsys, from_file
):
    script.answers = [translated("x")]
    (tmp_path / "token").write_text("of-the-file\n")
    monkeypatch.setenv("ATTENDANT_TOKEN", "of-the-environment")

    flags = ["--token-file", str(tmp_path / "token")] if from_file else []
    flags += ["--target", script.target, "--priority", "bulk"]
    assert main(["translate", "x", *flags]) == 0

    token = "of-the-file" if from_file else "of-the-environment"
    assert of(script.metadata[0], "authorization", "attendant-priority") == [
        *(f"Bearer {token}", "bulk"),
    ]


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"metadata": {"X-Team": "blue"}}, "metadata key 'X-Team', expected lower-case letters"),
        ({"metadata": {"x-team": "bl\xfcue"}}, "metadata x-team has a character"),
        ({"request_id": "one\n"}, "metadata x-request-id has a character"),
        ({"timeout_seconds": None}, "timeout_seconds is None, expected a number above 0"),
        ({"timeout_seconds": 0}, "timeout_seconds is 0, expected a number above 0"),
    ],
)
def test_what_grpc_cannot_send_is_no_failure_of_the_server(client, given, complaint):
    with pytest.raises(ValueError, match=complaint):
        client.translate("A dog.", **given)


def test_a_token_with_a_line_feed_is_refused_and_not_repeated():
    with (
        Client("localhost:1", token="secret\n") as client,
        pytest.raises(ValueError, match="metadata authorization has a character") as caught,
    ):
        client.translate("A dog.")
    assert "secret" not in str(caught.value)


def test_any_long_time_may_be_waited(script, client, translated):
    script.answers = [translated("x"), translated("x")]
    for seconds in (1e12, float("inf")):
        assert client.translate("A dog.", timeout_seconds=seconds).text == "x"
