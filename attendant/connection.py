"""What both clients share: the calls there are, a channel's options, a call's attempts."""

import uuid
from dataclasses import dataclass
from typing import Any

from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from attendant.requests import CallOptions
from attendant.retry import Attempts, RetryPolicy
from attendant.v1 import classification_pb2_grpc, model_pb2_grpc, translation_pb2_grpc

DEFAULT_TARGET = "localhost:50051"
DEFAULT_TIMEOUT_SECONDS = 30.0
DEFAULT_RETRY_POLICY = RetryPolicy()

MAX_MESSAGE_BYTES = 64 * 1024 * 1024

CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # gRPC waits a second before it connects again, and fails calls until then: longer than the
    # first retries.
    ("grpc.initial_reconnect_backoff_ms", 100),
)


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
    """A client's own timeout and retry policy."""

    timeout_seconds: float
    retry: RetryPolicy

    def attempts(self, options: CallOptions) -> Attempts:
        """The attempts of a call with these options; its deadline begins now."""
        return Attempts(
            policy=self.retry,
            timeout_seconds=options.get("timeout_seconds", self.timeout_seconds),
            request_id=options.get("request_id") or uuid.uuid4().hex,
        )
