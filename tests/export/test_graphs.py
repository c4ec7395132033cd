"""The graphs compute what the PyTorch models compute, whoever shares the batch."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from export.bundling import Storage, export_classification, export_translation, to_numpy
from export.graphs.products import CalibratedProducts, DynamicProducts, Products, RowProducts
from export.graphs.translation import TranslationGraphs
from export.graphs.weights_file import WeightsFile
from export.quantization import (
    Range,
    calibrate_translation,
    quantize_columns,
    scale_of,
)
from export.seq2seq import Transformer
from export.verify import verify_bundle
from export.verify.report import Bounds, Report
from export.verify.stepping import Graphs
from export.verify.translation import decode_by_graphs
from service.bundle import Bundle
from service.runtime import open_session
from tests.export.models import (
    describe,
    describe_pictures,
    random_transformer,
    random_vit,
)

SOURCES = [[5, 6, 7, 2], [9, 2], [30, 31, 32, 33, 34, 35, 36, 37, 38, 2], [100, 101, 2], [8, 2]]
LIMIT = 8


def assert_verified(report: Report) -> None:
    assert report.passed, report.table()
    assert report.exit_status == 0


def test_a_trained_model_is_verified_in_both_precisions(translation_bundle: Bundle) -> None:
    report = verify_bundle(translation_bundle.folder)
    assert_verified(report)
    assert len(report.checks) == 11
    assert "int8 same choice" in report.figures


@pytest.mark.parametrize(
    "changes",
    [
        {"norm": "post", "activation": "relu"},
        {"norm": "pre", "activation": "gelu"},
        {"norm": "post", "activation": "swish", "num_heads": 3, "d_model": 24},
        {"norm": "pre", "activation": "relu", "encoder_layers": 1, "decoder_layers": 1},
    ],
)
@pytest.mark.parametrize("calibrated", [True, False])
def test_every_architecture_is_verified(
    changes: dict[str, Any],
    calibrated: bool,
    tokenizer_path: Path,
    calibration_pairs: list[tuple[str, str]],
    tmp_path: Path,
) -> None:
    bundle = export_translation(
        random_transformer(**changes),
        tokenizer_path,
        tmp_path / "tiny" / "1",
        description=describe(),
        calibration_pairs=calibration_pairs if calibrated else (),
    )
    assert_verified(verify_bundle(bundle.folder, sentences=["Yes.", "A dog runs to the train."]))


@pytest.mark.parametrize(
    "changes",
    [
        {"stem": "convolution", "layers": 3},
        {"stem": "patches", "patch_size": 8, "num_heads": 3},
        {"stem": "patches", "patch_size": 16, "image_size": 48, "layers": 1},
        {"stem": "patches", "distillation_token": True, "norm_epsilon": 0.1, "activation": "relu"},
        {"distillation_token": True, "head": "class_and_distillation_tokens", "layers": 1},
        {"stem": "patches", "patch_size": 8, "head": "class_token_and_patch_mean"},
        {"distillation_token": True, "head": "class_token_and_patch_mean", "norm_epsilon": 1e-12},
    ],
)
def test_every_vision_transformer_is_verified(changes: dict[str, Any], tmp_path: Path) -> None:
    size = changes.get("image_size", 32)
    bundle = export_classification(
        random_vit(**changes),
        tmp_path / "tiny-vit" / "1",
        description=describe_pictures(size),
        calibration_pictures=torch.randn(16, 3, size, size),
    )
    assert_verified(verify_bundle(bundle.folder))


def test_a_vision_transformer_without_calibration_is_verified(tmp_path: Path) -> None:
    bundle = export_classification(
        random_vit(), tmp_path / "tiny-vit" / "1", description=describe_pictures()
    )
    # Noise looks alike to random weights: two labels are often within a rounding of each other.
    bounds = Bounds(int8_agreement=0.7)
    assert_verified(verify_bundle(bundle.folder, pictures=torch.randn(9, 3, 32, 32), bounds=bounds))


def test_float32_weights_stay_float32_when_asked(tokenizer_path: Path, tmp_path: Path) -> None:
    model = random_transformer()
    bundle = export_translation(
        model,
        tokenizer_path,
        tmp_path / "tiny" / "1",
        description=describe(),
        storage=Storage(precisions=("fp32",), half_weights=False),
    )
    graphs = Graphs.open(bundle, "fp32")
    source = torch.tensor([SOURCES[2]])
    with torch.no_grad():
        memory = model.encode(source, torch.ones_like(source))
        expected = model.decoder_layers[0].cross_attn.k_proj(memory)[0].numpy()
    found = graphs.encode([SOURCES[2]])[0][0]  # (H, S, D)
    np.testing.assert_allclose(found.swapaxes(0, 1).reshape(expected.shape), expected, atol=1e-5)


def test_graphs_of_one_precision_share_one_file_and_the_embedding(
    translation_bundle: Bundle,
) -> None:
    stored = {}
    for name in ("encoder", "decoder"):
        model = onnx.load(translation_bundle.path("int8", name), load_external_data=False)
        for tensor in model.graph.initializer:
            if tensor.name == "embedding.weight":
                stored[name] = {entry.key: entry.value for entry in tensor.external_data}
                assert tensor.data_type == onnx.TensorProto.INT8
    assert stored["encoder"] == stored["decoder"]
    assert stored["encoder"]["location"] == "weights.bin"
    assert not list((translation_bundle.folder / "int8").glob("*.data"))


def open_graphs(model: Transformer, products: Products, folder: Path, bundle: Bundle) -> Graphs:
    folder.mkdir()
    weights = WeightsFile(folder)
    bias = model.final_logits_bias.detach().numpy()
    graphs = TranslationGraphs(model.config, to_numpy(model), bias, products, weights)
    graphs.encoder().save(folder / "encoder.onnx")
    graphs.decoder().save(folder / "decoder.onnx")
    weights.close()
    encoder, decoder = (
        open_session(folder / f"{name}.onnx", device="cpu", threads=1)
        for name in ("encoder", "decoder")
    )
    caches = "int8" if products.cache_scales else "float32"
    return Graphs(bundle.translation, encoder, decoder, caches)


@pytest.mark.parametrize("form", ["calibrated", "row", "dynamic"])
def test_only_a_dynamic_scale_lets_a_neighbour_disturb_a_row(
    form: str, copying_transformer: Transformer, translation_bundle: Bundle, tmp_path: Path
) -> None:
    """One activation scale for a whole tensor is the fault that int8 serving is prone to: an
    outlier in one sentence changes the rounding of all others. The check must see it."""
    model = copying_transformer
    calibration = calibrate_translation(model, [(source, source) for source in SOURCES])
    products = {
        "calibrated": CalibratedProducts(calibration),
        "row": RowProducts(),
        "dynamic": DynamicProducts(),
    }[form]
    graphs = open_graphs(model, products, tmp_path / form, translation_bundle)
    together = decode_by_graphs(graphs, SOURCES, LIMIT)
    alone = [decode_by_graphs(graphs, [source], LIMIT)[0] for source in SOURCES]
    same = [np.array_equal(a.logits, b.logits) for a, b in zip(alone, together, strict=True)]
    assert all(same) == (form != "dynamic")


def test_what_several_products_read_is_quantised_once(translation_bundle: Bundle) -> None:
    model = onnx.load(translation_bundle.path("int8", "decoder"), load_external_data=False)
    quantised = [node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantised) == len(set(quantised))
    operators = {node.op_type for node in model.graph.node}
    assert not operators & {"MatMul", "Gemm", "DynamicQuantizeLinear", "SkipLayerNormalization"}


def test_columns_are_quantised_to_within_half_a_step() -> None:
    weight = np.random.default_rng(0).standard_normal((30, 7)).astype(np.float32)
    weight[:, 3] = 0.0
    values, scale = quantize_columns(weight)
    assert values.dtype == np.int8
    assert np.abs(values).max() == 127
    assert (np.abs(values * scale - weight) <= scale / 2 + 1e-7).all()


@pytest.mark.parametrize(
    ("activation", "scale", "zero"),
    [(Range(0.0, 5.1), 0.02, 0), (Range(-2.54, 1.0), 0.02, 128), (Range(-1.0, 2.54), 0.02, 128)],
)
def test_a_range_uses_both_signs_only_when_it_has_them(
    activation: Range, scale: float, zero: int
) -> None:
    found_scale, found_zero = scale_of(activation)
    assert found_scale == pytest.approx(scale)
    assert found_zero == zero


def test_calibration_leaves_the_model_as_it_was(copying_transformer: Transformer) -> None:
    before = len(copying_transformer.decoder_norm._forward_hooks)
    calibration = calibrate_translation(copying_transformer, [([5, 2], [6, 2])])
    assert len(copying_transformer.decoder_norm._forward_hooks) == before
    assert calibration.activations["encoder_layers.0.feed_forward.fc2"].low == 0.0  # behind a ReLU
    assert "decoder_norm" in calibration.activations
    with pytest.raises(ValueError, match="at least one sample"):
        calibrate_translation(copying_transformer, [])
