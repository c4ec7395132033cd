"""attendant.v1.ClassificationService: convert, await the engine, convert back."""

from typing import cast

import grpc.aio

from attendant.v1 import classification_pb2, classification_pb2_grpc
from service.classification.engine import Classification, ClassificationEngine
from service.repository import ModelRepository
from service.rpc.conversion import (
    MAX_IMAGES,
    TimeRemaining,
    check_count,
    classification_result_to_proto,
    classification_timing_to_proto,
    no_deadline,
)


class ClassificationServicer(classification_pb2_grpc.ClassificationServiceServicer):
    """Thin: nothing is decided here."""

    def __init__(self, repository: ModelRepository) -> None:
        self._repository = repository

    async def Classify(
        self,
        request: classification_pb2.ClassifyRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> classification_pb2.ClassifyResponse:
        """Label every image of the request and answer when all are done."""
        return await self.classify(request, time_remaining=context.time_remaining)

    async def classify(
        self,
        request: classification_pb2.ClassifyRequest,
        *,
        time_remaining: TimeRemaining = no_deadline,
    ) -> classification_pb2.ClassifyResponse:
        """Classify, for gRPC and HTTP alike; the model may have to be loaded first."""
        classification, full_name = await self.run(request, time_remaining)
        name, version = full_name.rsplit("/", 1)
        return classification_pb2.ClassifyResponse(
            results=(
                classification_result_to_proto(index, result)
                for index, result in enumerate(classification.results)
            ),
            model=name,
            model_version=version,
            timing=classification_timing_to_proto(classification.timing),
        )

    async def run(
        self, request: classification_pb2.ClassifyRequest, time_remaining: TimeRemaining
    ) -> tuple[Classification, str]:
        """Classify -> what the engine found, and the model that did, "NAME/VERSION"."""
        check_count(len(request.images), MAX_IMAGES, "images")
        async with self._repository.classification(request.model) as found:
            engine = cast(ClassificationEngine, found)
            classification = await engine.classify(
                [image.content for image in request.images],
                request.top_k if request.HasField("top_k") else None,
                deadline_seconds=time_remaining(),
            )
            return classification, engine.model_name
