"""What both clients share: the calls there are, a channel's options, a call's attempts."""

import re
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from attendant.addresses import resolve, tls_options
from attendant.requests import CallOptions
from attendant.retry import Attempts, RetryPolicy
from attendant.tls import Tls
from attendant.tracing import KEYS, current_trace
from attendant.v1 import classification_pb2_grpc, model_pb2_grpc, translation_pb2_grpc

DEFAULT_TARGET = "localhost:50051"
DEFAULT_TIMEOUT_SECONDS = 30.0
DEFAULT_RETRY_POLICY = RetryPolicy()
LONGEST_TIMEOUT_SECONDS = 365 * 24 * 3600.0  # gRPC takes far longer ones for a deadline long past

MAX_MESSAGE_BYTES = 64 * 1024 * 1024

CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # gRPC waits a second before it connects again, and fails calls until then: longer than the
    # first retries.
    ("grpc.initial_reconnect_backoff_ms", 100),
)


# As gRPC has them; it would say that the server has failed.
_METADATA_KEY = re.compile(r"[0-9a-z_.-]+")
_METADATA_VALUE = re.compile(r"[\x20-\x7e]*")


def open_channel(
    transport: Any,
    target: str | Sequence[str],
    credentials: grpc.ChannelCredentials | None,
    tls: Tls | None,
) -> Any:
    """A channel of `transport`, grpc or grpc.aio; encrypted where there is something to do it with.

    Raises OSError and ValueError for files and addresses that cannot be used.
    """
    if credentials is not None and tls is not None:
        raise ValueError("expected credentials or tls, found both")
    address, options = resolve(target)
    options = (*CHANNEL_OPTIONS, *options, *tls_options(tls))
    chosen = tls.credentials() if tls is not None else credentials
    if chosen is None:
        return transport.insecure_channel(address, options=options)
    return transport.secure_channel(address, chosen, options=options)


class Rpcs:
    """The calls of the API on one channel, grpc's or grpc.aio's: both make them the same way."""

    def __init__(self, channel: Any) -> None:
        translation = translation_pb2_grpc.TranslationServiceStub(channel)
        classification = classification_pb2_grpc.ClassificationServiceStub(channel)
        model = model_pb2_grpc.ModelServiceStub(channel)
        self.translate = translation.Translate
        self.stream_translate = translation.StreamTranslate
        self.classify = classification.Classify
        self.list_models = model.ListModels
        self.get_model = model.GetModel
        # grpc.health.v1 has no stubs in our dependencies, and stubs of our own would clash with
        # those of grpcio-health-checking. Its request is a string, its response an enum, both in
        # field 1: on the wire, what these wrappers are.
        self.check_health = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=StringValue.SerializeToString,
            response_deserializer=Int32Value.FromString,
        )


@dataclass(frozen=True, slots=True)
class CallDefaults:
    """A client's own timeout, retry policy and token."""

    timeout_seconds: float
    retry: RetryPolicy
    token: str | None = None

    def attempts(self, options: CallOptions) -> Attempts:
        """The attempts of a call with these options; its deadline begins now.

        Raises ValueError for a timeout or metadata that cannot be.
        """
        attempts = Attempts(
            policy=self.retry,
            timeout_seconds=_checked_timeout(options.get("timeout_seconds", self.timeout_seconds)),
            request_id=options.get("request_id") or uuid.uuid4().hex,
            other_metadata=tuple(self._metadata(options).items()),
        )
        for key, value in attempts.metadata:
            _check_metadata(key, value)
        return attempts

    def _metadata(self, options: CallOptions) -> dict[str, str]:
        metadata = {key: str(value) for key, value in options.items() if key in KEYS}
        if not metadata:
            metadata = current_trace()
        if priority := options.get("priority"):
            metadata["attendant-priority"] = priority
        if self.token is not None:
            metadata["authorization"] = f"Bearer {self.token}"
        return metadata | dict(options.get("metadata", {}))


def _checked_timeout(seconds: float) -> float:
    with suppress(TypeError, ValueError):
        if float(seconds) > 0:
            return min(float(seconds), LONGEST_TIMEOUT_SECONDS)
    raise ValueError(f"timeout_seconds is {seconds!r}, expected a number above 0")


def _check_metadata(key: str, value: str) -> None:
    """The value may be a token: no word of it."""
    if not _METADATA_KEY.fullmatch(key):
        raise ValueError(f"metadata key {key!r}, expected lower-case letters, digits, _, . and -")
    if not _METADATA_VALUE.fullmatch(value):
        raise ValueError(f"metadata {key} has a character that is no printable ASCII")
