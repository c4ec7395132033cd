"""Hostile requests to every method and endpoint, each made again by its number and the seed."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from google.protobuf import json_format
from google.protobuf.message import Message
from grpc_health.v1.health_pb2 import HealthCheckRequest

from attendant.v1.classification_pb2 import ClassifyRequest, Image
from attendant.v1.model_pb2 import GetModelRequest, ListModelsRequest
from attendant.v1.translation_pb2 import StreamTranslateRequest, TranslateRequest
from bench.torture.broken_pictures import corpus
from bench.torture.calls import CLASSIFY, STREAM, TRANSLATE
from bench.torture.mutations import hostile_bytes, mutate_bytes, mutate_fields, mutate_json
from bench.torture.questions import small_questions
from service.rpc.open_inference import grpc_predict_v2_pb2 as inference

NUM_QUESTIONS = 64
INFERENCE = "/inference.GRPCInferenceService"
# How often what is hostile is in the fields, in the bytes, or both; the rest goes as it is.
FIELDS, BYTES = 0.65, 0.45

Make = Callable[[random.Random], Message]


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


class Requests:
    """Any number of them."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._pictures = list(corpus(seed).values())
        self._questions = [one.message() for one in small_questions(NUM_QUESTIONS, seed)]
        kinds = self._kinds()
        self._makers = [make for make, _ in kinds]
        self._weights = [weight for _, weight in kinds]

    def __getitem__(self, number: int) -> Request:
        """The request of this number."""
        rng = random.Random(f"{self._seed}/{number}")
        make = rng.choices(self._makers, self._weights)[0]
        return make(rng)

    def _kinds(self) -> list[tuple[Callable[[random.Random], Request], int]]:
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

    def _grpc(self, path: str, make: Make, rng: random.Random) -> Request:
        message = self._message(make, rng)
        content = message.SerializeToString()
        return Request(path, mutate_bytes(rng, content) if rng.random() < BYTES else content)

    def _json(self, path: str, make: Make, rng: random.Random) -> Request:
        message = self._message(make, rng)
        content = json_format.MessageToJson(message, indent=None).encode()
        content = mutate_json(rng, content) if rng.random() < BYTES else content
        return Request(path, content, is_http=True)

    def _message(self, make: Make, rng: random.Random) -> Message:
        message = make(rng)
        if rng.random() < FIELDS:
            mutate_fields(rng, message, self._pictures)
        return message

    def _raw_picture(self, rng: random.Random) -> Request:
        path = rng.choice(["/v1/classify", "/v1/classify?top_k=3", "/v1/classify?top_k=-1"])
        return Request(path, hostile_bytes(rng, self._pictures), is_http=True)

    def _translation(self, rng: random.Random) -> TranslateRequest:
        message = TranslateRequest()
        message.CopyFrom(rng.choice(self._questions))
        return message

    def _stream(self, rng: random.Random) -> StreamTranslateRequest:
        return StreamTranslateRequest(request=rng.choice(self._questions))

    def _classification(self, rng: random.Random) -> ClassifyRequest:
        contents = rng.choices(self._pictures, k=rng.randint(1, 3))
        return ClassifyRequest(images=[Image(content=one) for one in contents])

    def _inference(self, rng: random.Random) -> inference.ModelInferRequest:
        model, name, contents = rng.choice(
            [
                ("captions-en-de", "TEXT", [b"A dog.", b"A cat."]),
                ("cifar10", "IMAGE", rng.choices(self._pictures, k=1)),
            ]
        )
        return _infer(model, name, contents)


def _infer(model: str, name: str, contents: Sequence[bytes]) -> inference.ModelInferRequest:
    request = inference.ModelInferRequest(model_name=model)
    tensor = request.inputs.add(name=name, datatype="BYTES", shape=[len(contents)])
    tensor.contents.bytes_contents.extend(contents)
    return request


def _get_model(rng: random.Random) -> GetModelRequest:
    return GetModelRequest(name=rng.choice(["captions-en-de", "cifar10/1"]))


def _list_models(rng: random.Random) -> ListModelsRequest:
    return ListModelsRequest(page_size=rng.choice([0, 1]), page_token="captions-en-de/1")


def _check(rng: random.Random) -> HealthCheckRequest:
    return HealthCheckRequest(service=rng.choice(["", "attendant.v1.TranslationService"]))


def _model_ready(rng: random.Random) -> inference.ModelReadyRequest:
    return inference.ModelReadyRequest(name="captions-en-de", version="1")


def _model_metadata(rng: random.Random) -> inference.ModelMetadataRequest:
    return inference.ModelMetadataRequest(name="cifar10")
