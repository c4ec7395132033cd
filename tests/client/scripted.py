"""A servicer of our stubs that answers by a script, and what such scripts are written with."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.wrappers_pb2 import Int32Value, StringValue
from google.rpc import status_pb2

from attendant.v1 import (
    classification_pb2_grpc,
    model_pb2_grpc,
    translation_pb2,
    translation_pb2_grpc,
)


@dataclass
class Failure:
    """An answer that is an error, with its details and trailers."""

    code: grpc.StatusCode
    message: str = "scripted"
    details: tuple[Any, ...] = ()
    pushback_ms: str | None = None

    def abort(self, context: grpc.ServicerContext) -> None:
        packed = []
        for detail in self.details:
            packed.append(AnyMessage())
            packed[-1].Pack(detail)
        status = status_pb2.Status(
            code=self.code.value[0], message=self.message, details=packed
        ).SerializeToString()
        trailers: list[tuple[str, str | bytes]] = []
        if self.details:
            trailers.append(("grpc-status-details-bin", status))
        if self.pushback_ms is not None:
            trailers.append(("grpc-retry-pushback-ms", self.pushback_ms))
        context.set_trailing_metadata(tuple(trailers))
        context.abort(self.code, self.message)


@dataclass
class Script:
    """What the server answers, call by call and the last one again and again; what it was asked.

    An answer is a message, a Failure, or a function of the request and the context.
    """

    answers: list[Any] = field(default_factory=list)
    requests: list[Any] = field(default_factory=list)
    request_ids: list[str] = field(default_factory=list)
    metadata: list[dict[str, Any]] = field(default_factory=list)
    target: str = ""

    def answer(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        self.request_ids.append(self.metadata[-1]["x-request-id"])
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Failure):
            answer.abort(context)
        return answer(request, context) if callable(answer) else answer

    def answer_stream(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        events = self.answer(request, context)
        for event in events:
            if isinstance(event, Failure):
                event.abort(context)
            yield event


class TranslationServicer(translation_pb2_grpc.TranslationServiceServicer):
    def __init__(self, script: Script) -> None:
        self.Translate = script.answer
        self.StreamTranslate = script.answer_stream


class ClassificationServicer(classification_pb2_grpc.ClassificationServiceServicer):
    def __init__(self, script: Script) -> None:
        self.Classify = script.answer


class ModelServicer(model_pb2_grpc.ModelServiceServicer):
    def __init__(self, script: Script) -> None:
        self.ListModels = script.answer
        self.GetModel = script.answer


def health_handler(script: Script) -> grpc.GenericRpcHandler:
    check = grpc.unary_unary_rpc_method_handler(
        script.answer,
        request_deserializer=StringValue.FromString,
        response_serializer=Int32Value.SerializeToString,
    )
    return grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": check})


def result(text: str | status_pb2.Status) -> translation_pb2.TranslationResult:
    if isinstance(text, status_pb2.Status):
        return translation_pb2.TranslationResult(status=text)
    hypothesis = translation_pb2.Hypothesis(
        text=text,
        score=-0.5,
        target_tokens=4,
        finish_reason=translation_pb2.FINISH_REASON_EOS,
    )
    return translation_pb2.TranslationResult(
        hypotheses=[hypothesis], source_tokens=3, num_sequences=1
    )
