"""The forms that a checkpoint comes in: files, types, older places, older names."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

from export.huggingface.checkpoint import Checkpoint
from export.huggingface.errors import CheckpointError
from export.huggingface.families import marian
from export.huggingface.generation import read_generation
from export.huggingface.importing import ImportOptions, import_checkpoint
from export.huggingface.languages import languages_of
from export.huggingface.tensors import Tensors
from export.huggingface.texts import Texts
from export.weights import read_bundle_weights
from service.bundle import Decoding, LanguagePair
from service.bundle.translation import tokenizer_files
from tests.export.huggingface.checkpoints import copied, edit_config
from tests.export.huggingface.checkpoints import marian as save_marian
from tests.export.huggingface.conftest import Checkpoints, Imports

WEIGHTS, PICKLE, GENERATION = "model.safetensors", "pytorch_model.bin", "generation_config.json"
EXACT = ImportOptions(precisions=("fp32",))


def same_weights(found: Path, expected: Path) -> None:
    ours, theirs = read_bundle_weights(found), read_bundle_weights(expected)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("form", ["shards", "bin", "old bin", "bin shards"])
def test_every_form_of_files_gives_the_same_bundle(
    form: str, checkpoints: Checkpoints, imports: Imports, tmp_path: Path, output: Path
) -> None:
    saved = checkpoints("m2m100")
    folder = copied(saved, tmp_path / "checkpoint")
    state = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    if form == "shards":
        saved.model.save_pretrained(folder, max_shard_size="40KB")
        assert len(list(folder.glob("model-*.safetensors"))) > 2
    elif form == "bin shards":
        names = sorted(state)
        parts = {"pytorch_model-1.bin": names[::2], "pytorch_model-2.bin": names[1::2]}
        for part, held in parts.items():
            torch.save({name: state[name] for name in held}, folder / part)
        edit_index = {name: part for part, held in parts.items() for name in held}
        (folder / f"{PICKLE}.index.json").write_text('{"metadata": {}}')
        edit_config(folder, f"{PICKLE}.index.json", weight_map=edit_index)
    else:
        torch.save(state, folder / PICKLE, _use_new_zipfile_serialization=form == "bin")
    report = import_checkpoint(folder, output, EXACT)
    same_weights(report.bundle.folder, imports("m2m100").bundle.folder)


def test_a_shard_that_is_missing_is_named(checkpoints: Checkpoints, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    checkpoints("marian").model.save_pretrained(folder, max_shard_size="40KB")
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"expected the shard .*{shard.name}, found no such"):
        Tensors(folder)


@pytest.mark.parametrize(("dtype", "stored"), [
    (torch.float16, onnx.TensorProto.FLOAT16),
    (torch.bfloat16, onnx.TensorProto.FLOAT),
    (torch.float32, onnx.TensorProto.FLOAT),
])  # fmt: skip
def test_weights_are_stored_without_loss(
    dtype: torch.dtype, stored: int, checkpoints: Checkpoints, tmp_path: Path, output: Path
) -> None:
    """float16 weights take half the space; bfloat16 has numbers that float16 lacks."""
    folder = copied(checkpoints("m2m100"), tmp_path / "checkpoint")
    state = {name: tensor.to(dtype) for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(state, folder / WEIGHTS)
    bundle = import_checkpoint(folder, output, EXACT).bundle
    graph = onnx.load(bundle.path("fp32", "encoder"), load_external_data=False).graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert kinds["embedding.weight"] == stored
    found = read_bundle_weights(bundle.folder)["embedding.weight"]
    assert torch.equal(found, state["model.shared.weight"].float())


def generation_of(folder: Path) -> Decoding:
    return read_generation(Checkpoint(folder), max_positions=64).decoding


def test_generation_fields_have_the_precedence_that_transformers_gives_them(
    checkpoints: Checkpoints, tmp_path: Path
) -> None:
    folder = copied(checkpoints("bart"), tmp_path / "checkpoint")
    edit_config(folder, num_beams=7, max_length=33)
    assert generation_of(folder).beam_size == 4  # generation_config.json has it
    (folder / GENERATION).unlink()
    old = generation_of(folder)  # the older place
    assert (old.beam_size, old.max_target_tokens) == (7, 32)


def test_decoding_defaults_become_the_bundles(imports: Imports) -> None:
    found = imports("bart").bundle.translation.decoding
    assert found == Decoding(
        beam_size=4, length_penalty=2.0, early_stopping="all_finished", max_target_tokens=21,
        min_target_tokens=5, no_repeat_ngram_size=3, forced_eos=2,
    )  # fmt: skip
    marian = imports("marian").bundle.translation
    assert marian.decoding.suppressed_tokens == (marian.tokens.pad,)
    assert marian.decoding.renormalize
    assert marian.decoding.forced_eos == 0


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_new_tokens": 9, "max_length": 40}, {"max_target_tokens": 9}),
        ({"max_length": None}, {"max_target_tokens": 20}),
        ({"min_new_tokens": 4, "min_length": 9}, {"min_target_tokens": 4}),
        ({"min_length": 1}, {"min_target_tokens": 0}),
        ({"early_stopping": "never"}, {"early_stopping": "never"}),
        ({"early_stopping": None}, {"early_stopping": "heuristic"}),
        ({"repetition_penalty": 1.3}, {"repetition_penalty": 1.3}),
        ({"forced_eos_token_id": [2]}, {"forced_eos": 2}),
        ({"suppress_tokens": [7, 9], "bad_words_ids": [[9], [2], [11]]},
         {"suppressed_tokens": (7, 9, 11)}),
        ({"temperature": 0.3, "top_k": 10, "do_sample": False}, {}),
    ],
)  # fmt: skip
def test_lengths_count_no_start_token_and_ends_are_never_forbidden(
    fields: dict[str, Any], expected: dict[str, Any], checkpoints: Checkpoints, tmp_path: Path
) -> None:
    folder = copied(checkpoints("bart"), tmp_path / "checkpoint")
    before = generation_of(folder)
    edit_config(folder, GENERATION, **fields)
    assert generation_of(folder) == before.model_copy(update=expected)


@pytest.mark.parametrize("name", ["bart", "m2m100", "marian-separate"])
def test_an_output_table_of_its_own_is_kept(
    name: str, checkpoints: Checkpoints, tmp_path: Path, output: Path
) -> None:
    """tie_word_embeddings false, as in some fine-tuned models; parity is held by the import."""
    folder = copied(checkpoints(name), tmp_path / "checkpoint")
    edit_config(folder, tie_word_embeddings=False)
    state = load_file(folder / WEIGHTS)
    side = "model.shared.weight" if "model.shared.weight" in state else None
    table = state[side or "model.decoder.embed_tokens.weight"]
    for copy in ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"):
        state.setdefault(copy, table.clone())
    state["lm_head.weight"] = torch.randn_like(table)
    save_file(state, folder / WEIGHTS)
    options = ImportOptions(precisions=("fp32",), languages=_languages(name))
    report = import_checkpoint(folder, output, options)
    assert not report.bundle.translation.architecture.tied_output
    assert report.parity["fp32"].greedy_alike == report.parity["fp32"].sentences


def test_sides_of_different_sizes_keep_them(tmp_path: Path, output: Path) -> None:
    saved = save_marian(
        tmp_path / "checkpoint", encoder_layers=1, decoder_layers=3, encoder_attention_heads=2,
        encoder_ffn_dim=24, activation_function="relu", scale_embedding=False,
    )  # fmt: skip
    report = import_checkpoint(saved.folder, output, EXACT)
    sizes = report.bundle.translation.architecture
    assert (sizes.encoder_heads, sizes.num_heads) == (2, 4)
    assert (sizes.encoder_ffn_size, sizes.ffn_size) == (24, 64)
    assert report.parity["fp32"].greedy_alike == report.parity["fp32"].sentences


def test_stored_sinusoids_are_no_surplus(
    checkpoints: Checkpoints, tmp_path: Path, output: Path
) -> None:
    folder = copied(checkpoints("marian"), tmp_path / "checkpoint")
    state = load_file(folder / WEIGHTS)
    table = checkpoints("marian").model.model.encoder.embed_positions.weight
    for side in ("encoder", "decoder"):
        state[f"model.{side}.embed_positions.weight"] = table.detach().clone()
    save_file(state, folder / WEIGHTS)
    assert import_checkpoint(folder, output, EXACT).parity["fp32"].greedy_alike == 4
    state["model.encoder.embed_positions.weight"] += 0.1
    save_file(state, folder / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"left over: model\.encoder\.embed_positions"):
        import_checkpoint(folder, output.with_name("2"), EXACT)


def _languages(name: str) -> Any:
    from tests.export.huggingface.conftest import languages

    return languages(name)


def test_one_pair_of_a_multilingual_model(checkpoints: Checkpoints, output: Path) -> None:
    from export.huggingface.families import Pair

    options = ImportOptions(precisions=("fp32",), languages=Pair("en", "deu_Latn"))
    card = import_checkpoint(checkpoints("nllb").folder, output, options).bundle.translation
    assert card.languages is None
    assert [(pair.source, pair.target) for pair in card.language_pairs] == [("en", "de")]
    assert isinstance(card.tokens.forced_bos, int)
    assert isinstance(card.tokens.template[0], int)
    with pytest.raises(CheckpointError, match="--languages tlh: the model has"):
        import_checkpoint(
            checkpoints("nllb").folder,
            output.with_name("2"),
            ImportOptions(languages=Pair("en", "tlh")),
        )


@pytest.mark.parametrize(("own", "code"), [("ROMANCE", "mul"), ("fi_nb_sv", "mul"), ("deu", "de")])
def test_a_marian_group_of_languages_is_bcp_47s_several(
    own: str, code: str, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    folder = copied(checkpoints("marian"), tmp_path / "checkpoint")
    edit_config(folder, "tokenizer_config.json", source_lang=own)
    found = marian_texts(folder)
    assert found.languages is not None
    assert [language.code for language in found.languages.sources] == [code]
    vocabulary = json.loads((folder / "vocab.json").read_text())
    single = {piece.replace(">>", ">"): token for piece, token in vocabulary.items()}
    (folder / "vocab.json").write_text(json.dumps(single))
    edit_config(folder, "tokenizer_config.json", target_lang="en")
    assert marian_texts(folder).language_pairs == (LanguagePair(source=code, target="en"),)


def marian_texts(folder: Path) -> Texts:
    checkpoint = Checkpoint(folder)
    return marian.texts(checkpoint, read_generation(checkpoint, max_positions=64), None)


@pytest.mark.parametrize("name", ["marian", "m2m100", "nllb"])
def test_paths_in_a_tokenizer_config_lead_nowhere(
    name: str, checkpoints: Checkpoints, imports: Imports, tmp_path: Path, output: Path
) -> None:
    """Saved on somebody's machine, they name files of it; a hostile one could name any."""
    folder = copied(checkpoints(name), tmp_path / "checkpoint")
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"</s>": 0, "<unk>": 1, "<pad>": 2}))
    kinds = ("vocab_file", "target_vocab_file", "tokenizer_file", "merges_file", "vocab",
             "spm_file", "special_tokens_map_file", "added_tokens_file")  # fmt: skip
    edit_config(folder, "tokenizer_config.json", **dict.fromkeys(kinds, str(other)))
    found = import_checkpoint(folder, output, EXACT).bundle
    expected = imports(name).bundle
    assert found.translation.tokenizer == expected.translation.tokenizer
    for file in tokenizer_files(expected.translation.tokenizer):
        assert (found.folder / file).read_bytes() == (expected.folder / file).read_bytes()


def test_codes_of_languages_become_bcp_47() -> None:
    names = ["deu_Latn", "arb_Arab", "zho_Hans", "zho_Hant", "srp_Cyrl", "kor_Hang", "lvs_Latn",
             "aka_Latn", "twi_Latn", "ace_Arab", "ace_Latn"]  # fmt: skip
    found = [language.code for language in languages_of(zip(names, range(99), strict=False))]
    assert found == ["de", "ar", "zh-Hans", "zh-Hant", "sr", "ko", "lv", "ak-Latn", "tw-Latn",
                     "ace-Arab", "ace-Latn"]  # fmt: skip
    mbart = languages_of([("en_XX", 1), ("zh_CN", 2), ("tl_XX", 3)])
    assert [language.code for language in mbart] == ["en", "zh", "tl"]
    assert [language.code for language in languages_of([("ns", 1), ("no", 2)])] == ["nso", "no"]


def test_calibration_gives_constant_scales_and_int8_caches(
    checkpoints: Checkpoints, tmp_path: Path, output: Path
) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("A dog runs.\n\nTwo children are playing in the snow.\nRain!\n")
    options = ImportOptions(precisions=("fp32", "int8"), calibration=lines)
    bundle = import_checkpoint(checkpoints("mbart50").folder, output, options).bundle
    assert bundle.translation.quantized_caches == ("int8",)
    graph = onnx.load(bundle.path("int8", "decoder"), load_external_data=False).graph
    assert "ReduceMax" not in {node.op_type for node in graph.node}  # no scale for each row


MEMORY = """
import resource, sys
from pathlib import Path
import export.huggingface.importing as importing, export.huggingface.translation
import transformers, onnxruntime
from transformers import MarianMTModel, MarianTokenizer
def reset():
    Path("/proc/self/clear_refs").write_text("5")
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
reset()
before = peak()
folder, output = Path(sys.argv[1]), Path(sys.argv[2])
importing.import_checkpoint(folder, output, importing.ImportOptions(precisions=("fp32", "int8")))
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
@pytest.mark.parametrize("form", ["safetensors", "old bin"])
def test_memory_stays_under_two_and_a_half_checkpoints(
    form: str, large: Path, tmp_path: Path, output: Path
) -> None:
    folder, size = large, (large / WEIGHTS).stat().st_size
    if form == "old bin":  # which cannot be mapped
        ignored = shutil.ignore_patterns(WEIGHTS)
        folder = shutil.copytree(large, tmp_path / "checkpoint", ignore=ignored)
        state = load_file(large / WEIGHTS)
        torch.save(state, folder / PICKLE, _use_new_zipfile_serialization=False)
    assert size > 75e6
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(folder), str(output)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    used = int(done.stdout)
    print(f"{used / size:.2f} times the checkpoint of {size / 1e6:.0f} MB")
    assert used < 2.5 * size


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """So large that what is needed whatever the size does not count."""
    sizes = {"d_model": 640, "encoder_ffn_dim": 2560, "decoder_ffn_dim": 2560}
    heads = {"encoder_attention_heads": 8, "decoder_attention_heads": 8}
    return save_marian(tmp_path_factory.mktemp("large") / "checkpoint", **sizes, **heads).folder
