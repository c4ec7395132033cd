"""A real server on a free port that answers by a script, and clients that call it."""

from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.rpc import status_pb2

from attendant import AsyncClient, Client, RetryPolicy
from attendant.v1 import (
    classification_pb2,
    classification_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    translation_pb2,
    translation_pb2_grpc,
)
from tests.client.scripted import (
    ClassificationServicer,
    ModelServicer,
    Script,
    TranslationServicer,
    health_handler,
    result,
)

FAST_RETRIES = RetryPolicy(initial_backoff_seconds=0.001)


@pytest.fixture
def script() -> Iterator[Script]:
    """The script of a server that listens at `script.target`."""
    script = Script()
    server = grpc.server(
        ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", 64 * 1024 * 1024)]
    )
    translation_pb2_grpc.add_TranslationServiceServicer_to_server(
        TranslationServicer(script), server
    )
    classification_pb2_grpc.add_ClassificationServiceServicer_to_server(
        ClassificationServicer(script), server
    )
    model_pb2_grpc.add_ModelServiceServicer_to_server(ModelServicer(script), server)
    server.add_generic_rpc_handlers((health_handler(script),))
    script.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield script
    server.stop(grace=None).wait()


@pytest.fixture
def client(script: Script) -> Iterator[Client]:
    with Client(script.target, retry=FAST_RETRIES) as client:
        yield client


@pytest.fixture
async def async_client(script: Script) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(script.target, retry=FAST_RETRIES) as client:
        yield client


@pytest.fixture
def translated() -> Callable[..., translation_pb2.TranslateResponse]:
    """Makes the response to a Translate call: a text each, or a status for one that failed."""

    def response(*texts: str | status_pb2.Status) -> translation_pb2.TranslateResponse:
        return translation_pb2.TranslateResponse(
            results=[result(text) for text in texts], model="en-de", model_version="1"
        )

    return response


@pytest.fixture
def streamed() -> Callable[..., list[translation_pb2.StreamTranslateResponse]]:
    """Makes the events of one text's stream from its deltas."""

    def events(*deltas: str) -> list[translation_pb2.StreamTranslateResponse]:
        event = translation_pb2.StreamTranslateResponse
        finished = translation_pb2.FinishedTranslation(result=result("".join(deltas)))
        return [
            *(
                event(partial=translation_pb2.PartialTranslation(text_delta=delta))
                for delta in deltas
            ),
            event(finished=finished),
            event(summary=translation_pb2.TranslationSummary(model="en-de", model_version="1")),
        ]

    return events


@pytest.fixture
def classified() -> classification_pb2.ClassifyResponse:
    """A response of one image with two labels."""
    labels = [
        classification_pb2.LabelScore(label="cat", index=3, probability=0.75),
        classification_pb2.LabelScore(label="dog", index=5, probability=0.25),
    ]
    return classification_pb2.ClassifyResponse(
        results=[classification_pb2.ClassificationResult(labels=labels)],
        model="pets",
        model_version="2",
    )


@pytest.fixture
def multilingual() -> model_pb2.Model:
    """A translation model between any of its languages."""
    return model_pb2.Model(
        name="many",
        version="1",
        state=model_pb2.MODEL_STATE_READY,
        precision="int8",
        device="cpu",
        translation=model_pb2.TranslationModel(
            source_language_codes=["en", "de"],
            target_language_codes=[f"a{letter}" for letter in "abcdefghij"],
        ),
    )


@pytest.fixture
def described() -> model_pb2.Model:
    """A translation model."""
    return model_pb2.Model(
        name="en-de",
        version="1",
        state=model_pb2.MODEL_STATE_READY,
        precision="int8",
        device="cpu",
        translation=model_pb2.TranslationModel(
            language_pairs=[
                model_pb2.LanguagePair(source_language_code="en", target_language_code="de")
            ],
        ),
    )
