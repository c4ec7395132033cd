"""A bundle gives back the model it was made from, and that model as Marian."""

from pathlib import Path
from typing import Any

import pytest
import torch

from export.bundling import Storage, export_classification, export_translation
from export.marian import to_marian
from export.seq2seq import Transformer
from export.verify.translation import decode_by_pytorch
from export.vit import VisionTransformer
from export.weights import load_bundle_model, read_bundle_weights
from service.bundle import Bundle
from service.errors import BundleError
from tests.export.models import describe, describe_pictures, random_transformer, random_vit

EXACT = Storage(precisions=("fp32",), half_weights=False)


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_a_transformer_comes_back_bit_for_bit(
    norm: str, tokenizer_path: Path, tmp_path: Path
) -> None:
    model = random_transformer(norm=norm)
    with torch.no_grad():
        model.final_logits_bias[9] = -3.0
    bundle = export_translation(
        model, tokenizer_path, tmp_path / "tiny" / "1", description=describe(), storage=EXACT
    )
    assert_same_weights(read_bundle_weights(bundle.folder), model.state_dict())
    again = load_bundle_model(bundle.folder, Transformer)
    assert torch.equal(again.final_logits_bias, model.final_logits_bias)


@pytest.mark.parametrize(
    "changes",
    [
        {"stem": "convolution"},
        {"stem": "patches"},
        {"distillation_token": True, "head": "class_and_distillation_tokens"},
        {"head": "class_token_and_patch_mean", "norm_epsilon": 0.3, "activation": "swish"},
    ],
)
def test_a_vision_transformer_comes_back_bit_for_bit(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    model = random_vit(**changes)
    bundle = export_classification(
        model, tmp_path / "tiny-vit" / "1", description=describe_pictures(), storage=EXACT
    )
    weights = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not name.endswith("num_batches_tracked")  # counts training steps; nothing reads it
    }
    assert_same_weights(read_bundle_weights(bundle.folder), weights)
    pictures = torch.randn(2, 3, 32, 32)
    again = load_bundle_model(bundle.folder, VisionTransformer)
    assert torch.equal(again(pictures), model(pictures))


def test_matrices_stored_as_float16_come_back_rounded(
    translation_bundle: Bundle, copying_transformer: Transformer
) -> None:
    weights = read_bundle_weights(translation_bundle.folder)
    rounded = {
        name: tensor.half().float() if tensor.ndim > 1 else tensor
        for name, tensor in copying_transformer.state_dict().items()
    }
    assert_same_weights(weights, rounded)


def assert_same_weights(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_a_bundle_of_another_task_is_refused(translation_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="bundle of a VisionTransformer, found one for transl"):
        load_bundle_model(translation_bundle.folder, VisionTransformer)


def test_a_bundle_without_fp32_graphs_is_refused(tokenizer_path: Path, tmp_path: Path) -> None:
    bundle = export_translation(
        random_transformer(),
        tokenizer_path,
        tmp_path / "tiny" / "1",
        description=describe(),
        storage=Storage(precisions=("int8",)),
    )
    with pytest.raises(BundleError, match=r"expected fp32 graphs in .*, found only int8"):
        read_bundle_weights(bundle.folder)


def test_marian_generates_the_same_ids(copying_transformer: Transformer) -> None:
    model = copying_transformer
    marian = to_marian(model.state_dict(), model.config)
    sources = [[40, 41, 42, 2], [7, 300, 2], [9, 10, 11, 12, 13, 14, 15, 2]]
    for source in sources:
        ids = torch.tensor([source])
        generated = marian.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_length=13, num_beams=1
        )
        expected = decode_by_pytorch(model, source, 12).ids
        assert generated[0, 1:].tolist() == expected
        assert expected[-1] == model.config.eos_token_id


def test_marian_computes_the_same_logits() -> None:
    model = random_transformer(activation="swish")
    marian = to_marian(model.state_dict(), model.config)
    ids = torch.randint(3, 400, (3, 9))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    targets = torch.randint(3, 400, (3, 6))
    with torch.no_grad():
        expected = model(ids, mask, targets)
        found = marian(input_ids=ids, attention_mask=mask, decoder_input_ids=targets).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_pre_norm_model_is_no_marian() -> None:
    model = random_transformer(norm="pre")
    with pytest.raises(ValueError, match="a Marian model is post-norm, not pre-norm"):
        to_marian(model.state_dict(), model.config)
