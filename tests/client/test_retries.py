"""Which failures are tried again, how often and when."""

import time
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2

from attendant import (
    AttendantError,
    Client,
    FieldViolation,
    InternalError,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    RetryPolicy,
    Unavailable,
)
from attendant.v1 import translation_pb2
from tests.client.scripted import Failure

UNAVAILABLE = Failure(grpc.StatusCode.UNAVAILABLE)


def full(pushback_ms: str | None = None) -> Failure:
    return Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, pushback_ms=pushback_ms)


def test_unavailable_is_tried_again_under_the_same_request_id(script, client, translated):
    script.answers = [UNAVAILABLE, UNAVAILABLE, translated("x")]

    client.translate("x", request_id="mine")

    assert script.request_ids == ["mine"] * 3


def test_a_call_is_given_up_after_five_attempts(script, client):
    script.answers = [UNAVAILABLE]

    with pytest.raises(Unavailable):
        client.translate("x")

    assert len(script.requests) == 5


def test_a_full_server_is_tried_again_exactly_when_it_says(script, client, translated):
    script.answers = [full(pushback_ms="50"), translated("x")]
    started = time.monotonic()

    client.translate("x")

    assert time.monotonic() - started >= 0.05
    assert len(script.requests) == 2


@pytest.mark.parametrize("pushback_ms", [None, "-1", "soon"])
def test_a_full_server_that_names_no_time_is_not_tried_again(script, client, pushback_ms):
    script.answers = [full(pushback_ms)]

    with pytest.raises(ResourceExhausted):
        client.translate("x")

    assert len(script.requests) == 1


def test_an_unavailable_server_can_forbid_a_retry(script, client):
    script.answers = [Failure(grpc.StatusCode.UNAVAILABLE, pushback_ms="-1")]

    with pytest.raises(Unavailable):
        client.translate("x")

    assert len(script.requests) == 1


def test_no_retry_waits_beyond_the_deadline(script, client):
    script.answers = [full(pushback_ms="60000")]
    started = time.monotonic()

    with pytest.raises(ResourceExhausted):
        client.translate("x", timeout_seconds=5)

    assert time.monotonic() - started < 5
    assert len(script.requests) == 1


@pytest.mark.parametrize(
    "message",
    ["The actor died unexpectedly before finishing this task.", "The actor 67ab is unavailable: ?"],
)
def test_a_call_that_died_with_a_replica_of_ray_serve_is_tried_again(
    script, client, translated, message
):
    script.answers = [Failure(grpc.StatusCode.INTERNAL, message), translated("x")]

    client.translate("x")

    assert len(script.requests) == 2


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidArgument),
        (grpc.StatusCode.NOT_FOUND, NotFound),
        (grpc.StatusCode.INTERNAL, InternalError),
        (grpc.StatusCode.UNIMPLEMENTED, AttendantError),
    ],
)
def test_other_failures_are_raised_at_once(script, client, code, kind):
    script.answers = [Failure(code, "no")]

    with pytest.raises(kind) as caught:
        client.translate("x")

    assert type(caught.value) is kind
    assert caught.value.status == code.name
    assert str(caught.value) == f"{code.name}: no"
    assert len(script.requests) == 1


def test_an_error_carries_what_the_server_says_about_it(script, client):
    violation = error_details_pb2.BadRequest.FieldViolation(
        field="contents[3]", description="empty"
    )
    details: tuple[Any, ...] = (
        error_details_pb2.ErrorInfo(reason="INVALID_TEXT", domain="attendant"),
        error_details_pb2.BadRequest(field_violations=[violation]),
        error_details_pb2.RetryInfo(retry_delay=Duration(seconds=1, nanos=500_000_000)),
    )
    script.answers = [Failure(grpc.StatusCode.INVALID_ARGUMENT, "bad text", details)]

    with pytest.raises(InvalidArgument) as caught:
        client.translate("x")

    error = caught.value
    assert error.reason == "INVALID_TEXT"
    assert error.field_violations == (FieldViolation("contents[3]", "empty"),)
    assert error.retry_after_seconds == 1.5
    assert str(error) == "INVALID_ARGUMENT (INVALID_TEXT): bad text"


def test_a_stream_is_tried_again_before_its_first_event(script, client, streamed):
    script.answers = [UNAVAILABLE, streamed("Ja.")]

    assert len(list(client.translate_stream("Yes."))) == 3
    assert len(script.requests) == 2


def test_a_message_of_a_stream_that_has_no_event_is_none(script, client, streamed):
    """Ray Serve's proxy sends one before an error."""
    empty = translation_pb2.StreamTranslateResponse()
    script.answers = [[empty, UNAVAILABLE], streamed("Ja.")]

    assert len(list(client.translate_stream("Yes."))) == 3
    assert len(script.requests) == 2


def test_a_stream_is_not_tried_again_after_its_first_event(script, client, streamed):
    script.answers = [[streamed("Ja.")[0], UNAVAILABLE]]
    stream = client.translate_stream("Yes.")
    next(stream)

    with pytest.raises(Unavailable):
        next(stream)

    assert len(script.requests) == 1


def test_backoff_doubles_up_to_its_limit_and_is_half_random():
    policy = RetryPolicy(initial_backoff_seconds=1, max_backoff_seconds=3)

    for num_attempts, backoff in ((1, 1), (2, 2), (3, 3), (9, 3)):
        assert backoff / 2 <= policy.backoff_seconds(num_attempts) <= backoff


def test_the_number_of_attempts_can_be_set(script):
    script.answers = [UNAVAILABLE]

    single = RetryPolicy(max_attempts=1)
    with Client(script.target, retry=single) as client, pytest.raises(Unavailable):
        client.health()

    assert len(script.requests) == 1
