"""Programs in other languages load the .proto files and get what the Python client gets."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest

from attendant import Client
from tests.server_process import Ports, serving
from tests.tools import require_java, require_node

ROOT = Path(__file__).resolve().parent.parent
TEXTS = ["Two dogs are running over a green meadow.", "", "A boy is eating."]


class Language(NamedTuple):
    """The command that runs a language's tour of the API, and what it takes to run it."""

    command: list[str]
    require: Callable[[], None]


LANGUAGES = {
    "node": Language(["node", "examples/node/tour.mjs"], require_node),
    "java": Language(["examples/java/run", "Tour"], require_java),
}


@pytest.fixture(scope="module")
def server() -> Iterator[Ports]:
    with serving() as ports:
        yield ports


@pytest.fixture(scope="module")
def client(server: Ports) -> Iterator[Client]:
    with Client(f"localhost:{server.grpc}") as opened:
        yield opened


@pytest.fixture(scope="module", params=LANGUAGES)
def tour(request: pytest.FixtureRequest, server: Ports) -> dict[str, Any]:
    """What one language's tour printed."""
    language = LANGUAGES[request.param]
    language.require()
    # The first run of the Java one compiles it, which takes its time on a busy machine.
    ran = subprocess.run(
        language.command,
        cwd=ROOT,
        env=os.environ | {"ATTENDANT_TARGET": f"localhost:{server.grpc}"},
        capture_output=True,
        encoding="utf-8",
        timeout=240,
        check=False,
    )
    assert (ran.stderr, ran.returncode) == ("", 0)
    printed: dict[str, Any] = json.loads(ran.stdout)
    return printed


def test_texts_are_translated_each_in_its_place(tour: dict[str, Any], client: Client) -> None:
    expected = client.translate(TEXTS, beam_size=4, num_hypotheses=2, return_scores=True)

    for result, translation in zip(tour["translated"], expected, strict=True):
        assert result["code"] == 0
        assert result["texts"] == [hypothesis.text for hypothesis in translation.hypotheses]
        scores = [hypothesis.score for hypothesis in translation.hypotheses]
        assert result["scores"] == pytest.approx(scores, abs=1e-6)
    assert "ü" in tour["translated"][0]["texts"][0]
    assert tour["translated"][1]["texts"] == [""]


def test_the_pieces_of_a_stream_add_up_to_the_translation(
    tour: dict[str, Any], client: Client
) -> None:
    streamed = tour["streamed"]

    assert len(streamed["deltas"]) > 1
    assert "".join(streamed["deltas"]) == streamed["finished"]
    assert streamed["finished"] == client.translate(TEXTS[0]).text


def test_an_image_that_cannot_be_read_leaves_its_neighbours_alone(
    tour: dict[str, Any], client: Client
) -> None:
    pictures = [ROOT / "examples" / name for name in ("airplane.jpg", "ship.jpg")]
    first, second = client.classify(pictures, top_k=2)

    assert tour["classified"] == [
        {"code": 0, "reason": None, "labels": [label.name for label in first.labels]},
        {"code": 3, "reason": "INVALID_IMAGE", "labels": []},
        {"code": 0, "reason": None, "labels": [label.name for label in second.labels]},
    ]


def test_the_models_are_described(tour: dict[str, Any], client: Client) -> None:
    assert tour["models"] == {
        "names": [model.name for model in client.models()],
        "state": "MODEL_STATE_READY",
        "task": "translation",
        "pairs": [["en", "de"]],
    }


def test_a_failed_call_tells_its_code_and_its_reason(tour: dict[str, Any]) -> None:
    assert tour["unknown"] == {
        "code": grpc.StatusCode.NOT_FOUND.value[0],
        "reason": "MODEL_NOT_FOUND",
    }
    # Whoever is quicker: the caller's own clock, or the server, which sees that it will be late.
    assert tour["late"] in (
        {"code": grpc.StatusCode.DEADLINE_EXCEEDED.value[0], "reason": None},
        {
            "code": grpc.StatusCode.RESOURCE_EXHAUSTED.value[0],
            "reason": "DEADLINE_UNREACHABLE",
        },
    )
    # This ends in the caller's own process, which knows nothing of the server's reasons.
    assert tour["cancelled"] == {"code": grpc.StatusCode.CANCELLED.value[0], "reason": None}
