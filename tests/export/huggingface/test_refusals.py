"""What cannot be served exactly is refused by name, before anything is written."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from export.commands import main
from export.huggingface.errors import CheckpointError
from export.huggingface.families import Pair
from export.huggingface.importing import ImportOptions, import_checkpoint
from tests.export.huggingface.checkpoints import copied, edit_config
from tests.export.huggingface.conftest import Checkpoints, languages

WEIGHTS, GENERATION = "model.safetensors", "generation_config.json"
Damage = Callable[[Path], None]


def config(**fields: Any) -> Damage:
    return lambda folder: edit_config(folder, **fields)


def generation(**fields: Any) -> Damage:
    return lambda folder: edit_config(folder, GENERATION, **fields)


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    def damage(folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        change(state)
        save_file(state, folder / WEIGHTS)

    return damage


FC1 = "model.encoder.layers.0.fc1.weight"

REFUSALS: dict[str, tuple[str, Damage, str]] = {
    "t5": ("bart", config(model_type="t5"), "found t5, which would need relative position biases"),
    "unknown": (
        "bart",
        config(model_type="llama"),
        r"of marian, m2m_100, bart, mbart, vit, deit, dinov2, found llama",
    ),
    "no type": ("bart", config(model_type=None), "expected a model_type, found None"),
    "head": (
        "bart",
        config(architectures=["BartForSequenceClassification"]),
        "BartForConditionalGeneration or BartModel, found BartForSequenceClassification",
    ),
    "code": (
        "bart",
        config(auto_map={"AutoModel": "modeling.Own"}),
        r"auto_map \(AutoModel\), which is never run",
    ),
    "quantised": (
        "marian",
        config(quantization_config={"quant_method": "bitsandbytes"}),
        r"plain weights, found quantization_config \(bitsandbytes\)",
    ),
    "activation": (
        "mbart",
        config(activation_function="gelu_new"),
        "activation_function relu, gelu, swish, silu, found gelu_new",
    ),
    "missing": ("marian", tensors(lambda state: state.pop(FC1)), f"missing: {FC1}"),
    "surplus": (
        "m2m100",
        tensors(lambda state: state.update(adapter=torch.zeros(3))),
        "left over: model.adapter|left over: adapter",
    ),
    "shape": (
        "bart",
        tensors(lambda state: state.update({FC1: torch.zeros(5, 7)})),
        rf"of another shape: {FC1} \[5, 7\] for \[48, 32\]",
    ),
    "sampling": ("nllb", generation(do_sample=True), "do_sample True: not supported"),
    "groups": (
        "bart",
        generation(num_beam_groups=2, diversity_penalty=0.5),
        "num_beam_groups 2, diversity_penalty 0.5: not supported",
    ),
    "encoder n-grams": (
        "bart",
        generation(encoder_no_repeat_ngram_size=3),
        "encoder_no_repeat_ngram_size 3: not supported",
    ),
    "words": (
        "marian",
        generation(bad_words_ids=[[5, 6]]),
        r"bad_words_ids with \[5, 6\]: words of several tokens",
    ),
    "begin": ("bart", generation(begin_suppress_tokens=[7]), r"begin_suppress_tokens \[7\]: not"),
    "two ends": ("bart", generation(eos_token_id=[2, 5]), r"eos_token_id \[2, 5\]: expected one"),
    "length": ("bart", generation(max_length=700), "max_length of 2 to 65, .* found 700"),
    "no start": (
        "bart",
        generation(decoder_start_token_id=None),
        "expected a decoder_start_token_id, found none",
    ),
    "no config": (
        "bart",
        lambda folder: (folder / "config.json").unlink(),
        "expected .*config.json, found no such file",
    ),
    "no weights": (
        "bart",
        lambda folder: (folder / WEIGHTS).unlink(),
        "expected weights in .*: model.safetensors or .*pytorch_model.bin.*; found none",
    ),
    "another tokenizer": (
        "m2m100",
        lambda folder: edit_config(
            folder, "tokenizer_config.json", tokenizer_class="SMALL100Tokenizer"
        ),
        "expected a tokenizer_class of M2M100Tokenizer, found SMALL100Tokenizer",
    ),
    "no language": (
        "marian",
        lambda folder: edit_config(folder, "tokenizer_config.json", source_lang=None),
        "expected a source_lang in tokenizer_config.json, or --languages SRC TGT",
    ),
    "no tokenizer": (
        "marian",
        lambda folder: (folder / "source.spm").unlink(),
        "no MarianTokenizer can be read|expected source.spm",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_checkpoint_is_refused_by_name(
    case: str, checkpoints: Checkpoints, tmp_path: Path, output: Path
) -> None:
    name, damage, message = REFUSALS[case]
    folder = copied(checkpoints(name), tmp_path / "checkpoint")
    damage(folder)
    with pytest.raises(CheckpointError, match=message):
        import_checkpoint(folder, output, ImportOptions(languages=languages(name)))
    assert not output.parent.parent.exists()


def test_bart_has_to_be_told_its_languages(checkpoints: Checkpoints, output: Path) -> None:
    with pytest.raises(CheckpointError, match="expected --languages SRC TGT: a BART checkpoint"):
        import_checkpoint(checkpoints("bart").folder, output)


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("ROMANCE", "fr", "--languages ROMANCE: Expected a language code"),
        ("en", "tlh", "--languages tlh: the model has"),
    ],
)
def test_languages_that_are_none_are_refused(
    source: str, target: str, message: str, checkpoints: Checkpoints, output: Path
) -> None:
    options = ImportOptions(languages=Pair(source, target))
    with pytest.raises(CheckpointError, match=message):
        import_checkpoint(checkpoints("marian").folder, output, options)
    assert not output.parent.parent.exists()


@pytest.mark.parametrize("content", [b"\xff\xfe", b" \n", None], ids=["bytes", "empty", "none"])
def test_calibration_that_is_no_text_is_refused(
    content: bytes | None, checkpoints: Checkpoints, tmp_path: Path, output: Path
) -> None:
    lines = tmp_path / "lines.txt"
    if content is not None:
        lines.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"expected lines of text in .*lines\.txt, found"):
        import_checkpoint(checkpoints("marian").folder, output, ImportOptions(calibration=lines))
    assert not output.parent.parent.exists()


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", "a/b.safetensors", 7])
def test_an_index_leads_nowhere_outside_the_folder(
    shard: Any, checkpoints: Checkpoints, tmp_path: Path, output: Path
) -> None:
    folder = copied(checkpoints("marian"), tmp_path / "inside" / "checkpoint")
    (folder / WEIGHTS).rename(folder.parent / WEIGHTS)
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(CheckpointError, match="expected a in a file of this folder, found"):
        import_checkpoint(folder, output)


class Payload:
    """Pickled, it runs code when it is loaded."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_runs_no_code(
    zipped: bool, checkpoints: Checkpoints, tmp_path: Path, output: Path
) -> None:
    folder = copied(checkpoints("marian"), tmp_path / "checkpoint")
    (folder / WEIGHTS).unlink()
    trace = tmp_path / "trace"
    if zipped:
        torch.save({"a": Payload(trace)}, folder / "pytorch_model.bin")
    else:
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Payload(trace)}))
    with pytest.raises(CheckpointError, match="expected tensors alone in"):
        import_checkpoint(folder, output)
    assert not trace.exists()


def test_a_truncated_file_is_refused(
    checkpoints: Checkpoints, tmp_path: Path, output: Path
) -> None:
    folder = copied(checkpoints("marian"), tmp_path / "checkpoint")
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="expected safetensors in"):
        import_checkpoint(folder, output)


def test_the_command_says_why_and_fails(
    checkpoints: Checkpoints, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["huggingface", str(checkpoints("bart").folder), "--output", str(output)]
    assert main(arguments) == 1
    assert "attendant-export: expected --languages" in capsys.readouterr().err
    assert main([*arguments, "--languages", "en", "en", "--precision", "fp32"]) == 0
    printed = capsys.readouterr()
    assert "largest logit difference" in printed.out
    assert "100.0" not in printed.err
    assert main([*arguments, "--languages", "en", "en"]) == 1  # a version never changes


def test_a_failure_on_the_way_leaves_nothing(
    checkpoints: Checkpoints, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle that does not agree with its checkpoint is not kept."""
    monkeypatch.setattr("export.huggingface.parity.RELATIVE_ERROR", 1e-12)
    with pytest.raises(CheckpointError, match="differ from the checkpoint's by"):
        import_checkpoint(checkpoints("nllb").folder, output)
    assert list(output.parent.iterdir()) == []
