"""What is no bundle is refused, with what was expected and what was found."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from export.bundle_writer import record_figures, write_bundle
from export.verify.stepping import Graphs
from service.bundle import Bundle, TranslationCard, expected_tensors
from service.errors import BundleError


@pytest.fixture
def folder(translation_bundle: Bundle, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    copy = tmp_path / "copy" / "1"
    shutil.copytree(translation_bundle.folder, copy)
    return copy


def edit_card(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    card = json.loads((folder / "bundle.json").read_text())
    change(card)
    (folder / "bundle.json").write_text(json.dumps(card))


def set_field(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(card: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for parent in parents:
            card = card[parent]
        card[last] = value

    return change


def test_a_bundle_knows_its_name_version_task_and_graphs(translation_bundle: Bundle) -> None:
    assert translation_bundle.name == "copy"
    assert translation_bundle.version == 1
    assert translation_bundle.task == "translation"
    assert translation_bundle.precisions == ("fp32", "int8")
    path = translation_bundle.path("int8", "decoder")
    assert path == translation_bundle.folder / "int8" / "decoder.onnx"
    assert (translation_bundle.folder / "MODEL_CARD.md").read_text().startswith("# copy")
    with pytest.raises(BundleError, match="has no fp16 decoder; it ships fp32, int8"):
        translation_bundle.path("fp16", "decoder")
    with pytest.raises(BundleError, match="expected a classification bundle, found translation"):
        _ = translation_bundle.classification


@pytest.mark.parametrize("name", ["fp32/encoder.onnx", "int8/weights.bin", "source.spm"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"expected {name} in .*, found no such file"):
        Bundle.open(folder)


def test_a_changed_byte_is_found(folder: Path) -> None:
    weights = folder / "int8" / "weights.bin"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(BundleError, match=r"int8/weights.bin: expected sha256 \w+, found \w+"):
        Bundle.open(folder)


def test_a_file_that_is_not_listed_is_refused(folder: Path) -> None:
    (folder / "fp32" / "more.bin").write_bytes(b"?")
    with pytest.raises(BundleError, match=r"expected only listed files .* found fp32/more.bin"):
        Bundle.open(folder)


def test_a_named_file_that_is_not_listed_is_refused(folder: Path) -> None:
    edit_card(folder, lambda card: card["files"].pop("target.spm"))
    with pytest.raises(BundleError, match=r"to list target.spm in `files`"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("schema_version", 2, "expected schema_version 1, found 2"),
        ("task", "summarization", "expected task translation or classification, found 'summ"),
        ("colour", "blue", "colour: Extra inputs are not permitted, found 'blue'"),
        ("decoding.beam_size", 0, "decoding.beam_size: .* greater than 0, found 0"),
        ("decoding.beam_size", "4", "decoding.beam_size: .* valid integer, found '4'"),
        ("decoding.suppressed_tokens", [420], "token 420 is outside vocab_size 420"),
        ("decoding.max_target_tokens", 41, "at most 40, found 41"),
        ("limits.max_source_tokens", 513, "at most 512 positions, found 513"),
        ("architecture.head_size", 25, r"num_heads \* head_size = d_model 48, not 2 \* 25"),
        ("precisions", {}, "expected at least one precision, found none"),
        ("precisions.int8", {"encoder": "a"}, "expected graphs encoder, decoder, found encoder"),
        ("precisions.fp32.encoder", "../encoder.onnx", "a relative path that stays inside"),
        ("tokenizer.source", "/etc/passwd", "a relative path that stays inside"),
        ("language_pairs", [], "expected language_pairs or languages, found neither"),
    ],
)
def test_a_card_with_a_wrong_field_is_refused(
    folder: Path, path: str, value: object, message: str
) -> None:
    edit_card(folder, set_field(path, value))
    with pytest.raises(BundleError, match=message):
        Bundle.open(folder)


def test_a_card_without_a_field_is_refused(folder: Path) -> None:
    edit_card(folder, lambda card: card.pop("tokens"))
    with pytest.raises(BundleError, match="tokens: Field required"):
        Bundle.open(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_a_card_that_is_no_object_is_refused(folder: Path, text: str) -> None:
    (folder / "bundle.json").write_text(text)
    with pytest.raises(BundleError, match=r"expected (JSON|an object)"):
        Bundle.open(folder)


def test_a_folder_without_a_card_or_a_version_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "bundle.json").unlink()
    with pytest.raises(BundleError, match=r"expected .*bundle.json, found no such file"):
        Bundle.open(folder)
    with pytest.raises(BundleError, match="named by an integer version, found latest"):
        Bundle.open(tmp_path / "latest")


def test_a_link_that_leads_out_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    outside = shutil.move(folder / "source.spm", tmp_path / "elsewhere.spm")
    (folder / "source.spm").symlink_to(outside)
    with pytest.raises(BundleError, match=r"expected source.spm inside .*, found it at"):
        Bundle.open(folder)


def test_a_graph_with_another_tensor_name_is_refused(
    translation_bundle: Bundle, folder: Path
) -> None:
    path = folder / "fp32" / "encoder.onnx"
    model = onnx.load(path, load_external_data=False)
    model.graph.input[1].name = "mask"
    for node in model.graph.node:
        node.input[:] = ["mask" if name == "attention_mask" else name for name in node.input]
    path.write_bytes(model.SerializeToString())
    spoiled = Bundle(folder, version=1, card=translation_bundle.card)
    with pytest.raises(BundleError, match=r"expected inputs .*attention_mask.*found .*mask"):
        Graphs.open(spoiled, "fp32")


def test_a_bundle_that_fails_halfway_leaves_nothing(
    translation_bundle: Bundle, tmp_path: Path
) -> None:
    def populate(folder: Path) -> None:
        (folder / "source.spm").write_bytes(b"half")
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="the disk is full"):
        write_bundle(tmp_path / "copy" / "2", translation_bundle.card, populate)
    with pytest.raises(BundleError, match="expected"):  # nothing written: its card promises files
        write_bundle(tmp_path / "copy" / "2", translation_bundle.card, lambda folder: None)
    assert list((tmp_path / "copy").iterdir()) == []


def test_a_version_is_never_replaced(translation_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match=r"expected no .*/1 yet, found one"):
        write_bundle(translation_bundle.folder, translation_bundle.card, lambda folder: None)


def test_expected_tensors_are_those_of_the_task(
    translation_bundle: Bundle, classification_bundle: Bundle
) -> None:
    card = translation_bundle.translation
    decoder = expected_tensors(card, "decoder")
    assert decoder.inputs["past_key_values.1.encoder.key"] == ("float32", (None, 2, None, 24))
    assert decoder.outputs["logits"] == ("float32", (None, card.architecture.vocab_size))
    classifier = expected_tensors(classification_bundle.card, "classifier")
    assert classifier.inputs == {"pixel_values": ("float32", (None, 3, 32, 32))}
    with pytest.raises(BundleError, match="has graphs encoder, decoder, not classifier"):
        expected_tensors(card, "classifier")


def test_the_card_survives_writing_and_reading(translation_bundle: Bundle) -> None:
    text = translation_bundle.card.model_dump_json()
    assert TranslationCard.model_validate_json(text) == translation_bundle.card


def test_measured_figures_are_added_to_both_cards(folder: Path) -> None:
    bundle = record_figures(
        folder, metrics={"int8": {"bleu": 31.5}}, parity={"fp32 ids": "12 of 12"}
    )
    assert bundle.card.provenance.metrics == {"int8": {"bleu": 31.5}}
    text = (folder / "MODEL_CARD.md").read_text()
    assert "| | int8 |" in text
    assert "| bleu | 31.5 |" in text
    assert "- fp32 ids: 12 of 12" in text
