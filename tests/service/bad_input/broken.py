"""Ways to break a bundle on disk, and what is said of each."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from tests.service.conftest import classifier_graph, write_card

Break = Callable[[Path], object]

GRAPH = "fp32/classifier.onnx"


def card_of(folder: Path) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((folder / "bundle.json").read_text())
    return card


def with_card(**fields: Any) -> Break:
    def change(folder: Path) -> None:
        card = {**card_of(folder), **fields}
        (folder / "bundle.json").write_text(json.dumps(card))

    return change


def within(name: str, **fields: Any) -> Break:
    """Other fields in a part of the card."""
    return lambda folder: with_card(**{name: card_of(folder)[name] | fields})(folder)


def with_text(text: str) -> Break:
    return lambda folder: (folder / "bundle.json").write_text(text)


def with_graph(change: Callable[[onnx.ModelProto], None], name: str = GRAPH) -> Break:
    """Another graph, with its right hash."""

    def replace(folder: Path) -> None:
        graph = onnx.load(folder / name, load_external_data=False)
        change(graph)
        (folder / name).write_bytes(graph.SerializeToString())
        write_card(folder, card_of(folder))

    return replace


def with_bytes(name: str, content: bytes) -> Break:
    """Another file, with its right hash."""

    def replace(folder: Path) -> None:
        (folder / name).write_bytes(content)
        write_card(folder, card_of(folder))

    return replace


def truncate(folder: Path) -> None:
    content = (folder / GRAPH).read_bytes()
    (folder / GRAPH).write_bytes(content[: len(content) // 2])


def link_out(folder: Path) -> None:
    outside = folder.parents[2] / "outside.onnx"
    shutil.copy(folder / GRAPH, outside)
    (folder / GRAPH).unlink()
    (folder / GRAPH).symlink_to(outside)


def rename_input(graph: onnx.ModelProto) -> None:
    graph.graph.input[0].name = graph.graph.node[0].input[0] = "pixels"


def rename_output(graph: onnx.ModelProto) -> None:
    graph.graph.output[0].name = graph.graph.node[-1].output[0] = "scores_"


def retype(graph: onnx.ModelProto) -> None:
    graph.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    cast = helper.make_node("Cast", ["pixel_values"], ["narrowed"], to=TensorProto.FLOAT)
    graph.graph.node[0].input[0] = "narrowed"
    graph.graph.node.insert(0, cast)


def reshape(graph: onnx.ModelProto) -> None:
    graph.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 16


def another_number_of_labels(graph: onnx.ModelProto) -> None:
    graph.CopyFrom(classifier_graph(7))


# How a bundle may be broken, and what is said of it.
BROKEN: dict[str, tuple[Break, str]] = {
    "empty card": (with_text(""), "expected JSON in"),
    "card cut off": (with_text('{"schema_version": 1, "na'), "expected JSON in"),
    "card that is no object": (with_text("[]"), "expected an object in"),
    "card too deep": (with_text("[" * 100_000), "expected JSON in"),
    "card without fields": (with_text("{}"), "expected schema_version 1, found None"),
    "future version": (with_card(schema_version=2), "expected schema_version 1, found 2"),
    "another name": (with_card(name="other"), "expected a bundle named broken, as its folder"),
    "unknown task": (
        with_card(task="summarization"),
        "expected task translation or classification",
    ),
    "wrong task": (with_card(task="translation"), "architecture.encoder_layers: Field required"),
    "unknown field": (with_card(colour="red"), "colour: Extra inputs are not permitted"),
    "no labels": (with_card(labels=[]), "labels: Tuple should have at least 1 item"),
    "more labels than logits": (with_card(labels=list("abcdefg")), "to be float32 (None, 7)"),
    "wrong hash": (with_card(files={GRAPH: "0" * 64}), "expected sha256 0000"),
    "unlisted file": (
        lambda folder: (folder / "more.bin").write_bytes(b"x"),
        "expected only listed files in",
    ),
    "missing graph": (lambda folder: (folder / GRAPH).unlink(), "found no such file"),
    "truncated graph": (truncate, "expected sha256"),
    "link out of the folder": (link_out, "expected fp32/classifier.onnx inside"),
    "no ONNX": (with_bytes(GRAPH, b"no graph"), "expected an ONNX graph in"),
    "empty graph": (with_bytes(GRAPH, b""), "expected an ONNX graph in"),
    "input renamed": (with_graph(rename_input), "expected inputs ['pixel_values'], found ['pixels"),
    "output renamed": (with_graph(rename_output), "expected outputs ['logits'], found ['scores_"),
    "another type": (with_graph(retype), "expected pixel_values to be float32"),
    "another shape": (with_graph(reshape), "expected pixel_values to be float32 (None, 3, 8, 8)"),
    "another number of labels": (with_graph(another_number_of_labels), "expected logits to be"),
}


def rename_encoder_output(graph: onnx.ModelProto) -> None:
    (node,) = [one for one in graph.graph.node if graph.graph.output[0].name in one.output]
    node.output[list(node.output).index(graph.graph.output[0].name)] = "renamed"
    graph.graph.output[0].name = "renamed"


def rename_decoder_input(graph: onnx.ModelProto) -> None:
    for node in graph.graph.node:
        for index, name in enumerate(node.input):
            if name == "seqlens_k":
                node.input[index] = "lengths"
    next(one for one in graph.graph.input if one.name == "seqlens_k").name = "lengths"


# The same of a copy of captions-en-de.
BROKEN_TRANSLATORS: dict[str, tuple[Break, str]] = {
    "encoder": (
        with_graph(rename_encoder_output, "int8/encoder.onnx"),
        "int8/encoder.onnx: expected outputs",
    ),
    "decoder": (
        with_graph(rename_decoder_input, "int8/decoder.onnx"),
        "int8/decoder.onnx: expected inputs",
    ),
    "weights cut off": (with_bytes("int8/weights.bin", bytes(1000)), "int8/encoder.onnx"),
    "tokenizer": (with_bytes("source.spm", b"no model"), "expected a SentencePiece model"),
    "vocabulary": (
        within("architecture", vocab_size=100),
        "expected tokenizers of 100 pieces",
    ),
    "more hypotheses than beams": (
        within("decoding", num_hypotheses=99),
        "expected decoding.num_hypotheses of at most beam_size",
    ),
}
