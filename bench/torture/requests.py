"""Hostile requests to every method and endpoint, drawn from Hypothesis."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from google.protobuf import json_format
from google.protobuf.message import Message
from grpc_health.v1.health_pb2 import HealthCheckRequest
from hypothesis import strategies as st

from attendant.v1.classification_pb2 import ClassifyRequest, Image
from attendant.v1.model_pb2 import GetModelRequest, ListModelsRequest
from attendant.v1.translation_pb2 import StreamTranslateRequest, TranslateRequest
from bench.torture.broken_pictures import corpus
from bench.torture.calls import CLASSIFY, STREAM, TRANSLATE
from bench.torture.mutations import Draw, hostile_bytes, mutate_bytes, mutate_fields, mutate_json
from bench.torture.questions import small_questions
from service.rpc.open_inference import grpc_predict_v2_pb2 as inference

NUM_QUESTIONS = 64
INFERENCE = "/inference.GRPCInferenceService"
# Whether what is hostile is in the fields, in the bytes, in both or nowhere.
HOSTILITY = ((False, False), (True, False), (False, True), (True, False), (True, True))

Make = Callable[[Draw], Message]


@dataclass(frozen=True, slots=True)
class Request:
    """One call. `path` is a method of gRPC's, or an HTTP path of which `is_http` tells."""

    path: str
    content: bytes
    is_http: bool = False

    @property
    def is_stream(self) -> bool:
        """Whether the answer is one."""
        return self.path == STREAM

    def __str__(self) -> str:
        shown = repr(self.content[:200])
        return f"{self.path} with {len(self.content)} bytes {shown}"


class Requests:
    """What they are made of."""

    def __init__(self, seed: int) -> None:
        self._pictures = list(corpus(seed).values())
        self._questions = [one.message() for one in small_questions(NUM_QUESTIONS, seed)]
        makers = [make for make, weight in self._kinds() for _ in range(weight)]
        self._makers = st.sampled_from(makers)
        self._hostility = st.sampled_from(HOSTILITY)
        self._some_pictures = st.lists(st.sampled_from(self._pictures), min_size=1, max_size=3)

    def strategy(self) -> st.SearchStrategy[Request]:
        """Any of them."""

        @st.composite
        def request(draw: Draw) -> Request:
            return draw(self._makers)(draw)

        return request()

    def _kinds(self) -> list[tuple[Callable[[Draw], Request], int]]:
        grpc = [
            (TRANSLATE, self._translation, 40),
            (STREAM, self._stream, 12),
            (CLASSIFY, self._classification, 14),
            ("/attendant.v1.ModelService/GetModel", _get_model, 3),
            ("/attendant.v1.ModelService/ListModels", _list_models, 3),
            ("/grpc.health.v1.Health/Check", _check, 2),
            (f"{INFERENCE}/ModelInfer", self._inference, 10),
            (f"{INFERENCE}/ModelReady", _model_ready, 2),
            (f"{INFERENCE}/ModelMetadata", _model_metadata, 2),
        ]
        http = [
            ("/v1/translate", self._translation, 7),
            ("/v1/classify", self._classification, 3),
        ]
        return [
            *((partial(self._grpc, path, make), weight) for path, make, weight in grpc),
            *((partial(self._json, path, make), weight) for path, make, weight in http),
            (self._raw_picture, 2),
        ]

    def _grpc(self, path: str, make: Make, draw: Draw) -> Request:
        message, is_mutated = self._message(make, draw)
        content = message.SerializeToString()
        return Request(path, mutate_bytes(draw, content) if is_mutated else content)

    def _json(self, path: str, make: Make, draw: Draw) -> Request:
        message, is_mutated = self._message(make, draw)
        content = json_format.MessageToJson(message, indent=None).encode()
        return Request(path, mutate_json(draw, content) if is_mutated else content, is_http=True)

    def _message(self, make: Make, draw: Draw) -> tuple[Message, bool]:
        """A message, and whether its bytes are to be changed."""
        in_fields, in_bytes = draw(self._hostility)
        message = make(draw)
        if in_fields:
            mutate_fields(draw, message, self._pictures)
        return message, in_bytes

    def _raw_picture(self, draw: Draw) -> Request:
        path = draw(
            st.sampled_from(["/v1/classify", "/v1/classify?top_k=3", "/v1/classify?top_k=-1"])
        )
        return Request(path, hostile_bytes(draw, self._pictures), is_http=True)

    def _translation(self, draw: Draw) -> TranslateRequest:
        message = TranslateRequest()
        message.CopyFrom(draw(st.sampled_from(self._questions)))
        return message

    def _stream(self, draw: Draw) -> StreamTranslateRequest:
        return StreamTranslateRequest(request=draw(st.sampled_from(self._questions)))

    def _classification(self, draw: Draw) -> ClassifyRequest:
        contents = draw(self._some_pictures)
        return ClassifyRequest(images=[Image(content=one) for one in contents])

    def _inference(self, draw: Draw) -> inference.ModelInferRequest:
        if draw(st.booleans()):
            return _infer("cifar10", "IMAGE", [draw(st.sampled_from(self._pictures))])
        return _infer("captions-en-de", "TEXT", [b"A dog.", b"A cat."])


def _infer(model: str, name: str, contents: Sequence[bytes]) -> inference.ModelInferRequest:
    request = inference.ModelInferRequest(model_name=model)
    tensor = request.inputs.add(name=name, datatype="BYTES", shape=[len(contents)])
    tensor.contents.bytes_contents.extend(contents)
    return request


def _get_model(draw: Draw) -> GetModelRequest:
    return GetModelRequest(name=draw(st.sampled_from(["captions-en-de", "cifar10/1"])))


def _list_models(draw: Draw) -> ListModelsRequest:
    return ListModelsRequest(page_size=draw(st.integers(0, 1)), page_token="captions-en-de/1")


def _check(draw: Draw) -> HealthCheckRequest:
    return HealthCheckRequest(
        service=draw(st.sampled_from(["", "attendant.v1.TranslationService"]))
    )


def _model_ready(draw: Draw) -> inference.ModelReadyRequest:
    return inference.ModelReadyRequest(name="captions-en-de", version="1")


def _model_metadata(draw: Draw) -> inference.ModelMetadataRequest:
    return inference.ModelMetadataRequest(name="cifar10")
