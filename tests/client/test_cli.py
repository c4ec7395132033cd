"""The `attendant` command: what it prints, where, and its exit status."""

import io
import json

import grpc
import pytest
from google.protobuf.wrappers_pb2 import Int32Value
from google.rpc import code_pb2, status_pb2

from attendant.cli import main
from attendant.v1 import model_pb2
from tests.client.scripted import Failure


@pytest.fixture
def run(script, capsys):
    """Runs the command against the scripted server: exit status, output, errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main([*arguments, "--target", script.target])
        return (status, *capsys.readouterr())

    return run


def test_translate_prints_the_translation(script, run, translated):
    script.answers = [translated("Ein Mann.")]

    assert run("translate", "A man.", "--to", "de", "--beam-size", "4") == (0, "Ein Mann.\n", "")
    assert script.requests[0].options.beam_size == 4
    assert script.requests[0].target_language_code == "de"


def test_translate_reads_lines_from_standard_input(script, run, translated, monkeypatch):
    script.answers = [translated("eins", "zwei")]
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\n"))

    assert run("translate", "-") == (0, "eins\nzwei\n", "")
    assert script.requests[0].contents == ["one", "two"]


def test_translate_prints_json_lines(script, run, translated):
    script.answers = [translated("Müller")]

    status, output, _ = run("translate", "x", "--json")

    assert status == 0
    assert "Müller" in output
    assert json.loads(output)["hypotheses"][0]["score"] == -0.5
    assert script.requests[0].options.return_scores


def test_translate_streams_words(script, run, streamed):
    script.answers = [streamed("Ein ", "Mann.")]

    assert run("translate", "A man.", "--stream") == (0, "Ein Mann.\n", "")


def test_a_stream_prints_its_events_as_json_lines(script, run, streamed):
    script.answers = [streamed("Ja.")]

    _, output, _ = run("translate", "Yes.", "--stream", "--json")

    assert [json.loads(line)["event"] for line in output.splitlines()] == [
        "TextDelta",
        "TextFinished",
        "StreamSummary",
    ]


def test_a_text_that_failed_keeps_its_line_and_fails_the_command(script, run, translated):
    bad = status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message="contents[0]:\ntoo long")
    script.answers = [translated(bad, "zwei")]

    status, output, errors = run("translate", "one", "two")

    assert (status, output) == (1, "\nzwei\n")
    assert errors == "attendant: INVALID_ARGUMENT: contents[0]: too long\n"


def test_a_call_that_failed_is_one_line_on_standard_error(script, run):
    script.answers = [Failure(grpc.StatusCode.NOT_FOUND, "no model xx; there is en-de")]

    status, output, errors = run("translate", "x", "--model", "xx")

    assert (status, output) == (1, "")
    assert errors == "attendant: NOT_FOUND: no model xx; there is en-de\n"


def test_classify_prints_labels(script, run, classified, tmp_path):
    script.answers = [classified]
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"file")

    status, output, _ = run("classify", str(path), "--top-k", "2")

    assert (status, output) == (0, " 75.00%  cat\n 25.00%  dog\n")
    assert json.loads(run("classify", str(path), "--json")[1])["labels"][0]["name"] == "cat"


def test_a_file_that_is_not_there_is_wrong_usage(run):
    status, output, errors = run("classify", "/nowhere/photo.jpg")

    assert (status, output) == (2, "")
    assert errors.startswith("attendant: ")
    assert errors.count("\n") == 1


def test_models_are_one_line_each(script, run, described):
    script.answers = [model_pb2.ListModelsResponse(models=[described])]

    assert run("models") == (0, "en-de/1  ready  int8  cpu  translation en-de\n", "")


def test_of_many_languages_a_line_has_a_few_and_json_all(script, run, multilingual):
    script.answers = [model_pb2.ListModelsResponse(models=[multilingual])] * 2

    _, line, _ = run("models")
    _, output, _ = run("models", "--json")

    expected = "translation en,de to aa,ab,ac,ad,ae,af,ag,ah,... (10)"
    assert line == f"many/1  ready  int8  cpu  {expected}\n"
    assert json.loads(output)["task"]["target_languages"][-1] == "aj"


@pytest.mark.parametrize(("value", "name", "status"), [(1, "SERVING", 0), (2, "NOT_SERVING", 1)])
def test_health_is_printed_and_is_the_exit_status(script, run, value, name, status):
    script.answers = [Int32Value(value=value)]

    assert run("health") == (status, f"{name}\n", "")


@pytest.mark.parametrize(
    "arguments", [[], ["fly"], ["translate"], ["translate", "x", "--beam-size", "wide"]]
)
def test_wrong_usage_is_one_line_and_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)

    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
