"""fp16 graphs compute what the PyTorch models compute, as far as float16 can.

Here they run on the CPU provider, which casts around what it has no float16 kernel for.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from export.bundling import Storage, export_classification, export_translation
from export.verify import verify_bundle
from service.bundle import Bundle, expected_tensors
from service.runtime import check_tensors, open_session
from tests.export.models import describe, describe_pictures, random_transformer, random_vit

# float16 has 11 bits, and errors add up over layers; logits here are up to some tens.
TOLERANCE = 0.02  # of the largest logit

SOURCES = [[5, 6, 7, 2], [9, 2], [30, 31, 32, 33, 34, 35, 36, 37, 38, 2]]
TARGET = [0, 17, 31, 4]  # what the decoder is fed, step by step
ARCHITECTURES: list[dict[str, Any]] = [
    {"norm": "post", "activation": "relu"},
    {"norm": "pre", "activation": "gelu"},
    {"norm": "post", "activation": "swish", "num_heads": 3, "d_model": 24},
]


@pytest.mark.parametrize("changes", ARCHITECTURES)
def test_a_half_translation_model_computes_the_logits_of_pytorch(
    changes: dict[str, Any], tokenizer_path: Path, tmp_path: Path
) -> None:
    model = random_transformer(**changes)
    bundle = export_translation(
        model,
        tokenizer_path,
        tmp_path / "tiny" / "1",
        description=describe(),
        storage=Storage(precisions=("fp16",)),
    )
    expected = _teacher_forced(model)
    found = _step_by_step(bundle)
    possible = np.abs(expected) < 1000  # the padding token's is a large number, never chosen
    largest = np.abs(expected[possible]).max()
    assert np.abs(found - expected)[possible].max() < TOLERANCE * largest


def test_a_half_translation_model_is_verified(tokenizer_path: Path, tmp_path: Path) -> None:
    bundle = export_translation(
        random_transformer(),
        tokenizer_path,
        tmp_path / "tiny" / "1",
        description=describe(),
        storage=Storage(precisions=("fp32", "fp16")),
    )
    report = verify_bundle(bundle.folder, sentences=["Yes.", "A dog runs to the train."])
    assert report.passed, report.table()
    assert "fp16 same choice" in report.figures


@pytest.mark.parametrize(
    "changes", [{"stem": "convolution"}, {"stem": "patches", "patch_size": 8, "num_heads": 3}]
)
def test_a_half_vision_transformer_computes_the_logits_of_pytorch(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    model = random_vit(**changes)
    bundle = export_classification(
        model,
        tmp_path / "tiny-vit" / "1",
        description=describe_pictures(),
        storage=Storage(precisions=("fp16",)),
    )
    session = open_session(bundle.path("fp16", "classifier"), device="cpu", threads=1)
    tensors = expected_tensors(bundle.card, "classifier", precision="fp16")
    check_tensors(session, inputs=tensors.inputs, outputs=tensors.outputs)
    pictures = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        expected = model(pictures).numpy()
    (found,) = session.run(["logits"], {"pixel_values": pictures.numpy()})
    assert np.abs(found - expected).max() < TOLERANCE * np.abs(expected).max()


def test_half_matrices_are_stored_and_multiplied_as_float16(
    tokenizer_path: Path, tmp_path: Path
) -> None:
    bundle = export_translation(
        random_transformer(),
        tokenizer_path,
        tmp_path / "tiny" / "1",
        description=describe(),
        storage=Storage(precisions=("fp32", "fp16")),
    )
    sizes = [(bundle.folder / name / "weights.bin").stat().st_size for name in ("fp32", "fp16")]
    assert sizes[1] <= sizes[0]  # fp32's matrices are stored as float16 too, its vectors are not
    decoder = onnx.load(bundle.path("fp16", "decoder"), load_external_data=False)
    casts = [node for node in decoder.graph.node if node.op_type == "Cast"]
    assert [node.output[0] for node in casts if node.output[0] == "logits"] == ["logits"]
    weights = [one for one in decoder.graph.initializer if one.name.endswith("proj.weight")]
    assert weights
    assert {one.data_type for one in weights} == {onnx.TensorProto.FLOAT16}


def _teacher_forced(model: Any) -> NDArray[np.float32]:
    rows = []
    with torch.no_grad():
        for source in SOURCES:
            ids = torch.tensor([source])
            rows.append(model(ids, torch.ones_like(ids), torch.tensor([TARGET]))[0].numpy())
    return np.stack(rows)  # (B, T, V)


def _step_by_step(bundle: Bundle) -> NDArray[np.float32]:
    """The logits (B, T, V) of the graphs, sources padded and decoded together."""
    card = bundle.translation
    sessions = {}
    for graph in ("encoder", "decoder"):
        sessions[graph] = open_session(bundle.path("fp16", graph), device="cpu", threads=1)
        tensors = expected_tensors(card, graph, precision="fp16")
        check_tensors(sessions[graph], inputs=tensors.inputs, outputs=tensors.outputs)
    longest = max(map(len, SOURCES))
    ids = np.array([source + [0] * (longest - len(source)) for source in SOURCES])
    lengths = np.array([len(source) for source in SOURCES], np.int32)
    mask = (np.arange(longest) < lengths[:, None]).astype(np.int64)
    names = [output.name for output in sessions["encoder"].get_outputs()]
    cross = sessions["encoder"].run(names, {"input_ids": ids, "attention_mask": mask})
    feeds: dict[str, Any] = {
        name.replace("present", "past_key_values"): value
        for name, value in zip(names, cross, strict=True)
    }
    sizes = card.architecture
    capacity = (len(SOURCES), sizes.num_heads, len(TARGET), sizes.head_size)
    own = [name for name in tensors.inputs if ".decoder." in name]
    feeds |= {name: np.zeros(capacity, np.float16) for name in own}
    feeds["encoder_seqlens_k"] = lengths - 1
    feeds["total_sequence_length"] = np.array(len(TARGET), np.int32)
    feeds["encoder_total_sequence_length"] = np.array(longest, np.int32)
    steps = []
    for position, token in enumerate(TARGET):
        feeds["input_ids"] = np.full((len(SOURCES), 1), token)
        feeds["seqlens_k"] = np.full(len(SOURCES), position, np.int32)
        outputs = [name.replace("past_key_values", "present") for name in own]
        logits, *presents = sessions["decoder"].run(["logits", *outputs], feeds)
        feeds |= dict(zip(own, presents, strict=True))
        steps.append(logits)
    return np.stack(steps, axis=1)
