"""Neither a bundle nor a request reaches files outside of a model's folder."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import grpc.aio
import numpy as np
import onnx
import pytest
from onnx import TensorProto, external_data_helper, numpy_helper

from attendant.v1 import model_pb2, model_pb2_grpc
from service.server import Server
from service.settings import Settings
from tests.service.bad_input.calling import Failure, Grpc, images, refusal, texts
from tests.service.conftest import (
    StartServer,
    classifier_graph,
    image_file,
    open_channel,
    write_card,
    write_classifier,
)

GRAPH = "fp32/classifier.onnx"


def card(folder: Path, **changes: object) -> None:
    path = folder / "bundle.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def relist(folder: Path) -> None:
    """The card's hashes are those of the files, as a forger would have them."""
    known = json.loads((folder / "bundle.json").read_text())
    del known["files"]
    write_card(folder, known)


def name_a_graph_outside(folder: Path) -> None:
    card(folder, precisions={"fp32": {"classifier": "../../outside.onnx"}})


def name_an_absolute_graph(folder: Path) -> None:
    outside = folder.parents[1] / "outside.onnx"
    card(folder, precisions={"fp32": {"classifier": str(outside)}})


def list_a_file_outside(folder: Path) -> None:
    files = json.loads((folder / "bundle.json").read_text())["files"]
    card(folder, files=files | {"fp32/../../../outside.onnx": "0" * 64})


def link_a_graph(folder: Path) -> None:
    (folder / GRAPH).unlink()
    (folder / GRAPH).symlink_to(folder.parents[1] / "outside.onnx")
    relist(folder)


def link_a_folder(folder: Path) -> None:
    (folder / "fp32").rename(folder.parents[1] / "fp32")
    (folder / "fp32").symlink_to(folder.parents[1] / "fp32")
    card(folder)


def _weights_in(folder: Path, location: str) -> None:
    """The graph's weights are raw bytes in a file of that name."""
    graph = classifier_graph()
    for tensor in graph.graph.initializer:
        if tensor.name == "weights":
            tensor.raw_data = numpy_helper.to_array(tensor).tobytes()
            tensor.ClearField("float_data")
            external_data_helper.set_external_data(tensor, location, length=len(tensor.raw_data))
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
    (folder / GRAPH).write_bytes(graph.SerializeToString())
    relist(folder)


def take_weights_outside(folder: Path) -> None:
    _weights_in(folder, "../../../secret.bin")


def take_weights_by_an_absolute_path(folder: Path) -> None:
    _weights_in(folder, str(folder.parents[1] / "secret.bin"))


def take_weights_through_a_hidden_link(folder: Path) -> None:
    _weights_in(folder, ".weights")
    os.symlink(folder.parents[1] / "secret.bin", folder / "fp32" / ".weights")


@pytest.mark.parametrize(
    "reach_out",
    [
        name_a_graph_outside,
        name_an_absolute_graph,
        list_a_file_outside,
        link_a_graph,
        link_a_folder,
        take_weights_outside,
        take_weights_by_an_absolute_path,
        take_weights_through_a_hidden_link,
    ],
)
async def test_a_bundle_that_reaches_out_of_its_folder_is_refused(
    tmp_path: Path, reach_out: Callable[[Path], None]
) -> None:
    """What it reaches for is there, and would work."""
    models = tmp_path / "models"
    folder = write_classifier(models)
    onnx.save(classifier_graph(), models / "outside.onnx")
    (models / "secret.bin").write_bytes(np.eye(3, 4, dtype=np.float32).tobytes())
    reach_out(folder)
    server = Server(Settings(models=models, grpc_port=0, http_port=0, drain_seconds=1.0))
    await server.start()
    try:
        (model,) = server.repository.models
        assert model.failure
        async with open_channel(server) as channel:
            failure = await refusal(Grpc(channel).classify(images(image_file())))
            assert failure == Failure("UNAVAILABLE", "MODEL_UNAVAILABLE")
    finally:
        await server.drain()


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "../colours",
        "colours/../colours/1",
        "/etc",
        "colours/1/../1",
        "./colours",
        "colours/1/",
    ],
)
async def test_a_name_that_is_a_path_is_no_model(start_server: StartServer, name: str) -> None:
    async with start_server() as server, open_channel(server) as channel:
        grpc_ = Grpc(channel)
        calls = (
            grpc_.classify(images(image_file(), model=name)),
            grpc_.translate(texts("x", model=name)),
        )
        for call in calls:
            assert await refusal(call) == Failure("NOT_FOUND", "MODEL_NOT_FOUND")
        stub = model_pb2_grpc.ModelServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetModel(model_pb2.GetModelRequest(name=name))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
