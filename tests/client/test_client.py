"""The blocking client against a real server: requests, results, streams and deadlines."""

from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import Int32Value
from google.rpc import code_pb2, status_pb2

from attendant import (
    Client,
    DeadlineExceeded,
    InvalidArgument,
    StreamSummary,
    TextDelta,
    TextFinished,
    TranslationModel,
    Unavailable,
)
from attendant.v1 import common_pb2, model_pb2, translation_pb2

BAD_TEXT = status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message="too long")


def test_one_text_comes_back_as_one_translation(script, client, translated):
    script.answers = [translated("Ein Mann.")]

    translation = client.translate("A man.", to="de")

    assert translation.text == "Ein Mann."
    assert translation.score == -0.5
    assert translation.hypotheses[0].finish_reason == "eos"
    assert (translation.model, translation.model_version) == ("en-de", "1")
    assert script.requests[0].contents == ["A man."]
    assert script.requests[0].target_language_code == "de"


def test_several_texts_come_back_in_order(script, client, translated):
    script.answers = [translated("eins", "zwei")]

    assert [translation.text for translation in client.translate(["one", "two"])] == [
        "eins",
        "zwei",
    ]


def test_only_the_options_that_were_given_are_sent(script, client, translated):
    script.answers = [translated("x")]

    client.translate("x", beam_size=4, early_stopping="never", segmentation="none")

    request = script.requests[0]
    assert request.options == common_pb2.DecodingOptions(
        beam_size=4, early_stopping=common_pb2.EARLY_STOPPING_NEVER
    )
    assert request.segmentation == translation_pb2.SEGMENTATION_NONE


def test_an_option_that_does_not_exist_is_refused(client):
    with pytest.raises(TypeError, match="beem_size"):
        client.translate("x", beem_size=4)


def test_one_bad_text_does_not_spoil_the_others(script, client, translated):
    script.answers = [translated("gut", BAD_TEXT)]

    good, bad = client.translate(["good", "bad"])

    assert good.error is None
    assert isinstance(bad.error, InvalidArgument)
    with pytest.raises(InvalidArgument, match="too long"):
        _ = bad.text


def test_a_stream_yields_deltas_then_the_whole_then_a_summary(script, client, streamed):
    script.answers = [streamed("Ein ", "Mann.")]

    first, second, finished, summary = client.translate_stream("A man.")

    assert (first, second) == (TextDelta(0, "Ein "), TextDelta(0, "Mann."))
    assert isinstance(finished, TextFinished)
    assert finished.translation.text == "Ein Mann."
    assert isinstance(summary, StreamSummary)
    assert summary.model == "en-de"


def test_an_event_of_a_kind_not_known_yet_is_passed_over(script, client, streamed):
    script.answers = [[translation_pb2.StreamTranslateResponse(), *streamed("Ja.")]]

    assert len(list(client.translate_stream("Yes."))) == 3


def test_leaving_a_stream_early_cancels_it(script, client, streamed):
    cancelled = Event()

    def endless(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        context.add_callback(cancelled.set)
        while True:
            yield streamed("x")[0]

    script.answers = [endless]

    stream = client.translate_stream("x")
    next(stream)
    stream.close()

    assert cancelled.wait(10)


def test_images_are_read_from_bytes_and_from_files(script, client, classified, tmp_path: Path):
    script.answers = [classified]
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"file")

    client.classify(str(path))
    client.classify(path)
    result = client.classify(b"bytes", top_k=2)

    assert [request.images[0].content for request in script.requests] == [
        b"file",
        b"file",
        b"bytes",
    ]
    assert script.requests[-1].top_k == 2
    assert not script.requests[0].HasField("top_k")
    assert result.label.name == "cat"
    assert client.classify([b"bytes"]) == [result]


def test_models_are_listed_over_all_pages(script, client, described):
    script.answers = [
        model_pb2.ListModelsResponse(models=[described], next_page_token="2"),
        model_pb2.ListModelsResponse(models=[described]),
    ]

    models = client.models()

    assert [model.name for model in models] == ["en-de", "en-de"]
    assert script.requests[1].page_token == "2"


def test_a_model_is_described(script, client, described):
    script.answers = [model_pb2.GetModelResponse(model=described)]

    model = client.model("en-de")

    assert script.requests[0].name == "en-de"
    assert model.state == "ready"
    assert isinstance(model.task, TranslationModel)
    assert model.task.language_pairs[0].target == "de"


def test_a_multilingual_model_has_languages_in_place_of_pairs(script, client, multilingual):
    script.answers = [model_pb2.GetModelResponse(model=multilingual)]

    task = client.model("many").task

    assert isinstance(task, TranslationModel)
    assert task.language_pairs == ()
    assert task.source_languages == ("en", "de")
    assert len(task.target_languages) == 10


def test_health_is_the_name_of_the_serving_status(script, client):
    script.answers = [Int32Value(value=2)]

    assert client.health("attendant.v1.TranslationService") == "NOT_SERVING"
    assert script.requests[0].value == "attendant.v1.TranslationService"


def test_a_call_ends_at_its_deadline(script, client):
    released = Event()
    script.answers = [lambda request, context: released.wait(10)]

    with pytest.raises(DeadlineExceeded):
        client.translate("x", timeout_seconds=0.1)

    released.set()


def test_a_call_has_a_deadline_unless_told(script, client, translated):
    remaining = []

    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        remaining.append(context.time_remaining())
        return translated("x")

    script.answers = [answer]

    client.translate("x")

    assert 25 < remaining[0] <= 31


def test_a_message_of_more_than_four_mebibytes_goes_both_ways(script, client, translated):
    text = "x" * 5 * 1024 * 1024
    script.answers = [translated(text)]

    assert client.translate(text).text == text


def test_a_server_that_is_not_there_is_unavailable():
    with Client("127.0.0.1:1") as client, pytest.raises(Unavailable) as caught:
        client.health(timeout_seconds=0.1)

    assert caught.value.request_id
