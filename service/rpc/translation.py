"""attendant.v1.TranslationService: convert, await the engine, convert back."""

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Protocol, cast

import grpc.aio

from attendant.v1 import translation_pb2, translation_pb2_grpc
from service.bundle import Direction
from service.errors import InternalError
from service.model import Engine
from service.repository import ModelRepository
from service.rpc.conversion import (
    MAX_CONTENTS,
    TimeRemaining,
    check_count,
    decoding_overrides,
    no_deadline,
    segmentation_from_proto,
    timing_to_proto,
    translation_result_to_proto,
)
from service.translation.options import (
    DecodingOptions,
    Limits,
    Segmentation,
    merge_options,
)
from service.translation.results import (
    StreamEvent,
    Summary,
    TextDelta,
    TextFinished,
    Translation,
)


class Translator(Engine, Protocol):
    """What this servicer needs of an engine."""

    @property
    def default_options(self) -> DecodingOptions:
        """What unset options mean."""

    @property
    def limits(self) -> Limits:
        """What options may be."""

    async def translate(
        self,
        contents: Sequence[str],
        options: DecodingOptions,
        segmentation: Segmentation | None,
        *,
        direction: Direction | None = None,
        deadline_seconds: float | None = None,
    ) -> Translation:
        """Translate every text."""

    def stream(
        self,
        contents: Sequence[str],
        options: DecodingOptions,
        segmentation: Segmentation | None,
        *,
        direction: Direction | None = None,
        deadline_seconds: float | None = None,
    ) -> AsyncIterator[StreamEvent]:
        """Translate every text, bit by bit; the summary is last."""


class TranslationServicer(translation_pb2_grpc.TranslationServiceServicer):
    """Thin: nothing is decided here."""

    def __init__(self, repository: ModelRepository) -> None:
        self._repository = repository

    async def Translate(
        self,
        request: translation_pb2.TranslateRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> translation_pb2.TranslateResponse:
        """Translate every text and answer when all are done."""
        return await self.translate(request, time_remaining=context.time_remaining)

    async def StreamTranslate(
        self,
        request: translation_pb2.StreamTranslateRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> AsyncIterator[translation_pb2.StreamTranslateResponse]:
        """Translate every text and send words as soon as they can no longer change."""
        async with self._engine(request.request) as (engine, direction):
            options, segmentation = _how(request.request, engine)
            events = engine.stream(
                list(request.request.contents),
                options,
                segmentation,
                direction=direction,
                deadline_seconds=context.time_remaining(),
            )
            async with aclosing(events):  # type: ignore[type-var]  # it is a generator
                async for event in events:
                    yield _event_to_proto(event, engine.model_name)

    async def translate(
        self,
        request: translation_pb2.TranslateRequest,
        *,
        time_remaining: TimeRemaining = no_deadline,
    ) -> translation_pb2.TranslateResponse:
        """Translate, for gRPC and HTTP alike; the model may have to be loaded first."""
        translation, full_name = await self.run(request, time_remaining)
        name, version = full_name.rsplit("/", 1)
        return translation_pb2.TranslateResponse(
            results=(
                translation_result_to_proto(index, result)
                for index, result in enumerate(translation.results)
            ),
            model=name,
            model_version=version,
            timing=timing_to_proto(translation.timing),
        )

    async def run(
        self, request: translation_pb2.TranslateRequest, time_remaining: TimeRemaining
    ) -> tuple[Translation, str]:
        """Translate -> what the engine found, and the model that did, "NAME/VERSION"."""
        async with self._engine(request) as (engine, direction):
            options, segmentation = _how(request, engine)
            translation = await engine.translate(
                list(request.contents),
                options,
                segmentation,
                direction=direction,
                deadline_seconds=time_remaining(),
            )
            return translation, engine.model_name

    @asynccontextmanager
    async def _engine(
        self, request: translation_pb2.TranslateRequest
    ) -> AsyncIterator[tuple[Translator, Direction]]:
        check_count(len(request.contents), MAX_CONTENTS, "contents")
        async with self._repository.translation(
            request.model, request.source_language_code, request.target_language_code
        ) as (engine, direction):
            yield cast(Translator, engine), direction


def _how(
    request: translation_pb2.TranslateRequest, engine: Translator
) -> tuple[DecodingOptions, Segmentation | None]:
    overrides = decoding_overrides(request.options)
    options = merge_options(engine.default_options, engine.limits, **overrides)
    return options, segmentation_from_proto(request.segmentation)


def _event_to_proto(event: StreamEvent, model: str) -> translation_pb2.StreamTranslateResponse:
    match event:
        case TextDelta():
            return translation_pb2.StreamTranslateResponse(
                partial=translation_pb2.PartialTranslation(
                    content_index=event.content_index, text_delta=event.text
                )
            )
        case TextFinished():
            result = translation_result_to_proto(event.content_index, event.result)
            return translation_pb2.StreamTranslateResponse(
                finished=translation_pb2.FinishedTranslation(
                    content_index=event.content_index, result=result
                )
            )
        case Summary():
            name, version = model.rsplit("/", 1)
            return translation_pb2.StreamTranslateResponse(
                summary=translation_pb2.TranslationSummary(
                    model=name, model_version=version, timing=timing_to_proto(event.timing)
                )
            )
    raise InternalError
