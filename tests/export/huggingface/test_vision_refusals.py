"""Classifiers that cannot be served exactly are refused by name, before anything is written."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from export.huggingface.errors import CheckpointError
from export.huggingface.families import Pair
from export.huggingface.importing import ImportOptions, import_checkpoint
from tests.export.huggingface.checkpoints import copied, edit_config
from tests.export.huggingface.classifiers import CLASSIFIERS, Classifier, vit

WEIGHTS, PROCESSOR = "model.safetensors", "preprocessor_config.json"
Damage = Callable[[Path], None]


def config(**fields: Any) -> Damage:
    return lambda folder: edit_config(folder, **fields)


def processing(**fields: Any) -> Damage:
    return lambda folder: edit_config(folder, PROCESSOR, **fields)


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    def damage(folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        change(state)
        save_file(state, folder / WEIGHTS)

    return damage


SCALE = "dinov2.encoder.layer.1.layer_scale2.lambda1"
HEAD = "distillation_classifier.weight"
LABELS = {str(index): f"label {index}" for index in range(12)}
REFUSALS: dict[str, tuple[str, Damage, str]] = {
    "beit": ("vit", config(model_type="beit"), "found beit, which would need relative position"),
    "registers": (
        "dinov2",
        config(model_type="dinov2_with_registers"),
        "found dinov2_with_registers, which would need register tokens",
    ),
    "masked": (
        "vit",
        config(architectures=["ViTForMaskedImageModeling"]),
        "expected the architecture ViTForImageClassification, found ViTForMaskedImageModeling",
    ),
    "gated": ("dinov2", config(use_swiglu_ffn=True), "use_swiglu_ffn True: not supported"),
    "activation": (
        "deit",
        config(hidden_act="gelu_new"),
        "hidden_act relu, gelu, swish, silu, found gelu_new",
    ),
    "grey": ("vit", config(num_channels=1), "num_channels 3, found 1"),
    "oblong": ("vit", config(image_size=[32, 64]), r"image_size \[32, 64\]: not supported"),
    "patches": ("deit", config(patch_size=[8, 4]), r"patch_size \[8, 4\]: not supported"),
    "heads": ("vit", config(num_attention_heads=5), "divide hidden_size 32, not 5"),
    "wide heads": ("vit", config(head_dim=16), "divide hidden_size 32, not 4"),
    "regression": ("vit", config(problem_type="regression"), "problem_type regression: not supp"),
    "one label": ("vit", config(id2label={"0": "price"}), "two labels or more, found 1"),
    "gap": (
        "dinov2",
        config(id2label={**LABELS, "13": "last"}),
        "an id2label of 0 to 12, found none for 12",
    ),
    "missing": (
        "vit",
        tensors(lambda state: state.pop("vit.layernorm.bias")),
        "missing: vit.layernorm.bias$",
    ),
    "no scale": ("dinov2", tensors(lambda state: state.pop(SCALE)), f"missing: {SCALE}$"),
    "no second head": ("deit-with-teacher", tensors(lambda s: s.pop(HEAD)), f"missing: {HEAD}$"),
    "surplus": (
        "deit",
        tensors(lambda state: state.update(adapter=torch.zeros(3))),
        "left over: adapter$",
    ),
    "a bias too many": ("vit", config(qkv_bias=False), "left over: .*query.bias.* and 1 more"),
    "shape": (
        "dinov2",
        tensors(lambda state: state.update({SCALE: torch.zeros(5)})),
        rf"of another shape: {SCALE} \[5\] for \[32\]",
    ),
    "positions": (
        "dinov2",
        config(image_size=64),
        r"of another shape: .*position_embeddings \[1, 82, 32\] for \[1, 65, 32\]",
    ),
    "labels": (
        "vit",
        config(id2label={**LABELS, "12": "one more"}),
        r"classifier.weight \[12, 32\] for \[13, 32\]",
    ),
    "size": (
        "vit",
        processing(size={"height": 48, "width": 48}),
        "model's image_size 32, found 48, which transformers refuses too",
    ),
    "crop": (
        "deit",
        processing(crop_size={"height": 24, "width": 24}),
        "model's image_size 32, found 24",
    ),
    "oblong size": (
        "vit",
        processing(size={"height": 32, "width": 48}),
        r"size \{'height': 32, 'width': 48\} in preproc.*not supported",
    ),
    "oblong crop": ("deit", processing(crop_size=[32, 24]), r"crop_size \{'height': 32, 'width'"),
    "two edges": (
        "dinov2",
        processing(size={"shortest_edge": 48, "longest_edge": 90}),
        r"size \{.*'longest_edge': 90.*\} in preproc.*not supported",
    ),
    "wrong size": ("vit", processing(size={"height": 32}), "size must have one of"),
    "no crop": (
        "dinov2",
        processing(do_center_crop=False),
        "shortest_edge and do_center_crop False, pictures of different sizes",
    ),
    "as it comes": (
        "dinov2",
        processing(do_center_crop=False, do_resize=False),
        "do_resize False without do_center_crop, pictures of any size",
    ),
    "padding": ("vit", processing(do_pad=True), "do_pad True in preprocessor_config.json: not"),
    "filter": ("vit", processing(resample=7), "a resample of 0 to 5, found 7"),
    "means": ("vit", processing(image_mean=[0.5]), r"an image_mean of one number or three, found"),
    "spread": ("vit", processing(image_std=[0.5, 0.0, 0.5]), "std.1[^0-9]+Input should be greater"),
    "processor": (
        "vit",
        processing(image_processor_type="ConvNextImageProcessor"),
        "ViTImageProcessor or DeiTImageProcessor or BitImageProcessor, not ConvNextImageProcessor",
    ),
    "code": (
        "vit",
        processing(auto_map={"AutoImageProcessor": "own.Own"}),
        "code of its own in auto_map, which is never run",
    ),
    "no processor": (
        "vit",
        lambda folder: (folder / PROCESSOR).unlink(),
        "expected preprocessor_config.json in",
    ),
}


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Classifier]:
    root = tmp_path_factory.mktemp("classifiers")
    return cache(lambda name: CLASSIFIERS[name](root / name))


@pytest.mark.parametrize("case", REFUSALS)
def test_a_classifier_is_refused_by_name(
    case: str, classifiers: Callable[[str], Classifier], tmp_path: Path, output: Path
) -> None:
    name, damage, message = REFUSALS[case]
    folder = copied(classifiers(name), tmp_path / "checkpoint")
    damage(folder)
    with pytest.raises(CheckpointError, match=message):
        import_checkpoint(folder, output)
    assert not output.parent.parent.exists()


def test_what_only_translation_has_is_refused(
    classifiers: Callable[[str], Classifier], output: Path
) -> None:
    options = ImportOptions(languages=Pair("en", "de"))
    with pytest.raises(CheckpointError, match="--languages: a vit checkpoint has none"):
        import_checkpoint(classifiers("vit").folder, output, options)


@pytest.mark.parametrize("content", [None, b"no picture"])
def test_a_calibration_that_is_no_picture_is_named(
    content: bytes | None, classifiers: Callable[[str], Classifier], tmp_path: Path, output: Path
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    message = "expected a folder of pictures"
    if content is not None:
        (folder / "broken.png").write_bytes(content)
        message = "broken.png: expected a JPEG"
    options = ImportOptions(calibration=folder)
    with pytest.raises(CheckpointError, match=message):
        import_checkpoint(classifiers("vit").folder, output, options)
    assert not output.exists()


def test_a_classifier_that_does_not_agree_is_not_kept(
    tmp_path: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.huggingface.vision_parity.RELATIVE_ERROR", 1e-12)
    with pytest.raises(CheckpointError, match="differ from the checkpoint's by"):
        import_checkpoint(vit(tmp_path / "checkpoint").folder, output)
    assert list(output.parent.iterdir()) == []
