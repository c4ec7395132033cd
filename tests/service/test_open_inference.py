"""inference.GRPCInferenceService: what its callers see, message by message."""

import asyncio
import struct
from typing import Any

import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2

from service.classification.engine import ClassificationEngine
from service.errors import InternalError
from service.lifecycle import Phase
from service.rpc.open_inference import grpc_predict_v2_pb2 as inference
from service.rpc.open_inference.servicer import SERVICE
from service.rpc.open_inference.tensors import join_raw
from service.server import Server
from service.translation.options import EarlyStopping, Segmentation
from tests.service.conftest import StartServer, image_file, open_channel, total
from tests.service.fakes import FakeTranslator

Request = inference.ModelInferRequest
Parameter = inference.InferParameter

RED, GREEN = image_file((255, 0, 0)), image_file((0, 255, 0))


async def call(
    channel: grpc.aio.Channel, name: str, request: Any = None, timeout: float | None = None
) -> Any:
    method: Any = channel.unary_unary(
        f"/{SERVICE.full_name}/{name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=getattr(inference, f"{name}Response").FromString,
    )
    message = getattr(inference, f"{name}Request")() if request is None else request
    return await method(message, timeout=timeout)


def tensor(name: str, elements: list[bytes], **fields: Any) -> Any:
    contents = {"contents": inference.InferTensorContents(bytes_contents=elements)}
    described = {"name": name, "datatype": "BYTES", "shape": [len(elements)]}
    return Request.InferInputTensor(**described | contents | fields)


def typed(*texts: str | bytes, parameters: Any = None, **fields: Any) -> Any:
    """A request with its texts in `contents`."""
    elements = [text if isinstance(text, bytes) else text.encode() for text in texts]
    given = {"model_name": "en-de", "inputs": [tensor("TEXT", elements)], **fields}
    return Request(parameters=parameters, **given)


def raw(content: bytes, count: int, name: str = "TEXT", **fields: Any) -> Any:
    """A request with its elements in `raw_input_contents`."""
    described = Request.InferInputTensor(name=name, datatype="BYTES", shape=[count])
    return Request(
        **{
            "model_name": "en-de",
            "inputs": [described],
            "raw_input_contents": [content],
            **fields,
        }
    )


def images(*contents: bytes, **fields: Any) -> Any:
    return Request(model_name="colours", inputs=[tensor("IMAGE", list(contents))], **fields)


async def refusal(channel: grpc.aio.Channel, request: Any, name: str = "ModelInfer") -> Any:
    """Status, reason, path and message of a call that fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(channel, name, request)
    trailers = dict(caught.value.trailing_metadata())
    assert "x-request-id" in trailers
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    information, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for packed in status.details:
        packed.Unpack(information) or packed.Unpack(bad)
    path = bad.field_violations[0].field if bad.field_violations else ""
    return caught.value.code().name, information.reason, path, caught.value.details()


async def test_texts_are_translated_in_order_and_the_id_comes_back(
    channel: grpc.aio.Channel,
) -> None:
    response = await call(channel, "ModelInfer", typed("a man", "two dogs", id="mine"))
    assert (response.model_name, response.model_version) == ("en-de", "1")
    assert response.id == "mine"
    (output,) = response.outputs
    assert (output.name, output.datatype, output.shape) == ("TRANSLATION", "BYTES", [2])
    assert output.contents.bytes_contents == [b"A MAN", b"TWO DOGS"]
    assert not response.raw_output_contents


async def test_a_raw_request_has_a_raw_answer(channel: grpc.aio.Channel) -> None:
    content = join_raw([b"a man", "für".encode(), b""])
    assert content[:9] == b"\x05\x00\x00\x00a man"
    response = await call(channel, "ModelInfer", raw(content, 3, model_version="1"))
    assert response.raw_output_contents == [join_raw([b"A MAN", "FÜR".encode(), b""])]
    assert not response.outputs[0].HasField("contents")


async def test_images_are_classified_and_outputs_come_as_they_are_asked_for(
    channel: grpc.aio.Channel,
) -> None:
    parameters = {"top_k": Parameter(int64_param=2)}
    both = await call(channel, "ModelInfer", images(RED, GREEN, parameters=parameters))
    label, probability = both.outputs
    assert (label.name, label.datatype, label.shape) == ("LABEL", "BYTES", [2, 2])
    assert (probability.name, probability.datatype) == ("PROBABILITY", "FP32")
    assert probability.shape == [2, 2]
    assert label.contents.bytes_contents[::2] == [b"red", b"green"]
    first, second, *_ = probability.contents.fp32_contents
    assert 0.9 < first < 1
    assert 0 < second < 0.1
    outputs = [Request.InferRequestedOutputTensor(name=name) for name in ("PROBABILITY", "LABEL")]
    for asked in ([outputs[0]], outputs):
        request = raw(join_raw([RED]), 1, "IMAGE", model_name="colours", outputs=asked)
        response = await call(channel, "ModelInfer", request)
        assert [output.name for output in response.outputs] == [output.name for output in asked]
        assert struct.unpack("<4f", response.raw_output_contents[0])[0] == first


async def test_parameters_are_the_decoding_options(
    channel: grpc.aio.Channel, fakes: dict[str, FakeTranslator]
) -> None:
    parameters = {
        "beam_size": Parameter(int64_param=2),
        "length_penalty": Parameter(string_param="0.7"),
        "repetition_penalty": Parameter(int64_param=2),
        "early_stopping": Parameter(string_param="never"),
        "segmentation": Parameter(string_param="none"),
        "source_language_code": Parameter(string_param="en"),
        "target_language_code": Parameter(string_param="de"),
        # What Triton's clients make of a float and of an unsigned integer, fields of their own.
        "max_target_tokens": Parameter.FromString(b"\x28\x07"),
    }
    await call(channel, "ModelInfer", typed("x", parameters=parameters))
    (options,), (segmentation,) = fakes["en-de"].options, fakes["en-de"].segmentations
    assert (options.beam_size, options.length_penalty) == (2, 0.7)
    assert (options.repetition_penalty, options.max_target_tokens) == (2.0, 7)
    assert options.early_stopping is EarlyStopping.NEVER
    assert segmentation is Segmentation.NONE
    assert options.num_hypotheses == 1
    double = Parameter.FromString(b"\x21" + struct.pack("<d", 0.7))
    await call(channel, "ModelInfer", typed("x", parameters={"length_penalty": double}))
    assert fakes["en-de"].options[1].length_penalty == 0.7


INPUT = tensor("TEXT", [b"x"])
INVALID = ("INVALID_ARGUMENT", "INVALID_REQUEST")
OPTION = ("INVALID_ARGUMENT", "INVALID_OPTION")
TWO = join_raw([b"a", b"b"])


def output(*names: str) -> list[Any]:
    return [Request.InferRequestedOutputTensor(name=name) for name in names]


@pytest.mark.parametrize(
    ("request_", "kind", "path", "message"),
    [
        (typed("x", inputs=[]), INVALID, "inputs", "expected one input, TEXT, found none"),
        (
            typed("x", inputs=[Request.InferInputTensor(name="TEXT")] * 100_000),
            *(INVALID, "inputs"),
            f"expected one input, TEXT, found 100000: {', '.join([repr('TEXT')] * 8)}",
        ),
        (
            typed("x", inputs=[INPUT, INPUT]),
            *(INVALID, "inputs", "expected one input, TEXT, found 2: 'TEXT', 'TEXT'"),
        ),
        (
            typed("x", inputs=[tensor("IMAGE", [b"x"])]),
            *(INVALID, "inputs", "expected one input, TEXT, found 1: 'IMAGE'"),
        ),
        (
            typed("x", inputs=[tensor("TEXT", [b"x"], datatype="FP32")]),
            *(INVALID, "inputs[0].datatype", "TEXT has the datatype 'FP32', expected BYTES"),
        ),
        (
            typed("x", inputs=[tensor("TEXT", [b"x"], shape=[1, 1])]),
            *(INVALID, "inputs[0].shape", "TEXT has the shape [1, 1], expected [n], n 1 to 1024"),
        ),
        (
            typed("x", inputs=[tensor("TEXT", [], shape=[0])]),
            *(INVALID, "inputs[0].shape", "TEXT has the shape [0], expected [n], n 1 to 1024"),
        ),
        (
            typed("x", inputs=[tensor("TEXT", [b"x"], shape=[-1])]),
            *(INVALID, "inputs[0].shape", "TEXT has the shape [-1], expected [n], n 1 to 1024"),
        ),
        (
            raw(b"", 1025),
            *(INVALID, "inputs[0].shape", "TEXT has the shape [1025], expected [n], n 1 to 1024"),
        ),
        (
            typed("x", inputs=[tensor("TEXT", [b"x"], shape=[2])]),
            *(INVALID, "inputs[0].contents", "TEXT has 1 elements, its shape says 2"),
        ),
        (
            typed("x", inputs=[tensor("TEXT", [b"x"], parameters={"shared_memory_region": {}})]),
            *(INVALID, "inputs[0].parameters"),
            "TEXT has parameters shared_memory_region; inputs take none",
        ),
        (
            typed(
                "x",
                inputs=[
                    tensor("TEXT", [], shape=[1], contents=inference.InferTensorContents(**more))
                    for more in [{"int_contents": [1], "bytes_contents": [b"x"]}]
                ],
            ),
            *(INVALID, "inputs[0].contents"),
            "TEXT has int_contents, bytes_contents, expected bytes_contents alone",
        ),
        (
            typed("x", raw_input_contents=[TWO]),
            *(INVALID, "raw_input_contents"),
            "TEXT has contents, and the request raw_input_contents: expected one of them",
        ),
        (
            raw(TWO, 2, raw_input_contents=[TWO, TWO]),
            *(INVALID, "raw_input_contents", "raw_input_contents has 2 tensors, inputs has 1"),
        ),
        (
            raw(TWO, 3),
            *(INVALID, "raw_input_contents[0]"),
            "raw_input_contents of TEXT: expected 3 elements, found 0 bytes where the length of "
            "element 2 should be",
        ),
        (
            raw(TWO[:-1], 2),
            *(INVALID, "raw_input_contents[0]"),
            "raw_input_contents of TEXT: element 1 has 1 bytes by its length, 0 are left",
        ),
        (
            raw(b"\xff\xff\xff\xff", 1),
            *(INVALID, "raw_input_contents[0]"),
            "raw_input_contents of TEXT: element 0 has 4294967295 bytes by its length, 0 are left",
        ),
        (
            raw(TWO + b"!", 2),
            *(INVALID, "raw_input_contents[0]"),
            "raw_input_contents of TEXT: 1 bytes follow the last of 2 elements",
        ),
        (
            images(RED, outputs=output(*["LABEL"] * 100_000)),
            *(INVALID, "outputs", "100000 outputs are asked for; there are: LABEL, PROBABILITY"),
        ),
        (
            typed("x", outputs=output("LABEL")),
            *(INVALID, "outputs[0]", "no output 'LABEL'; there are: TRANSLATION"),
        ),
        (
            images(RED, outputs=output("LABEL", "LABEL")),
            *(INVALID, "outputs[1]", "output LABEL is asked for twice"),
        ),
        (
            typed(
                "x",
                outputs=[
                    Request.InferRequestedOutputTensor(
                        name="TRANSLATION", parameters={"classification": {}}
                    )
                ],
            ),
            *(INVALID, "outputs[0].parameters"),
            "output TRANSLATION has parameters classification; outputs take none",
        ),
        (
            typed("x", parameters={"beams": Parameter(int64_param=2)}),
            *(OPTION, "parameters"),
            "unknown parameters beams, expected: source_language_code, target_language_code, "
            "beam_size, max_target_tokens, min_target_tokens, no_repeat_ngram_size, "
            "length_penalty, repetition_penalty, early_stopping, segmentation",
        ),
        (
            typed("x", parameters={"beam_size": Parameter()}),
            *(OPTION, "parameters.beam_size"),
            "beam_size has no value: expected bool_param, int64_param or string_param",
        ),
        (
            typed("x", parameters={"beam_size": Parameter(string_param="2")}),
            *(OPTION, "parameters.beam_size", "beam_size is '2', expected an integer of 32 bits"),
        ),
        (
            typed("x", parameters={"beam_size": Parameter(int64_param=2**40)}),
            *(OPTION, "parameters.beam_size"),
            "beam_size is 1099511627776, expected an integer of 32 bits",
        ),
        (
            typed("x", parameters={"beam_size": Parameter(int64_param=99)}),
            *(OPTION, "parameters.beam_size", "beam_size is 99, expected 1 to 8"),
        ),
        (
            typed("x", parameters={"length_penalty": Parameter(bool_param=True)}),
            *(OPTION, "parameters.length_penalty"),
            'length_penalty is True, expected a number, or a string such as "0.6"',
        ),
        (
            typed("x", parameters={"early_stopping": Parameter(string_param="later")}),
            *(OPTION, "parameters.early_stopping"),
            "early_stopping is 'later', expected one of all_finished, heuristic, never",
        ),
        (
            typed("x", parameters={"target_language_code": Parameter(int64_param=1)}),
            *(OPTION, "parameters.target_language_code"),
            "target_language_code is 1, expected a string",
        ),
        (
            images(RED, parameters={"top_k": Parameter(int64_param=5)}),
            *(OPTION, "parameters.top_k"),
            "top_k is 5, expected 1 to 4, the number of labels",
        ),
        (
            typed("x", b"\xff"),
            *(("INVALID_ARGUMENT", "INVALID_TEXT"), "TEXT[1]"),
            "TEXT[1]: expected UTF-8, found byte 0xff at 0",
        ),
        (
            typed("x", "BAD", "y"),
            *(("INVALID_ARGUMENT", "INVALID_TEXT"), "TEXT[1]", "TEXT[1]: text is bad"),
        ),
        (
            images(RED, b"no image"),
            *(("INVALID_ARGUMENT", "INVALID_IMAGE"), "IMAGE[1]"),
            "IMAGE[1]: expected a JPEG, PNG, WebP, BMP or GIF image, found 8 bytes that begin with "
            "6e 6f 20 69 6d 61 67 65",
        ),
        (
            typed("x", model_name=""),
            *(INVALID, "model_name", "the name of the model is empty"),
        ),
        (
            typed("x", model_version="7"),
            *(("NOT_FOUND", "MODEL_NOT_FOUND"), ""),
            "no model en-de/7; there are: colours/1, en-de/1",
        ),
        (
            typed("x", parameters={"target_language_code": Parameter(string_param="fr")}),
            *(("NOT_FOUND", "LANGUAGE_PAIR_NOT_FOUND"), ""),
            "no model for any language to fr; there are: en to de (en-de)",
        ),
    ],
)
async def test_what_is_wrong_is_refused_by_its_place(
    channel: grpc.aio.Channel, request_: Any, kind: tuple[str, str], path: str, message: str
) -> None:
    assert await refusal(channel, request_) == (*kind, path, message)
    assert (await call(channel, "ModelInfer", typed("x"))).outputs


async def test_our_own_bug_is_internal_and_says_nothing(channel: grpc.aio.Channel) -> None:
    code, reason, _, message = await refusal(channel, typed("BUG"))
    assert (code, reason, message) == ("INTERNAL", "INTERNAL", InternalError.MESSAGE)


async def test_a_full_queue_says_when_to_come_back(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(channel, "ModelInfer", typed("FULL"))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"] == "250"


async def test_a_deadline_cancels_the_work(
    channel: grpc.aio.Channel, fakes: dict[str, FakeTranslator]
) -> None:
    method: Any = channel.unary_unary(
        f"/{SERVICE.full_name}/ModelInfer", request_serializer=Request.SerializeToString
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await method(typed("WAIT"), timeout=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(fakes["en-de"].left.wait(), 10)


async def test_work_is_admitted_by_the_deadline_of_its_call(
    channel: grpc.aio.Channel, fakes: dict[str, FakeTranslator], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[float | None] = []
    classify = ClassificationEngine.classify

    async def spy(*given: Any, deadline_seconds: float | None, **named: Any) -> Any:
        found.append(deadline_seconds)
        return await classify(*given, deadline_seconds=deadline_seconds, **named)

    monkeypatch.setattr(ClassificationEngine, "classify", spy)
    for request in (typed("x"), images(RED)):
        await call(channel, "ModelInfer", request, timeout=100.0)
        await call(channel, "ModelInfer", request)
    for timed, untimed in (found, fakes["en-de"].deadlines):
        assert timed is not None
        assert 50.0 < timed < 150.0  # gRPC rounds it
        assert untimed is None


async def test_calls_are_counted(server: Server, channel: grpc.aio.Channel) -> None:
    await call(channel, "ModelInfer", typed("x"))
    await refusal(channel, typed())
    labels = {"grpc_service": SERVICE.full_name, "grpc_method": "ModelInfer"}
    assert total(server.metrics, "grpc_server_started_total", **labels) == 2
    for code in ("OK", "INVALID_ARGUMENT"):
        assert total(server.metrics, "grpc_server_handled_total", grpc_code=code, **labels) == 1


async def test_metadata_describes_the_server_and_its_models(channel: grpc.aio.Channel) -> None:
    described = await call(channel, "ServerMetadata")
    assert (described.name, described.version) == ("attendant", "0.1.0")
    request = inference.ModelMetadataRequest(name="colours", version="1")
    model = await call(channel, "ModelMetadata", request)
    assert (model.name, model.versions, model.platform) == ("colours", ["1"], "onnxruntime_onnx")
    tensors = [(t.name, t.datatype, list(t.shape)) for t in (*model.inputs, *model.outputs)]
    assert tensors == [
        ("IMAGE", "BYTES", [-1]),
        ("LABEL", "BYTES", [-1, -1]),
        ("PROBABILITY", "FP32", [-1, -1]),
    ]
    model = await call(channel, "ModelMetadata", inference.ModelMetadataRequest(name="en-de"))
    assert [t.name for t in (*model.inputs, *model.outputs)] == ["TEXT", "TRANSLATION"]
    unknown = inference.ModelMetadataRequest(name="nothing")
    assert (await refusal(channel, unknown, "ModelMetadata"))[:2] == (
        *("NOT_FOUND", "MODEL_NOT_FOUND"),
    )


async def ready(channel: grpc.aio.Channel, name: str = "") -> bool:
    if name:
        request = inference.ModelReadyRequest(name=name)
        return bool((await call(channel, "ModelReady", request)).ready)
    return bool((await call(channel, "ServerReady")).ready)


async def test_readiness_is_that_of_the_health_service(
    start_server: StartServer, server: Server
) -> None:
    (server.settings.models / "en-de" / "1" / "source.spm").write_bytes(b"changed")
    starting = Server(server.settings)
    await starting.bind()
    async with open_channel(starting) as channel:
        assert (await call(channel, "ServerLive")).live
        assert not await ready(channel)
        assert not await ready(channel, "colours")
        code, reason, *_ = await refusal(channel, images(RED))
        assert (code, reason) == ("UNAVAILABLE", "STARTING")
        await starting.load()
        assert await ready(channel)
        assert await ready(channel, "colours")
        assert not await ready(channel, "en-de")
        assert not await ready(channel, "nothing")
        assert (await refusal(channel, typed("x")))[:2] == ("UNAVAILABLE", "MODEL_UNAVAILABLE")
        starting.lifecycle.phase = Phase.DRAINING
        assert (await call(channel, "ServerLive")).live
        assert not await ready(channel)
        assert not await ready(channel, "colours")
        assert (await refusal(channel, images(RED)))[:2] == ("UNAVAILABLE", "DRAINING")
        await starting.drain()


@pytest.mark.parametrize("name", ["RepositoryModelLoad", "RepositoryModelUnload"])
async def test_nobody_loads_models_through_the_public_port(
    channel: grpc.aio.Channel, name: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(channel, name)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
