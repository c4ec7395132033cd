"""Verification notices what is wrong with a bundle."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from export.bundle_writer import write_bundle
from export.verify import verify_bundle
from export.verify.report import Check, Report
from service.bundle import Bundle

PLACE = 5  # of the value that is changed


def copy_with_a_fault(bundle: Bundle, output: Path, precision: str, weight: str) -> Bundle:
    """The same bundle with one value of one weight changed, and hashes that agree with it."""

    def populate(folder: Path) -> None:
        for path in bundle.card.files:
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_bytes((bundle.folder / path).read_bytes())
        change_one_value(folder / precision, weight)

    return write_bundle(output, bundle.card.model_copy(update={"files": {}}), populate)


def change_one_value(folder: Path, weight: str) -> None:
    for path in folder.glob("*.onnx"):
        for tensor in onnx.load(path, load_external_data=False).graph.initializer:
            if tensor.name == weight:
                entries = {entry.key: entry.value for entry in tensor.external_data}
                dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
                offset = int(entries["offset"]) + PLACE * dtype.itemsize
                spoil(folder / "weights.bin", offset, dtype)
                return
    raise AssertionError(f"no weight {weight}")


def spoil(file: Path, offset: int, dtype: np.dtype) -> None:
    content = bytearray(file.read_bytes())
    value = np.frombuffer(content, dtype, count=1, offset=offset)
    content[offset : offset + dtype.itemsize] = (value + dtype.type(1)).tobytes()
    file.write_bytes(content)


def test_one_wrong_scale_of_a_classifier_is_found(
    classification_bundle: Bundle, tmp_path: Path
) -> None:
    """int8 alone: the fp32 weights are the reference, so a fault there is in both."""
    spoiled = copy_with_a_fault(
        classification_bundle,
        tmp_path / "tiny-vit" / "2",
        "int8",
        "layers.1.feed_forward.fc1.weight_scale",
    )
    report = verify_bundle(spoiled.folder)
    assert not report.passed
    assert report.exit_status == 1
    assert "FAILED" in report.table()
    assert all(check.passed for check in report.checks if check.precision == "fp32")


def test_one_wrong_scale_of_an_embedding_is_found(
    translation_bundle: Bundle, tmp_path: Path
) -> None:
    spoiled = copy_with_a_fault(
        translation_bundle, tmp_path / "copy" / "2", "int8", "embedding.weight_scale"
    )
    assert verify_bundle(translation_bundle.folder).passed
    report = verify_bundle(spoiled.folder)
    assert ("int8", "logits, worst column") in failed_checks(report), report.table()


def failed_checks(report: Report) -> set[tuple[str, str]]:
    return {(check.precision, check.name) for check in report.checks if not check.passed}


def test_a_graph_that_differs_from_its_weights_is_found(
    translation_bundle: Bundle, tmp_path: Path
) -> None:
    """A wrong constant in a graph: one layer with another epsilon, as a builder's bug would be."""

    def populate(folder: Path) -> None:
        for path in translation_bundle.card.files:
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_bytes((translation_bundle.folder / path).read_bytes())
        graph = folder / "fp32" / "decoder.onnx"
        model = onnx.load(graph, load_external_data=False)
        norm = next(node for node in model.graph.node if node.op_type == "LayerNormalization")
        epsilon = next(item for item in norm.attribute if item.name == "epsilon")
        epsilon.f = 1e-2
        graph.write_bytes(model.SerializeToString())

    card = translation_bundle.card.model_copy(update={"files": {}})
    spoiled = write_bundle(tmp_path / "copy" / "3", card, populate)
    sentences = ["Yes.", "A dog runs."]
    sound = failed_checks(verify_bundle(translation_bundle.folder, sentences=sentences))
    failed = failed_checks(verify_bundle(spoiled.folder, sentences=sentences))
    assert ("fp32", "logits, teacher forcing") in failed - sound
    assert {precision for precision, _ in failed - sound} == {"fp32"}


def test_a_report_without_checks_proves_nothing() -> None:
    assert not Report("tiny/1", ()).passed


@pytest.mark.parametrize("measured", [2.0, float("nan"), float("inf")])
def test_an_error_above_its_bound_or_without_a_value_fails(measured: float) -> None:
    assert not Check.at_most("fp32", "logits", measured, 1.0).passed
    assert Check.at_most("fp32", "logits", 1.0, 1.0).passed
