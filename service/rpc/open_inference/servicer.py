"""inference.GRPCInferenceService: the models as tensors in, tensors out, for KServe's and Triton's
clients.

A translator takes TEXT and gives TRANSLATION, a classifier takes IMAGE and gives LABEL and
PROBABILITY. The protocol has no status for one item, so an item that fails, fails its call.
"""

from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any, TypeAlias

import grpc
import grpc.aio

from attendant.v1 import classification_pb2
from service.errors import (
    AttendantError,
    InvalidArgument,
    InvalidText,
    ModelNotFound,
    ModelUnavailable,
    Starting,
)
from service.lifecycle import Lifecycle, Phase
from service.model import Model, ModelState
from service.repository import ModelRepository
from service.rpc.classification import ClassificationServicer
from service.rpc.conversion import MAX_CONTENTS, MAX_IMAGES, TimeRemaining
from service.rpc.open_inference import grpc_predict_v2_pb2 as inference
from service.rpc.open_inference.parameters import (
    classify_request,
    name_parameter,
    translate_request,
)
from service.rpc.open_inference.tensors import (
    Output,
    choose_outputs,
    read_bytes_input,
    response_of,
)
from service.rpc.translation import TranslationServicer

SERVICE = inference.DESCRIPTOR.services_by_name["GRPCInferenceService"]

Context = grpc.aio.ServicerContext[object, object]
TensorMetadata = inference.ModelMetadataResponse.TensorMetadata
_Answer: TypeAlias = Callable[[Any, Context], Awaitable[Any]]

_TENSORS = {
    "translation": (
        [TensorMetadata(name="TEXT", datatype="BYTES", shape=[-1])],
        [TensorMetadata(name="TRANSLATION", datatype="BYTES", shape=[-1])],
    ),
    "classification": (
        [TensorMetadata(name="IMAGE", datatype="BYTES", shape=[-1])],
        [
            TensorMetadata(name="LABEL", datatype="BYTES", shape=[-1, -1]),
            TensorMetadata(name="PROBABILITY", datatype="FP32", shape=[-1, -1]),
        ],
    ),
}

_READY = (ModelState.READY, ModelState.DEGRADED, ModelState.UNLOADED)


class OpenInferenceServicer:
    """Six of the protocol's calls. The other two load and unload models, which no caller may."""

    def __init__(
        self,
        repository: ModelRepository,
        translation: TranslationServicer,
        classification: ClassificationServicer,
        *,
        is_ready: Callable[[], bool],
        lifecycle: Lifecycle,
    ) -> None:
        self._repository = repository
        self._translation = translation
        self._classification = classification
        self._is_ready = is_ready
        self._lifecycle = lifecycle

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve the six calls there; gRPC answers the others with UNIMPLEMENTED."""
        answers: dict[str, _Answer] = {
            "ServerLive": self.ServerLive,
            "ServerReady": self.ServerReady,
            "ModelReady": self.ModelReady,
            "ServerMetadata": self.ServerMetadata,
            "ModelMetadata": self.ModelMetadata,
            "ModelInfer": self.ModelInfer,
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                answer,
                request_deserializer=getattr(inference, f"{name}Request").FromString,
                response_serializer=getattr(inference, f"{name}Response").SerializeToString,
            )
            for name, answer in answers.items()
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE.full_name, handlers),)
        )

    async def ServerLive(
        self, request: inference.ServerLiveRequest, context: Context
    ) -> inference.ServerLiveResponse:
        """Whoever answers, lives."""
        return inference.ServerLiveResponse(live=True)

    async def ServerReady(
        self, request: inference.ServerReadyRequest, context: Context
    ) -> inference.ServerReadyResponse:
        """As grpc.health.v1 and /readyz say."""
        return inference.ServerReadyResponse(ready=self._is_ready())

    async def ModelReady(
        self, request: inference.ModelReadyRequest, context: Context
    ) -> inference.ModelReadyResponse:
        """Whether the model can be called; of one there is not, as in Triton, that it cannot."""
        try:
            state = self._find(request.name, request.version).state
        except (ModelNotFound, Starting):
            return inference.ModelReadyResponse(ready=False)
        is_serving = self._lifecycle.phase is Phase.SERVING
        return inference.ModelReadyResponse(ready=is_serving and state in _READY)

    async def ServerMetadata(
        self, request: inference.ServerMetadataRequest, context: Context
    ) -> inference.ServerMetadataResponse:
        """Name and version; no extensions."""
        return inference.ServerMetadataResponse(name="attendant", version=version("attendant"))

    async def ModelMetadata(
        self, request: inference.ModelMetadataRequest, context: Context
    ) -> inference.ModelMetadataResponse:
        """A model's tensors, and all versions that can be called."""
        model = self._find(request.name, request.version)
        if model.task not in _TENSORS:
            raise ModelUnavailable(f"{model.full_name} is {model.state.value} {model.failure}")
        inputs, outputs = _TENSORS[model.task]
        versions = [m.version for m in self._repository.models if m.name == model.name]
        return inference.ModelMetadataResponse(
            name=model.name,
            versions=map(str, sorted(versions)),
            platform="onnxruntime_onnx",
            inputs=inputs,
            outputs=outputs,
        )

    async def ModelInfer(
        self, request: inference.ModelInferRequest, context: Context
    ) -> inference.ModelInferResponse:
        """Translate TEXT or classify IMAGE, whichever the model does."""
        model = self._find(request.model_name, request.model_version)
        infer = self._classify if model.task == "classification" else self._translate
        name = f"{request.model_name}/{request.model_version}".removesuffix("/")
        try:
            return await infer(request, name, context.time_remaining)
        except AttendantError as error:
            name_parameter(error)
            raise

    async def _translate(
        self, request: inference.ModelInferRequest, model: str, time_remaining: TimeRemaining
    ) -> inference.ModelInferResponse:
        asked = choose_outputs(request, ["TRANSLATION"])
        texts = read_bytes_input(request, "TEXT", MAX_CONTENTS)
        message = translate_request(request.parameters)
        message.model = model
        message.contents.extend(_decoded(index, text) for index, text in enumerate(texts))
        translation, full_name = await self._translation.run(message, time_remaining)
        for index, result in enumerate(translation.results):
            _raise_if_failed(result.error, f"TEXT[{index}]")
        translated = [result.hypotheses[0].text.encode() for result in translation.results]
        outputs = {"TRANSLATION": Output("TRANSLATION", (len(translated),), translated)}
        return response_of(request, full_name, [outputs[name] for name in asked])

    async def _classify(
        self, request: inference.ModelInferRequest, model: str, time_remaining: TimeRemaining
    ) -> inference.ModelInferResponse:
        asked = choose_outputs(request, ["LABEL", "PROBABILITY"])
        images = read_bytes_input(request, "IMAGE", MAX_IMAGES)
        message = classify_request(request.parameters)
        message.model = model
        message.images.extend(classification_pb2.Image(content=image) for image in images)
        classification, full_name = await self._classification.run(message, time_remaining)
        for index, result in enumerate(classification.results):
            _raise_if_failed(result.error, f"IMAGE[{index}]")
        ranked = [label for result in classification.results for label in result.labels]
        shape = (len(images), len(ranked) // len(images))
        outputs = {
            "LABEL": Output("LABEL", shape, [label.label.encode() for label in ranked]),
            "PROBABILITY": Output("PROBABILITY", shape, [label.probability for label in ranked]),
        }
        return response_of(request, full_name, [outputs[name] for name in asked])

    def _find(self, name: str, version: str) -> Model:
        """The model, by default its version that serves. Raises InvalidArgument, ModelNotFound."""
        if not name:
            raise InvalidArgument("the name of the model is empty", field="model_name")
        try:
            return self._repository.get(f"{name}/{version}" if version else name)
        except ModelNotFound as error:
            if self._lifecycle.phase is Phase.STARTING:
                raise Starting("the models are being loaded") from error
            raise


def _decoded(index: int, text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        place = f"TEXT[{index}]"
        raise InvalidText(
            f"{place}: expected UTF-8, found byte {text[error.start]:#04x} at {error.start}",
            field=place,
        ) from error


def _raise_if_failed(error: AttendantError | None, place: str) -> None:
    if error is not None:
        error.field, error.message = place, f"{place}: {error.message}"
        raise error
