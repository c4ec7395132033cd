"""A classifier's bundle answers what transformers answers, from the picture's file on."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from export.commands import main
from export.huggingface.importing import ImportOptions, import_checkpoint
from export.huggingface.report import Report
from export.verify import verify_bundle
from export.verify.report import Bounds
from service.bundle import Bundle, ClassificationCard, ImagePreprocessing, VisionArchitecture
from service.classification.engine import ClassificationEngine, LabelScore
from service.classification.image import Preprocessor
from service.metrics import Metrics
from service.runtime import open_session
from service.settings import Settings
from tests.export.huggingface.checkpoints import edit_config
from tests.export.huggingface.classifiers import (
    CLASSIFIERS,
    Classifier,
    deit,
    dinov2,
    pictures,
    vit,
)

EXACT = ImportOptions(precisions=("fp32",))
WEIGHTS, PROCESSOR = "model.safetensors", "preprocessor_config.json"


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Classifier]:
    root = tmp_path_factory.mktemp("classifiers")
    return cache(lambda name: CLASSIFIERS[name](root / name))


@pytest.fixture(scope="module")
def reports(
    tmp_path_factory: pytest.TempPathFactory, classifiers: Callable[[str], Classifier]
) -> Callable[[str], Report]:
    root = tmp_path_factory.mktemp("models")
    options = ImportOptions(precisions=("fp32", "int8", "fp16"))
    return cache(
        lambda name: import_checkpoint(classifiers(name).folder, root / name / "1", options)
    )


def graph_logits(bundle: Bundle, files: list[bytes], precision: str = "fp32") -> np.ndarray:
    preprocess = Preprocessor(bundle.classification.image, max_pixels=10**6)
    session = open_session(bundle.path(precision, "classifier"), device="cpu", threads=1)
    pixels = np.stack([preprocess(file) for file in files])
    found: np.ndarray = session.run(["logits"], {"pixel_values": pixels})[0]
    return found


async def served(bundle: Bundle, files: list[bytes], top_k: int) -> list[tuple[LabelScore, ...]]:
    settings = Settings.model_validate({"device": "cpu", "precision": "fp32", "image_threads": 1})
    engine = ClassificationEngine(bundle, settings=settings, metrics=Metrics.create())
    engine.start()
    try:
        answer = await engine.classify(files, top_k)
    finally:
        await engine.stop()
    assert [result.error for result in answer.results] == [None] * len(files)
    return [result.labels for result in answer.results]


def assert_same_logits(bundle: Bundle, theirs: Classifier, files: list[bytes]) -> None:
    expected = theirs.logits(files)
    assert np.ptp(expected, axis=0).max() > 0.5  # pictures do not look alike
    np.testing.assert_allclose(graph_logits(bundle, files), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", CLASSIFIERS)
async def test_a_served_classifier_answers_as_transformers(
    name: str,
    classifiers: Callable[[str], Classifier],
    reports: Callable[[str], Report],
) -> None:
    theirs, bundle, files = classifiers(name), reports(name).bundle, pictures()
    assert_same_logits(bundle, theirs, files)
    logits = torch.from_numpy(theirs.logits(files))
    best = logits.softmax(-1).topk(5)
    for labels, indices, chances in zip(
        await served(bundle, files, 5), best.indices, best.values, strict=True
    ):
        assert [one.index for one in labels] == indices.tolist()
        assert [one.label for one in labels] == [f"label {index}" for index in indices.tolist()]
        assert [one.probability for one in labels] == pytest.approx(chances.tolist(), abs=1e-5)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_report_and_the_verifier_find_every_precision_close(
    name: str, reports: Callable[[str], Report]
) -> None:
    report = reports(name)
    assert report.parity["fp32"].logits_error < 1e-4
    assert report.parity["fp32"].alike == (8, 8)
    assert report.parity["fp16"].logits_error < 0.05
    assert report.parity["int8"].logits_error < 0.15 * report.parity["int8"].largest_logit
    title, *rows = report.table().splitlines()
    assert title.endswith("top 5 alike")
    assert [row.split()[0] for row in rows[1:4]] == ["fp32", "int8", "fp16"]
    verified = verify_bundle(report.bundle.folder, bounds=Bounds(int8_agreement=0.5))
    assert verified.passed, verified.table()


async def test_probabilities_of_several_labels_are_those_of_a_sigmoid(
    tmp_path: Path, output: Path
) -> None:
    theirs = deit(tmp_path / "checkpoint", problem_type="multi_label_classification")
    bundle = import_checkpoint(theirs.folder, output, EXACT).bundle
    assert bundle.classification.multi_label
    files = pictures(3)
    expected = torch.from_numpy(theirs.logits(files)).sigmoid()
    for labels, chances in zip(await served(bundle, files, 12), expected, strict=True):
        found = {one.index: one.probability for one in labels}
        assert [found[index] for index in range(12)] == pytest.approx(chances.tolist(), abs=1e-5)


@pytest.mark.parametrize(
    ("crop", "patches"), [(72, 9), (32, 4), (45, 5), (96, 12)], ids=["as is", "4", "45", "12"]
)
def test_positions_are_interpolated_for_the_size_that_preprocessing_yields(
    crop: int, patches: int, tmp_path: Path, output: Path
) -> None:
    theirs = dinov2(tmp_path / "checkpoint", {"crop_size": {"height": crop, "width": crop}})
    bundle = import_checkpoint(theirs.folder, output, EXACT).bundle
    assert bundle.classification.architecture.image_size == crop
    assert crop // 8 == patches
    assert_same_logits(bundle, theirs, pictures(6))


@pytest.mark.parametrize(
    "changes",
    [
        {"qkv_bias": False},
        {"hidden_act": "relu"},
        {"hidden_act": "silu"},
        {"layer_norm_eps": 0.01},
        {"num_hidden_layers": 1},
        {"patch_size": [16, 16], "image_size": [32, 32]},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["vit", "deit-with-teacher", "dinov2"])
def test_every_switch_is_honoured(
    name: str, changes: dict[str, Any], tmp_path: Path, output: Path
) -> None:
    if name == "dinov2" and "image_size" in changes:
        changes = {"patch_size": [8, 8]}
    theirs = CLASSIFIERS[name](tmp_path / "checkpoint", **changes)
    bundle = import_checkpoint(theirs.folder, output, EXACT).bundle
    assert_same_logits(bundle, theirs, pictures(4))


def test_an_epsilon_is_that_of_every_norm(tmp_path: Path, output: Path) -> None:
    theirs = vit(tmp_path / "checkpoint", layer_norm_eps=0.25)
    bundle = import_checkpoint(theirs.folder, output, EXACT).bundle
    graph = onnx.load(bundle.path("fp32", "classifier"), load_external_data=False).graph
    norms = [node for node in graph.node if node.op_type == "LayerNormalization"]
    epsilons = [
        attribute.f for node in norms for attribute in node.attribute if attribute.name == "epsilon"
    ]
    assert epsilons == [0.25] * 7


@pytest.mark.parametrize(("name", "tokens"), [("vit", 1), ("deit", 1), ("deit-with-teacher", 2)])
def test_the_last_layer_computes_what_the_head_reads(
    name: str, tokens: int, reports: Callable[[str], Report], tmp_path: Path
) -> None:
    """Its feed-forward network, half of the layer, is asked for these tokens alone."""
    bundle = reports(name).bundle
    model = onnx.load(bundle.path("fp32", "classifier"))
    hidden = [node.output[0] for node in model.graph.node if node.op_type == "Gelu"]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(one, 1, None) for one in hidden)
    onnx.save(model, tmp_path / "open.onnx")
    session = open_session(tmp_path / "open.onnx", device="cpu", threads=1)
    found = session.run(hidden, {"pixel_values": np.zeros((2, 3, 32, 32), np.float32)})
    all_tokens = 17 + bundle.classification.architecture.distillation_token
    assert [states.shape[1] for states in found] == [all_tokens, all_tokens, tokens]


PROCESSORS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "an older class": (
        "vit",
        {"image_processor_type": None, "feature_extractor_type": "ViTFeatureExtractor"},
        {},
    ),
    "a fast class": ("vit", {"image_processor_type": "ViTImageProcessorFast"}, {}),
    "no class": ("dinov2", {"image_processor_type": None}, {}),
    "an older size": ("vit", {"size": 32}, {"size": 32, "shortest_edge": False}),
    "an older edge": ("dinov2", {"size": 50, "crop_size": 40}, {"size": 50, "shortest_edge": True}),
    "another family's": (
        "vit",
        {
            "image_processor_type": "DeiTImageProcessor",
            "size": 40,
            "crop_size": 32,
            "do_center_crop": True,
            "resample": 3,
        },
        {"center_crop": 32, "resample": "bicubic"},
    ),
    "no resize": ("vit", {"do_resize": False}, {"resize": False, "size": 32}),
    "a crop alone": ("deit", {"do_resize": False}, {"resize": False, "center_crop": 32}),
    "no rescaling": (
        "vit",
        {"do_rescale": False, "image_mean": 100.0, "image_std": [50.0, 60.0, 70.0]},
        {"rescale_factor": 1.0, "mean": (100.0, 100.0, 100.0)},
    ),
    "no normalising": ("deit", {"do_normalize": False}, {"mean": (0.0,) * 3, "std": (1.0,) * 3}),
    "neither": (
        "vit",
        {"do_normalize": False, "do_rescale": False, "image_mean": None},
        {"mean": (0.0,) * 3, "rescale_factor": 1.0},
    ),
    "a factor": ("vit", {"rescale_factor": 1 / 127.5}, {"rescale_factor": 1 / 127.5}),
    "a filter": ("vit", {"resample": 1}, {"resample": "lanczos"}),
    "RGB": ("vit", {"do_convert_rgb": True}, {"transparency": "white"}),
}


@pytest.mark.parametrize("case", PROCESSORS)
def test_a_preprocessor_config_is_honoured_in_every_form(
    case: str, tmp_path: Path, output: Path
) -> None:
    name, fields, expected = PROCESSORS[case]
    theirs = CLASSIFIERS[name](tmp_path / "checkpoint")
    edit_config(theirs.folder, PROCESSOR, **fields)
    stored = json.loads((theirs.folder / PROCESSOR).read_text())
    kind = {"vit": "ViT", "deit": "DeiT", "dinov2": "Bit"}[name]
    if "DeiT" in stored.get("image_processor_type", ""):
        kind = "DeiT"
    reread = getattr(transformers, f"{kind}ImageProcessorPil").from_dict(stored)
    bundle = import_checkpoint(theirs.folder, output, EXACT).bundle
    image: ImagePreprocessing = bundle.classification.image
    assert {field: getattr(image, field) for field in expected} == expected
    files = pictures(6, size=None if image.resize or image.center_crop else (32, 32))
    assert_same_logits(bundle, Classifier(theirs.folder, theirs.model, reread), files)


def test_names_of_modules_and_what_no_classifier_reads_are_understood(
    tmp_path: Path, output: Path
) -> None:
    """transformers 5 stores other names than its modules have; it reads both, and so do we."""
    for name in ("vit", "dinov2"):
        theirs = CLASSIFIERS[name](tmp_path / name)
        state = {key: tensor.contiguous() for key, tensor in theirs.model.state_dict().items()}
        assert f"{name}.embeddings.cls_token" in state
        stored = load_file(theirs.folder / WEIGHTS)
        assert state.keys() != stored.keys()
        if name == "vit":
            state["vit.pooler.dense.weight"] = torch.zeros(32, 32)
            state["vit.embeddings.mask_token"] = torch.zeros(1, 1, 32)
        save_file(state, theirs.folder / WEIGHTS)
        bundle = import_checkpoint(theirs.folder, output.parent.with_name(name) / "1", EXACT).bundle
        assert_same_logits(bundle, theirs, pictures(3))


@pytest.mark.parametrize(
    ("name", "stored"),
    [("vit", onnx.TensorProto.FLOAT16), ("dinov2", onnx.TensorProto.FLOAT)],
)
def test_float16_weights_are_stored_without_loss(
    name: str, stored: int, tmp_path: Path, output: Path
) -> None:
    """Half the space where nothing is computed; a product of two float16 numbers is none."""
    theirs = CLASSIFIERS[name](tmp_path / "checkpoint")
    theirs.model.half().save_pretrained(theirs.folder)
    theirs.model.float()
    bundle = import_checkpoint(theirs.folder, output, EXACT).bundle
    graph = onnx.load(bundle.path("fp32", "classifier"), load_external_data=False).graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert kinds["layers.0.feed_forward.fc2.weight"] == stored
    assert_same_logits(bundle, theirs, pictures(4))


def test_calibration_with_pictures_gives_constant_scales(tmp_path: Path, output: Path) -> None:
    theirs, folder = dinov2(tmp_path / "checkpoint"), tmp_path / "pictures" / "some"
    folder.mkdir(parents=True)
    for index, file in enumerate(pictures(6)):
        (folder / f"{index}.png").write_bytes(file)
    options = ImportOptions(precisions=("fp32", "int8"), calibration=folder.parent)
    report = import_checkpoint(theirs.folder, output, options)
    graph = onnx.load(report.bundle.path("int8", "classifier"), load_external_data=False).graph
    assert "ReduceMax" not in {node.op_type for node in graph.node}  # no scale for each row
    error, largest = report.parity["int8"].logits_error, report.parity["int8"].largest_logit
    assert error < 0.3 * largest


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("image", {"size": 40}, "expected pictures of image_size 32, found 40"),
        ("architecture", {"image_size": 64}, "expected pictures of image_size 64, found 32"),
        (
            "architecture",
            {"head": "class_and_distillation_tokens"},
            "expected a distillation_token",
        ),
        ("architecture", {"head": "patch_mean"}, "Input should be 'class_token'"),
    ],
)
def test_a_card_whose_parts_disagree_is_refused(
    part: str, changes: dict[str, Any], message: str, reports: Callable[[str], Report]
) -> None:
    card = json.loads((reports("vit").bundle.folder / "bundle.json").read_text())
    card[part].update(changes)
    with pytest.raises(ValueError, match=message):
        ClassificationCard.model_validate_json(json.dumps(card))


def test_a_card_from_before_there_were_families_means_what_it_meant() -> None:
    old = {"layers": 1, "d_model": 8, "num_heads": 2, "ffn_size": 8, "image_size": 8}
    sizes = VisionArchitecture(**old, patch_size=4, stem="patches")
    assert (sizes.activation, sizes.norm_epsilon, sizes.head) == ("gelu", 1e-5, "class_token")
    assert not sizes.distillation_token


def test_the_command_makes_a_bundle_of_a_classifier(
    classifiers: Callable[[str], Classifier], output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["huggingface", str(classifiers("vit").folder), "--output", str(output)]
    assert main([*command, "--precision", "fp32,int8"]) == 0
    assert "top 5 alike" in capsys.readouterr().out
    assert Bundle.open(output).classification.labels[:2] == ("label 0", "label 1")
