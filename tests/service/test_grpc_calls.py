"""What callers of the three services see."""

import asyncio
import logging
import re
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2

from attendant.v1 import (
    classification_pb2,
    classification_pb2_grpc,
    common_pb2,
    model_pb2,
    model_pb2_grpc,
    translation_pb2,
    translation_pb2_grpc,
)
from service.errors import InternalError
from service.server import Server
from service.translation.options import EarlyStopping, Segmentation
from tests.service.conftest import StartServer, image_file, open_channel, samples, total
from tests.service.fakes import FakeTranslator

TRANSLATE = "/attendant.v1.TranslationService/Translate"


def translation(channel: grpc.aio.Channel) -> Any:
    return translation_pb2_grpc.TranslationServiceStub(channel)


def classification(channel: grpc.aio.Channel) -> Any:
    return classification_pb2_grpc.ClassificationServiceStub(channel)


def texts(*contents: str, **fields: Any) -> translation_pb2.TranslateRequest:
    return translation_pb2.TranslateRequest(contents=contents, **fields)


def images(*contents: bytes, **fields: Any) -> classification_pb2.ClassifyRequest:
    found = [classification_pb2.Image(content=content) for content in contents]
    return classification_pb2.ClassifyRequest(images=found, **fields)


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def trailers(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    return dict(error.trailing_metadata())


def details(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    """The google.rpc messages of an error, by name."""
    status = status_pb2.Status.FromString(trailers(error)["grpc-status-details-bin"])
    assert status.code == error.code().value[0]
    assert status.message == error.details()
    found = {}
    for packed in status.details:
        name = packed.TypeName().rpartition(".")[2]
        found[name] = getattr(error_details_pb2, name)()
        packed.Unpack(found[name])
    assert found["ErrorInfo"].domain == "attendant"
    return found


async def test_a_translation_answers_every_text_in_order(channel: grpc.aio.Channel) -> None:
    response = await translation(channel).Translate(texts("a man", "BAD", "a horse"))
    assert [result.status.code for result in response.results] == [0, 3, 0]
    assert [h.text for result in response.results for h in result.hypotheses] == [
        "A MAN",
        "A HORSE",
    ]
    assert response.results[0].hypotheses[0].target_tokens == 3
    assert response.results[0].hypotheses[0].finish_reason == translation_pb2.FINISH_REASON_EOS
    assert not response.results[0].hypotheses[0].HasField("score")
    assert response.results[0].source_tokens == 3
    assert (response.model, response.model_version) == ("en-de", "1")
    assert response.timing.total_duration.ToTimedelta().total_seconds() == 0.25


async def test_an_item_error_names_its_place_and_reason(channel: grpc.aio.Channel) -> None:
    response = await translation(channel).Translate(texts("good", "BAD"))
    status = response.results[1].status
    information, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    status.details[0].Unpack(information)
    status.details[1].Unpack(request)
    assert information.reason == "INVALID_TEXT"
    assert request.field_violations[0].field == "contents[1]"


@pytest.mark.parametrize("name", ["\U0001f600" * 1500, "\u20ac" * 1500, "%" * 1500, "n" * 9000])
async def test_a_long_name_is_not_found_either(channel: grpc.aio.Channel, name: str) -> None:
    """Regression: percent-encoded, what said so was more than a client takes."""
    stub: Any = model_pb2_grpc.ModelServiceStub(channel)
    error = await failure(stub.GetModel(model_pb2.GetModelRequest(name=name)))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert details(error)["ErrorInfo"].reason == "MODEL_NOT_FOUND"
    assert re.search(r"\.\.\. \(\d+ characters\)$", error.details() or "")


@pytest.mark.parametrize("written", [0.1, 1.2, -3.0, 1e-45, 1e38, 3.4025e38, 3.4028234e38])
async def test_a_number_reaches_the_engine_as_it_was_written(
    written: float, channel: grpc.aio.Channel, fakes: dict[str, FakeTranslator]
) -> None:
    options = common_pb2.DecodingOptions(length_penalty=written)
    await translation(channel).Translate(texts("x", options=options))
    assert fakes["en-de"].options[0].length_penalty == pytest.approx(written, rel=1e-7)
    if written < 1e38:
        assert fakes["en-de"].options[0].length_penalty == written


async def test_options_reach_the_engine_as_the_caller_wrote_them(
    channel: grpc.aio.Channel, fakes: dict[str, FakeTranslator]
) -> None:
    options = common_pb2.DecodingOptions(
        beam_size=2,
        length_penalty=0.7,
        early_stopping=common_pb2.EARLY_STOPPING_NEVER,
        return_scores=True,
    )
    response = await translation(channel).Translate(
        texts("x", options=options, segmentation=translation_pb2.SEGMENTATION_NONE)
    )
    await translation(channel).Translate(texts("x"))
    asked, default = fakes["en-de"].options
    assert (asked.beam_size, asked.length_penalty) == (2, 0.7)  # not 0.699999988
    assert asked.early_stopping is EarlyStopping.NEVER
    assert (default.beam_size, default.length_penalty) == (4, 0.6)
    assert fakes["en-de"].segmentations == [Segmentation.NONE, None]
    assert response.results[0].hypotheses[0].score == -0.5


async def test_a_stream_sends_words_then_results_then_a_summary(channel: grpc.aio.Channel) -> None:
    request = translation_pb2.StreamTranslateRequest(request=texts("a man", "BAD"))
    events = [event async for event in translation(channel).StreamTranslate(request)]
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds == ["partial", "partial", "partial", "finished", "finished", "summary"]
    whole = await translation(channel).Translate(texts("a man", "BAD"))
    assert [event.finished.result for event in events[3:5]] == list(whole.results)
    assert (events[-1].summary.model, events[-1].summary.model_version) == ("en-de", "1")


@pytest.mark.parametrize(
    ("request_message", "reason", "field"),
    [
        (texts(), "INVALID_REQUEST", "contents"),
        (texts(*["x"] * 1025), "INVALID_REQUEST", "contents"),
        (
            texts("x", options=common_pb2.DecodingOptions(beam_size=0)),
            "INVALID_OPTION",
            "options.beam_size",
        ),
        (
            texts("x", options=common_pb2.DecodingOptions(length_penalty=float("nan"))),
            "INVALID_OPTION",
            "options.length_penalty",
        ),
        (
            texts("x", options=common_pb2.DecodingOptions(early_stopping=9)),  # type: ignore[arg-type]
            "INVALID_OPTION",
            "options.early_stopping",
        ),
        (texts("x", segmentation=9), "INVALID_OPTION", "segmentation"),
    ],
)
async def test_a_bad_request_is_invalid_and_says_where(
    channel: grpc.aio.Channel,
    request_message: translation_pb2.TranslateRequest,
    reason: str,
    field: str,
) -> None:
    error = await failure(translation(channel).Translate(request_message))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details(error)["ErrorInfo"].reason == reason
    assert details(error)["BadRequest"].field_violations[0].field == field


async def test_a_full_queue_says_when_to_come_back(channel: grpc.aio.Channel) -> None:
    error = await failure(translation(channel).Translate(texts("FULL")))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details(error)["ErrorInfo"].reason == "QUEUE_FULL"
    assert details(error)["RetryInfo"].retry_delay.ToMilliseconds() == 250
    assert trailers(error)["grpc-retry-pushback-ms"] == "250"


async def test_a_call_that_never_fits_forbids_retries(channel: grpc.aio.Channel) -> None:
    error = await failure(translation(channel).Translate(texts("NEVER")))
    assert "RetryInfo" not in details(error)
    assert trailers(error)["grpc-retry-pushback-ms"] == "-1"


async def test_a_bug_is_internal_logged_once_and_never_leaked(
    channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    call = translation(channel).Translate(texts("BUG"), metadata=(("x-request-id", "id-7"),))
    error = await failure(call)
    assert error.code() is grpc.StatusCode.INTERNAL
    assert error.details() == InternalError.MESSAGE
    assert "secret" not in repr(error)
    logged = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(logged) == 1
    assert logged[0].exc_info is not None


async def test_a_bug_in_a_stream_is_internal_too(channel: grpc.aio.Channel) -> None:
    request = translation_pb2.StreamTranslateRequest(request=texts("BUG"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in translation(channel).StreamTranslate(request):
            pass
    assert caught.value.code() is grpc.StatusCode.INTERNAL


async def test_bytes_that_are_no_message_are_an_invalid_argument(
    channel: grpc.aio.Channel,
) -> None:
    call = channel.unary_unary(TRANSLATE)(b"\x0a\xff\xff\xff")
    error = await failure(call)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details(error)["ErrorInfo"].reason == "UNDECODABLE_MESSAGE"
    stream = channel.unary_stream("/attendant.v1.TranslationService/StreamTranslate")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in stream(b"\x0a\xff\xff\xff"):
            pass
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_message_over_the_limit_is_refused(start_server: StartServer) -> None:
    async with start_server(max_message_bytes=2048) as server, open_channel(server) as channel:
        error = await failure(translation(channel).Translate(texts("x" * 4096)))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_the_request_id_comes_back(channel: grpc.aio.Channel) -> None:
    given = (("x-request-id", "abc-1"),)
    call = translation(channel).Translate(texts("x"), metadata=given)
    await call
    assert dict(await call.trailing_metadata())["x-request-id"] == "abc-1"
    error = await failure(translation(channel).Translate(texts("FULL"), metadata=given))
    assert trailers(error)["x-request-id"] == "abc-1"
    unnamed = translation(channel).Translate(texts("x"), metadata=(("x-request-id", "a b"),))
    await unnamed
    assert len(dict(await unnamed.trailing_metadata())["x-request-id"]) == 32


async def test_an_unknown_model_lists_what_there_is(channel: grpc.aio.Channel) -> None:
    error = await failure(translation(channel).Translate(texts("x", model="fr-it")))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert details(error)["ErrorInfo"].reason == "MODEL_NOT_FOUND"
    assert "en-de/1" in str(error.details())
    pair = texts("x", source_language_code="fr", target_language_code="it")
    error = await failure(translation(channel).Translate(pair))
    assert details(error)["ErrorInfo"].reason == "LANGUAGE_PAIR_NOT_FOUND"
    assert "en to de" in str(error.details())


async def test_a_caller_who_leaves_cancels_its_work_and_is_counted_so(
    server: Server, channel: grpc.aio.Channel, fakes: dict[str, FakeTranslator]
) -> None:
    call = translation(channel).Translate(texts("WAIT"))
    await asyncio.wait_for(fakes["en-de"].started.wait(), 10)
    call.cancel()
    await asyncio.wait_for(fakes["en-de"].left.wait(), 10)
    await counted(server, "CANCELLED")


async def test_an_expired_deadline_cancels_the_work_and_is_counted_so(
    server: Server, channel: grpc.aio.Channel, fakes: dict[str, FakeTranslator]
) -> None:
    error = await failure(translation(channel).Translate(texts("WAIT"), timeout=0.5))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(fakes["en-de"].left.wait(), 10)
    await counted(server, "DEADLINE_EXCEEDED")


async def test_a_stream_that_is_left_cancels_its_work(
    server: Server, channel: grpc.aio.Channel, fakes: dict[str, FakeTranslator]
) -> None:
    request = translation_pb2.StreamTranslateRequest(request=texts("WAIT"))
    call = translation(channel).StreamTranslate(request)
    assert (await call.read()).partial.text_delta == "WAIT "
    await asyncio.wait_for(fakes["en-de"].started.wait(), 10)
    call.cancel()
    await asyncio.wait_for(fakes["en-de"].left.wait(), 10)
    await counted(server, "CANCELLED")


async def counted(server: Server, code: str) -> None:
    """Wait until one call of this code is counted; the caller may know before the server does."""
    async with asyncio.timeout(10):
        while total(server.metrics, "grpc_server_handled_total", grpc_code=code) != 1:
            await asyncio.sleep(0)


async def test_after_n_calls_the_counters_moved_by_n_and_the_gauges_are_back_at_zero(
    server: Server, channel: grpc.aio.Channel
) -> None:
    for _ in range(3):
        await translation(channel).Translate(texts("x"))
    await failure(translation(channel).Translate(texts("FULL")))
    request = translation_pb2.StreamTranslateRequest(request=texts("x"))
    for _ in range(2):
        assert [event async for event in translation(channel).StreamTranslate(request)]
    await asyncio.gather(
        *(classification(channel).Classify(images(image_file(), b"bad")) for _ in range(4))
    )
    metrics = server.metrics

    def handled(method: str, code: str) -> float:
        labels = {"grpc_method": method, "grpc_code": code}
        return total(metrics, "grpc_server_handled_total", **labels)

    assert handled("Translate", "OK") == 3
    assert handled("Translate", "RESOURCE_EXHAUSTED") == 1
    assert handled("StreamTranslate", "OK") == 2
    assert handled("Classify", "OK") == 4
    assert total(metrics, "grpc_server_started_total") == 10
    assert total(metrics, "grpc_server_handling_seconds_count") == 10
    assert total(metrics, "grpc_server_started_total", grpc_type="server_stream") == 2
    assert total(metrics, "attendant_images_total", model="colours/1") == 4
    assert total(metrics, "attendant_preprocess_seconds_count") == 4
    assert total(metrics, "attendant_classification_batch_size_sum") == 4
    for gauge in ("attendant_requests_waiting", "attendant_sequences_running"):
        assert [value for _, value in samples(metrics, gauge)] == [0.0], gauge


async def test_images_are_classified_each_on_its_own(channel: grpc.aio.Channel) -> None:
    request = images(image_file((255, 0, 0)), b"bad", image_file((0, 0, 255)), top_k=2)
    response = await classification(channel).Classify(request)
    assert [result.status.code for result in response.results] == [0, 3, 0]
    assert [result.labels[0].label for result in response.results if result.labels] == [
        "red",
        "blue",
    ]
    assert len(response.results[0].labels) == 2
    assert response.results[2].labels[0].index == 2
    assert (response.model, response.model_version) == ("colours", "1")
    assert "62 61 64" in response.results[1].status.message
    request_detail = error_details_pb2.BadRequest()
    response.results[1].status.details[1].Unpack(request_detail)
    assert request_detail.field_violations[0].field == "images[1]"


async def test_all_labels_come_by_default_if_they_are_few(channel: grpc.aio.Channel) -> None:
    response = await classification(channel).Classify(images(image_file()))
    assert len(response.results[0].labels) == 4
    assert sum(label.probability for label in response.results[0].labels) == pytest.approx(1)


@pytest.mark.parametrize("top_k", [0, -1, 5])
async def test_top_k_is_1_to_the_number_of_labels(channel: grpc.aio.Channel, top_k: int) -> None:
    error = await failure(classification(channel).Classify(images(image_file(), top_k=top_k)))
    assert details(error)["ErrorInfo"].reason == "INVALID_OPTION"
    assert details(error)["BadRequest"].field_violations[0].field == "top_k"


@pytest.mark.parametrize("number", [0, 65])
async def test_a_classification_has_1_to_64_images(channel: grpc.aio.Channel, number: int) -> None:
    error = await failure(classification(channel).Classify(images(*[b""] * number)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_more_images_than_the_queue_takes_are_refused_whole(
    start_server: StartServer,
) -> None:
    async with start_server(max_queued_images=2) as server, open_channel(server) as channel:
        error = await failure(classification(channel).Classify(images(*[image_file()] * 3)))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert trailers(error)["grpc-retry-pushback-ms"] == "-1"
        assert total(server.metrics, "attendant_requests_rejected_total", reason="QUEUE_FULL") == 1
        assert (await classification(channel).Classify(images(*[image_file()] * 2))).results


async def test_models_are_listed_page_by_page(channel: grpc.aio.Channel) -> None:
    stub: Any = model_pb2_grpc.ModelServiceStub(channel)
    first = await stub.ListModels(model_pb2.ListModelsRequest(page_size=1))
    rest = await stub.ListModels(
        model_pb2.ListModelsRequest(page_size=1, page_token=first.next_page_token)
    )
    assert [model.name for model in (*first.models, *rest.models)] == ["colours", "en-de"]
    assert rest.next_page_token == ""
    for bad in (model_pb2.ListModelsRequest(page_size=-1), {"page_token": "?"}):
        request = bad if not isinstance(bad, dict) else model_pb2.ListModelsRequest(**bad)
        error = await failure(stub.ListModels(request))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_model_is_described_in_full(channel: grpc.aio.Channel) -> None:
    stub: Any = model_pb2_grpc.ModelServiceStub(channel)
    model = (await stub.GetModel(model_pb2.GetModelRequest(name="en-de"))).model
    assert model.state == model_pb2.MODEL_STATE_READY
    assert (model.version, model.precision, model.device) == ("1", "fp32", "cpu")
    assert model.translation.language_pairs[0].target_language_code == "de"
    assert model.translation.limits.max_contents == 1024
    assert model.translation.default_options.beam_size == 4
    every = [field.name for field, _ in model.translation.default_options.ListFields()]
    assert len(every) == 9
    assert model.provenance.metrics == {"accuracy": 1.0}
    model = (await stub.GetModel(model_pb2.GetModelRequest(name="colours/1"))).model
    assert model.classification.labels[:2] == ["red", "green"]
    error = await failure(stub.GetModel(model_pb2.GetModelRequest(name="colours/2")))
    assert error.code() is grpc.StatusCode.NOT_FOUND
