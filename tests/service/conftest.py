"""A real server on port 0 over tiny bundles: a real ONNX classifier, a scripted translator."""

import hashlib
import io
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from service.bundle import Bundle
from service.metrics import Metrics
from service.server import Server, engine_factory
from service.settings import Settings
from tests.service.fakes import FakeTranslator

LABELS = ("red", "green", "blue", "dark")
SIZE = 8

StartServer = Callable[..., AbstractAsyncContextManager[Server]]


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """bundle.json with the hashes of what lies in the folder."""
    files = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "bundle.json"
    }
    (folder / "bundle.json").write_text(json.dumps({**card, "files": files}))


def provenance() -> dict[str, Any]:
    return {
        "data": "made for a test",
        "licence": "Apache-2.0",
        "recipe": "by hand",
        "trained_hours": 0.0,
        "metrics": {"fp32": {"accuracy": 1.0}},
    }


def classifier_graph(labels: int = len(LABELS), *, leaky: bool = False) -> onnx.ModelProto:
    """Mean colour -> logits; a leaky one divides by the largest value of the whole batch."""
    weights = np.eye(3, labels, dtype=np.float32) * 4
    bias = np.array([0.0] * 3 + [0.5] * (labels - 3), dtype=np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["pixel_values"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["colour"]),
        helper.make_node("Gemm", ["colour", "weights", "bias"], ["scores"]),
    ]
    if leaky:
        nodes.append(helper.make_node("ReduceMax", ["scores"], ["largest"], keepdims=0))
        nodes.append(helper.make_node("Div", ["scores", "largest"], ["logits"]))
    else:
        nodes.append(helper.make_node("Identity", ["scores"], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["B", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", labels])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(bias, "bias")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def write_classifier(
    models: Path, name: str = "colours", version: int = 1, *, leaky: bool = False, **card: Any
) -> Path:
    """A real bundle that tells which channel is the brightest."""
    folder = models / name / str(version)
    (folder / "fp32").mkdir(parents=True)
    onnx.save(classifier_graph(leaky=leaky), folder / "fp32" / "classifier.onnx")
    architecture = {
        "layers": 1,
        "d_model": 3,
        "num_heads": 1,
        "ffn_size": 3,
        "image_size": SIZE,
        "patch_size": SIZE,
        "stem": "patches",
    }
    image = {"size": SIZE, "resample": "bilinear", "mean": [0.5] * 3, "std": [0.5] * 3}
    write_card(
        folder,
        {
            "schema_version": 1,
            "name": name,
            "task": "classification",
            "precisions": {"fp32": {"classifier": "fp32/classifier.onnx"}},
            "provenance": provenance(),
            "architecture": architecture,
            "labels": list(LABELS),
            "image": image,
            **card,
        },
    )
    return folder


_SIZES = ("encoder_layers", "decoder_layers", "d_model", "num_heads", "head_size", "ffn_size")
ARCHITECTURE = {
    **dict.fromkeys(_SIZES, 1),
    "vocab_size": 8,
    "max_positions": 64,
    "norm": "post",
    "activation": "relu",
    "positions": "sinusoidal",
}


def write_translator(
    models: Path,
    name: str = "en-de",
    version: int = 1,
    pairs: tuple[tuple[str, str], ...] = (("en", "de"),),
    **card: Any,
) -> Path:
    """A bundle that is complete on paper; the engine over it is a fake."""
    folder = models / name / str(version)
    (folder / "fp32").mkdir(parents=True)
    for path in ("fp32/encoder.onnx", "fp32/decoder.onnx", "source.spm"):
        (folder / path).write_bytes(b"not opened")
    write_card(
        folder,
        {
            "schema_version": 1,
            "name": name,
            "task": "translation",
            "precisions": {
                "fp32": {"encoder": "fp32/encoder.onnx", "decoder": "fp32/decoder.onnx"}
            },
            "provenance": provenance(),
            "architecture": ARCHITECTURE,
            "tokens": {"pad": 0, "eos": 1, "unk": 2, "decoder_start": 0},
            "decoding": {"beam_size": 4, "length_penalty": 0.6, "max_target_tokens": 32},
            "language_pairs": [{"source": source, "target": target} for source, target in pairs],
            "segmentation": "sentences",
            "tokenizer": {"kind": "sentencepiece", "source": "source.spm", "target": "source.spm"},
            "limits": {"max_source_tokens": 64, "max_target_tokens": 64},
            **card,
        },
    )
    return folder


def write_multilingual(models: Path, *codes: str, name: str = "many", told: str = "both") -> Path:
    """A translator between any of these languages, told the source too, or the target alone."""
    languages = [
        {"code": code, "token": 3 + index, "name": f"{code}_own"}
        for index, code in enumerate(codes)
    ]
    source = ["source_language", "text", 1] if told == "both" else ["text", 1]
    return write_translator(
        models,
        name,
        pairs=(),
        tokens={
            **{"pad": 0, "eos": 1, "unk": 2, "decoder_start": 0, "source": source},
            "forced_bos": "target_language",
        },
        architecture={**ARCHITECTURE, "vocab_size": 3 + len(codes)},
        languages={"sources": languages, "targets": languages},
    )


def image_file(
    colour: Any = (255, 0, 0), *, mode: str = "RGB", kind: str = "PNG", size: int = 10, **save: Any
) -> bytes:
    """An image of one colour."""
    file = io.BytesIO()
    Image.new(mode, (size, size), colour).save(file, kind, **save)
    return file.getvalue()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder with one model of each task."""
    write_classifier(tmp_path / "models")
    write_translator(tmp_path / "models")
    return tmp_path / "models"


@pytest.fixture
def fakes() -> dict[str, FakeTranslator]:
    """The fake translators that servers of this test have made, by model name."""
    return {}


@pytest.fixture
def start_server(models: Path, fakes: dict[str, FakeTranslator]) -> StartServer:
    """Starts a server with these settings; leaving the block drains it."""

    @asynccontextmanager
    async def start(**given: Any) -> AsyncIterator[Server]:
        settings = Settings(
            **{"models": models, "grpc_port": 0, "http_port": 0, "drain_seconds": 0.0, **given}
        )
        metrics = Metrics.create()
        real = engine_factory(settings, metrics)

        def make(bundle: Bundle) -> Any:
            if bundle.task != "translation":
                return real(bundle)
            fakes[bundle.name] = FakeTranslator(bundle, metrics=metrics)
            return fakes[bundle.name]

        server = Server(settings, metrics=metrics, factory=make)
        await server.start()
        try:
            yield server
        finally:
            await server.drain()

    return start


@pytest.fixture
async def server(start_server: StartServer) -> AsyncIterator[Server]:
    """A ready server with default settings."""
    async with start_server() as running:
        yield running


@pytest.fixture
async def channel(server: Server) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to `server`."""
    async with open_channel(server) as opened:
        yield opened


@asynccontextmanager
async def open_channel(server: Server) -> AsyncIterator[grpc.aio.Channel]:
    """A channel with a connection of its own: no retries, no message limit."""
    options = [
        ("grpc.enable_retries", 0),
        ("grpc.max_receive_message_length", -1),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}", options) as channel:
        yield channel


def samples(metrics: Metrics, name: str) -> Iterator[tuple[dict[str, str], float]]:
    """Labels and value of each sample of this name."""
    for family in metrics.registry.collect():
        for sample in family.samples:
            if sample.name == name:
                yield sample.labels, sample.value


def total(metrics: Metrics, name: str, **labels: str) -> float:
    """The sum of the samples of this name that have these labels."""
    return sum(value for found, value in samples(metrics, name) if labels.items() <= found.items())
