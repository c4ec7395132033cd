"""The client for code that blocks. `attendant.aio` has the same for asyncio."""

import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, overload

import grpc
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


class Client:
    """A connection to a server, or to several alike, safe to share between threads.

    A call has a deadline (`timeout_seconds` unless it brings its own) and raises AttendantError.

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
        self._channel = open_channel(grpc, target, credentials, tls)
        self._rpcs = Rpcs(self._channel)
        self._defaults = CallDefaults(timeout_seconds, retry, token)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection and every call that is still running."""
        self._channel.close()

    @overload
    def translate(self, texts: str, **options: Unpack[TranslateOptions]) -> Translation: ...
    @overload
    def translate(self, texts: Texts, **options: Unpack[TranslateOptions]) -> list[Translation]: ...
    def translate(
        self, texts: str | Texts, **options: Unpack[TranslateOptions]
    ) -> Translation | list[Translation]:
        """Translates a text, or several in one call; what is wrong with one text is its `error`."""
        request = translate_request(texts, options)
        results = translations(self._call(self._rpcs.translate, request, options))
        return results[0] if isinstance(texts, str) else results

    def translate_stream(
        self, texts: str | Texts, **options: Unpack[TranslateOptions]
    ) -> Iterator[TranslationEvent]:
        """Translates and yields words as they come; leaving the loop early cancels the call."""
        request = translation_pb2.StreamTranslateRequest(request=translate_request(texts, options))
        return self._events(request, self._defaults.attempts(options))

    @overload
    def classify(self, images: Image, **options: Unpack[ClassifyOptions]) -> Classification: ...
    @overload
    def classify(
        self, images: Images, **options: Unpack[ClassifyOptions]
    ) -> list[Classification]: ...
    def classify(
        self, images: Image | Images, **options: Unpack[ClassifyOptions]
    ) -> Classification | list[Classification]:
        """Classifies an image, bytes or the path of a file, or several in one call."""
        request = classify_request(read_images(images), options)
        results = classifications(self._call(self._rpcs.classify, request, options))
        return results if isinstance(images, (list, tuple)) else results[0]

    def models(self, **options: Unpack[CallOptions]) -> list[ModelDescription]:
        """Every version of every model."""
        models: list[ModelDescription] = []
        request = model_pb2.ListModelsRequest()
        while True:
            page = self._call(self._rpcs.list_models, request, options)
            models += map(model_description, page.models)
            if not page.next_page_token:
                return models
            request.page_token = page.next_page_token

    def model(self, name: str, **options: Unpack[CallOptions]) -> ModelDescription:
        """One model, "NAME" or "NAME/VERSION"."""
        request = model_pb2.GetModelRequest(name=name)
        return model_description(self._call(self._rpcs.get_model, request, options).model)

    def health(self, service: str = "", **options: Unpack[CallOptions]) -> Health:
        """Whether the server, or one of its services by full name, takes calls."""
        request = StringValue(value=service)
        return health(self._call(self._rpcs.check_health, request, options).value)

    def _call(
        self, rpc: Callable[..., Response], request: object, options: CallOptions
    ) -> Response:
        attempts = self._defaults.attempts(options)
        while True:
            try:
                return rpc(request, timeout=attempts.begin(), metadata=attempts.metadata)
            except grpc.RpcError as failure:
                time.sleep(attempts.wait_seconds(failure))

    def _events(self, request: object, attempts: Attempts) -> Iterator[TranslationEvent]:
        rpc: Any = self._rpcs.stream_translate
        while True:
            call = rpc(request, timeout=attempts.begin(), metadata=attempts.metadata)
            try:
                for response in call:
                    event = translation_event(response)
                    if event is not None:
                        attempts.answered = True
                        yield event
                return
            except grpc.RpcError as failure:
                time.sleep(attempts.wait_seconds(failure))
            finally:
                call.cancel()
