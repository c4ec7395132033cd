"""Images of every kind: taken as they look, or refused alone, with the documented error."""

import asyncio
from typing import Any

import pytest

from attendant.v1.classification_pb2 import ClassifyRequest, Image
from tests.service.bad_input.calling import Failure, failure_of, images, refusal
from tests.service.bad_input.conftest import AIRPLANE, SHIP, Callers, Company, named
from tests.service.bad_input.pictures import BAD, ODD, SAME, black

pytestmark = [
    pytest.mark.asyncio(loop_scope="package"),
    # Pillow warns of what it reads over; the server leaves it at that, and pytest must not.
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),
]
every_way = pytest.mark.parametrize("way", ["grpc", "http", "raw"])


@every_way
@pytest.mark.parametrize(("content", "reason", "message"), named(BAD))
async def test_a_bad_image_fails_alone(
    callers: Callers,
    company: Company,
    alone: dict[Any, Any],
    way: str,
    content: bytes,
    reason: str,
    message: str,
) -> None:
    if way == "grpc":
        async with company():
            response = await callers[way].classify(images(SHIP, content, AIRPLANE))
    else:
        response = await callers[way].classify(images(SHIP, content, AIRPLANE))
    ship, bad, airplane = response.results
    failure = failure_of(bad.status)
    assert failure == Failure("INVALID_ARGUMENT", reason, "images[1]")
    assert message in failure.message
    assert not bad.labels
    assert [ship, airplane] == [alone[SHIP], alone[AIRPLANE]]


async def test_a_call_of_bad_images_alone_has_a_result_for_each(callers: Callers) -> None:
    contents = [content for content, _, _ in BAD.values()]
    response = await callers["grpc"].classify(images(*contents))
    found = [(failure_of(one.status).reason, one.status.message) for one in response.results]
    for (_, reason, message), (found_reason, found_message) in zip(
        BAD.values(), found, strict=True
    ):
        assert found_reason == reason
        assert message in found_message


@pytest.mark.parametrize("way", ["grpc", "http"])
async def test_an_image_without_a_source_is_an_image_of_no_bytes(
    callers: Callers, alone: dict[Any, Any], way: str
) -> None:
    request = ClassifyRequest(images=[Image(), Image(content=SHIP)])
    bad, ship = (await callers[way].classify(request)).results
    assert failure_of(bad.status) == Failure("INVALID_ARGUMENT", "INVALID_IMAGE", "images[0]")
    assert "found no bytes" in bad.status.message
    assert ship == alone[SHIP]


@pytest.mark.parametrize(("content", "plain"), named(SAME))
async def test_a_picture_has_its_labels_in_whatever_file(
    callers: Callers, content: bytes, plain: bytes, request: pytest.FixtureRequest
) -> None:
    (expected,) = (await callers["grpc"].classify(images(plain, top_k=10))).results
    assert expected.status.code == 0
    for way in ("grpc", "http", "raw"):
        (found,) = (await callers[way].classify(images(content, top_k=10))).results
        assert found.status.code == 0, found.status.message
        if "CMYK" in request.node.name:  # there is no way to store it without loss
            assert found.labels[0].label == expected.labels[0].label
        else:
            assert found == expected


@every_way
@pytest.mark.parametrize("content", ODD.values(), ids=list(ODD))
async def test_a_small_or_thin_picture_has_labels(
    callers: Callers, way: str, content: bytes
) -> None:
    (result,) = (await callers[way].classify(images(content, top_k=10))).results
    assert result.status.code == 0, result.status.message
    assert sum(label.probability for label in result.labels) == pytest.approx(1)


@pytest.mark.parametrize("way", ["grpc", "http", "raw"])
@pytest.mark.parametrize(
    ("request_", "status", "reason", "field", "message"),
    named(
        {
            "no images": (
                images(),
                *("INVALID_ARGUMENT", "INVALID_REQUEST", "images"),
                "images has 0 items, expected 1 to 64",
            ),
            "too many": (
                images(*[SHIP] * 65),
                *("INVALID_ARGUMENT", "INVALID_REQUEST", "images"),
                "images has 65 items, expected 1 to 64",
            ),
            "top_k 0": (
                images(SHIP, top_k=0),
                *("INVALID_ARGUMENT", "INVALID_OPTION", "top_k"),
                "top_k is 0, expected 1 to 10",
            ),
            "top_k 11": (
                images(SHIP, top_k=11),
                *("INVALID_ARGUMENT", "INVALID_OPTION", "top_k"),
                "top_k is 11, expected 1 to 10",
            ),
            "top_k -1": (
                images(SHIP, top_k=-1),
                *("INVALID_ARGUMENT", "INVALID_OPTION", "top_k"),
                "expected",
            ),
            "unknown model": (
                images(SHIP, model="cifar100"),
                *("NOT_FOUND", "MODEL_NOT_FOUND", ""),
                "cifar100; there are: cifar10/1",
            ),
            "unknown version": (
                images(SHIP, model="cifar10/2"),
                *("NOT_FOUND", "MODEL_NOT_FOUND", ""),
                "cifar10/2; there are: cifar10/1",
            ),
            "a model of another task": (
                images(SHIP, model="captions-en-de"),
                *("NOT_FOUND", "MODEL_NOT_FOUND", ""),
                "there are: cifar10/1",
            ),
        }
    ),
)
async def test_what_is_wrong_with_a_classification_fails_it(
    callers: Callers,
    way: str,
    request_: ClassifyRequest,
    status: str,
    reason: str,
    field: str,
    message: str,
) -> None:
    if way == "raw" and field == "images":
        return  # it has one image
    failure = await refusal(callers[way].classify(request_))
    assert failure == Failure(status, reason, field)
    assert message in failure.message


async def test_the_largest_picture_stalls_nobody(callers: Callers, alone: dict[Any, Any]) -> None:
    large = asyncio.create_task(callers["grpc"].classify(images(black(7071, 7071, bits=16))))
    await asyncio.sleep(0.01)
    assert list((await callers["grpc"].classify(images(SHIP))).results) == [alone[SHIP]]
    assert not large.done()
    assert (await large).results[0].status.code == 0
