"""The client for asyncio. `attendant.client` has the same for code that blocks."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, overload

import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import StringValue

from attendant.connection import (
    DEFAULT_RETRY_POLICY,
    DEFAULT_TARGET,
    DEFAULT_TIMEOUT_SECONDS,
    CallDefaults,
    Rpcs,
    open_channel,
)
from attendant.requests import (
    CallOptions,
    ClassifyOptions,
    Image,
    Images,
    Texts,
    TranslateOptions,
    classify_request,
    read_images,
    translate_request,
)
from attendant.responses import (
    classifications,
    health,
    model_description,
    translation_event,
    translations,
)
from attendant.results import (
    Classification,
    Health,
    ModelDescription,
    Translation,
    TranslationEvent,
)
from attendant.retry import Attempts, RetryPolicy
from attendant.tls import Tls
from attendant.v1 import model_pb2, translation_pb2

Response = TypeVar("Response")


class AsyncClient:
    """A connection to a server, or to several alike, made and used within one event loop.

    A call has a deadline (`timeout_seconds` unless it brings its own) and raises AttendantError.
    Cancelling the task that awaits a call cancels the call.

    `target` is an address, or a list of them: then calls go to each in turn that says it is serving
    (`["dns:///NAME:PORT"]`: to each address of a name). The connection is encrypted with `tls`, or
    with `credentials` of grpc's own. `token` is sent with every call; over a connection that is not
    encrypted whoever hears it can use it.
    """

    def __init__(
        self,
        target: str | Sequence[str] = DEFAULT_TARGET,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        tls: Tls | None = None,
        token: str | None = None,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        retry: RetryPolicy = DEFAULT_RETRY_POLICY,
    ) -> None:
        self._channel = open_channel(grpc.aio, target, credentials, tls)
        self._rpcs = Rpcs(self._channel)
        self._defaults = CallDefaults(timeout_seconds, retry, token)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connection and every call that is still running."""
        await self._channel.close()

    @overload
    async def translate(self, texts: str, **options: Unpack[TranslateOptions]) -> Translation: ...
    @overload
    async def translate(
        self, texts: Texts, **options: Unpack[TranslateOptions]
    ) -> list[Translation]: ...
    async def translate(
        self, texts: str | Texts, **options: Unpack[TranslateOptions]
    ) -> Translation | list[Translation]:
        """Translates a text, or several in one call; what is wrong with one text is its `error`."""
        request = translate_request(texts, options)
        results = translations(await self._call(self._rpcs.translate, request, options))
        return results[0] if isinstance(texts, str) else results

    def translate_stream(
        self, texts: str | Texts, **options: Unpack[TranslateOptions]
    ) -> AsyncGenerator[TranslationEvent, None]:
        """Translates and yields words as they come; closing the generator cancels the call."""
        request = translation_pb2.StreamTranslateRequest(request=translate_request(texts, options))
        return self._events(request, self._defaults.attempts(options))

    @overload
    async def classify(
        self, images: Image, **options: Unpack[ClassifyOptions]
    ) -> Classification: ...
    @overload
    async def classify(
        self, images: Images, **options: Unpack[ClassifyOptions]
    ) -> list[Classification]: ...
    async def classify(
        self, images: Image | Images, **options: Unpack[ClassifyOptions]
    ) -> Classification | list[Classification]:
        """Classifies an image, bytes or the path of a file, or several in one call."""
        request = classify_request(await asyncio.to_thread(read_images, images), options)
        results = classifications(await self._call(self._rpcs.classify, request, options))
        return results if isinstance(images, (list, tuple)) else results[0]

    async def models(self, **options: Unpack[CallOptions]) -> list[ModelDescription]:
        """Every version of every model."""
        models: list[ModelDescription] = []
        request = model_pb2.ListModelsRequest()
        while True:
            page = await self._call(self._rpcs.list_models, request, options)
            models += map(model_description, page.models)
            if not page.next_page_token:
                return models
            request.page_token = page.next_page_token

    async def model(self, name: str, **options: Unpack[CallOptions]) -> ModelDescription:
        """One model, "NAME" or "NAME/VERSION"."""
        request = model_pb2.GetModelRequest(name=name)
        return model_description((await self._call(self._rpcs.get_model, request, options)).model)

    async def health(self, service: str = "", **options: Unpack[CallOptions]) -> Health:
        """Whether the server, or one of its services by full name, takes calls."""
        request = StringValue(value=service)
        return health((await self._call(self._rpcs.check_health, request, options)).value)

    async def _call(
        self, rpc: Callable[..., Awaitable[Response]], request: object, options: CallOptions
    ) -> Response:
        attempts = self._defaults.attempts(options)
        while True:
            try:
                return await rpc(request, timeout=attempts.begin(), metadata=attempts.metadata)
            except grpc.RpcError as failure:
                await asyncio.sleep(attempts.wait_seconds(failure))

    async def _events(
        self, request: object, attempts: Attempts
    ) -> AsyncGenerator[TranslationEvent, None]:
        rpc: Any = self._rpcs.stream_translate
        while True:
            call = rpc(request, timeout=attempts.begin(), metadata=attempts.metadata)
            try:
                async for response in call:
                    event = translation_event(response)
                    if event is not None:
                        attempts.answered = True
                        yield event
                return
            except grpc.RpcError as failure:
                await asyncio.sleep(attempts.wait_seconds(failure))
            finally:
                call.cancel()
