"""`attendant-server --self-test`: a sound bundle passes, and what is wrong with one is found."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from export.bundling import Storage, export_classification, export_translation, to_numpy
from export.golden import read_small
from export.graphs.products import DynamicProducts, FloatProducts, Products
from export.graphs.translation import TranslationGraphs
from export.graphs.weights_file import WeightsFile
from export.seq2seq import Transformer
from export.verify.translation import SENTENCES
from service.bundle import Bundle
from service.classification.runner import ClassifierRunner
from service.devices import DEVICES
from service.errors import BundleError
from service.golden import read_golden
from service.selftest import self_test
from service.selftest.checks import compare_speeds
from service.selftest.samples import make_images
from service.settings import Settings
from tests.export.models import describe, describe_pictures, random_transformer, random_vit
from tests.service.conftest import write_card, write_classifier

ROOT = Path(__file__).resolve().parents[2]
NUM_TEXTS, NUM_IMAGES = 6, 4

Json = dict[str, Any]


@pytest.fixture(scope="module")
def sound(
    tmp_path_factory: pytest.TempPathFactory,
    tokenizer_path: Path,
    copying_transformer: Transformer,
    calibration_pairs: list[tuple[str, str]],
) -> Path:
    """A models folder with golden answers."""
    models = tmp_path_factory.mktemp("golden")
    export_translation(
        copying_transformer,
        tokenizer_path,
        models / "copy" / "1",
        description=describe("copy"),
        calibration_pairs=calibration_pairs,
        golden=SENTENCES[:NUM_TEXTS],
    )
    export_classification(
        random_vit(),
        models / "tiny-vit" / "1",
        description=describe_pictures(),
        calibration_pictures=torch.randn(16, 3, 32, 32),
        golden=make_images(NUM_IMAGES),
    )
    return models


@pytest.fixture
def translator(sound: Path, tmp_path: Path) -> Path:
    """A copy of the translator that a test may spoil."""
    return Path(shutil.copytree(sound / "copy" / "1", tmp_path / "copy" / "1"))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Self-tests a models folder in this process -> exit status, what it printed."""

    def run(models: Path, **settings: Any) -> tuple[int, str]:
        given = Settings.model_validate({"models": models, "device": "cpu", **settings})
        status = self_test(given, speed_seconds=0.01)
        return status, capsys.readouterr().out

    return run


def edit(folder: Path, name: str, change: Callable[[Json], None]) -> None:
    """Change a JSON file of the bundle, and the hash that its card has of it."""
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))
    if name != "bundle.json":
        write_card(folder, json.loads((folder / "bundle.json").read_text()))


def rewrite_int8(folder: Path, model: Transformer, products: Products) -> None:
    """Make the int8 graphs anew."""
    weights = WeightsFile(folder / "int8")
    bias = model.final_logits_bias.detach().numpy()
    graphs = TranslationGraphs(model.config, to_numpy(model), bias, products, weights)
    graphs.encoder().save(folder / "int8" / "encoder.onnx")
    graphs.decoder().save(folder / "int8" / "decoder.onnx")
    weights.close()
    card = json.loads((folder / "bundle.json").read_text())
    write_card(folder, card | {"quantized_caches": []})


def without_golden(card: Json) -> None:
    card["golden"] = None
    del card["files"]["golden.json"]


def forget_golden(folder: Path) -> None:
    (folder / "golden.json").unlink()
    edit(folder, "bundle.json", without_golden)


def row(text: str, name: str) -> list[str]:
    """The cells of a line of the table."""
    line = next(line for line in text.splitlines() if line.strip().startswith(name))
    return line.strip().removeprefix(name).split("  ")


def test_sound_bundles_pass(run: Callable[..., tuple[int, str]], sound: Path) -> None:
    status, text = run(sound)
    assert status == 0
    assert text.splitlines()[-1].startswith("PASSED")
    assert "FAILED" not in text
    assert text.count("golden answers, given by") == 2
    for way in ("greedy", "beam 4"):
        assert text.count(f"{NUM_TEXTS} of {NUM_TEXTS} (± 0)") == 4
        assert "of" in " ".join(row(text, f"as in fp32, {way}"))
    assert text.count(f"{NUM_IMAGES} of {NUM_IMAGES} (± 0)") == 2
    assert text.count(f"{4 * NUM_TEXTS} of {4 * NUM_TEXTS}") == 2
    assert text.count(f"{4 * NUM_IMAGES} of {4 * NUM_IMAGES}") == 2
    assert "tokens/s together, beam 4" in text
    assert "images/s together" in text


def test_what_a_gpu_does_not_compute_is_examined_on_the_cpu_though_a_gpu_was_asked_for(
    run: Callable[..., tuple[int, str]],
    tokenizer_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """fp32 was left out there, with a note, and fp16 had nothing to be compared with."""
    export_translation(
        random_transformer(),
        tokenizer_path,
        tmp_path / "tiny" / "1",
        description=describe(),
        storage=Storage(precisions=("fp32", "fp16")),
    )
    monkeypatch.setattr(DEVICES, "_choose", lambda setting: "cpu" if setting == "cpu" else "cuda")
    _, text = run(tmp_path, device="cuda")
    assert "fp32 is examined on the CPU" in text
    assert "fp32 cannot run here" not in text
    assert row(text, "in company as alone, to the bit")


def test_a_precision_that_is_asked_for_is_tested_alone(
    run: Callable[..., tuple[int, str]], sound: Path
) -> None:
    status, text = run(sound, precision="fp32")
    assert status == 0
    assert "int8" not in text.partition("settings")[2]  # the processor may say how it multiplies
    assert "as in fp32" not in text


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_another_golden_text_is_a_failure_that_names_the_sentence(
    run: Callable[..., tuple[int, str]], translator: Path, precision: str
) -> None:
    def change(golden: Json) -> None:
        golden["answers"][precision]["beam 4"][1] |= {"text": "changed", "score": -9.0}

    edit(translator, "golden.json", change)
    status, text = run(translator.parents[1])
    assert status == 1
    assert f"FAILED  {precision}, golden answers, beam 4: {SENTENCES[1]}" in text
    assert 'expected  "changed" (score -9.000000)' in text
    assert text.endswith("FAILED: 1 of 1 models\n")
    assert "FAILED 5 of 6" in text


def test_another_score_is_a_failure(run: Callable[..., tuple[int, str]], translator: Path) -> None:
    def change(golden: Json) -> None:
        golden["answers"]["fp32"]["greedy"][0]["score"] += 2e-4

    edit(translator, "golden.json", change)
    status, text = run(translator.parents[1])
    assert status == 1
    assert f"FAILED  fp32, golden answers, greedy: {SENTENCES[0]}" in text


def test_golden_int8_of_another_cpu_may_differ_a_little(
    run: Callable[..., tuple[int, str]], translator: Path
) -> None:
    def change(golden: Json) -> None:
        golden["origin"]["arithmetic"] = "abacus"
        golden["answers"]["int8"]["greedy"][0]["score"] += 0.01

    edit(translator, "golden.json", change)
    status, text = run(translator.parents[1])
    assert status == 0
    assert "note  int8, golden answers, greedy:" in text
    assert text.endswith("PASSED with notes: 1 of 1 models\n")


def test_golden_int8_of_another_cpu_may_not_be_something_else(
    run: Callable[..., tuple[int, str]], translator: Path
) -> None:
    def change(golden: Json) -> None:
        golden["origin"]["arithmetic"] = "abacus"
        for answer in golden["answers"]["int8"]["greedy"]:
            answer |= {"text": "#" * 40, "score": -9.0}

    edit(translator, "golden.json", change)
    status, text = run(translator.parents[1])
    assert status == 1
    assert "the answers are 0.0% alike, expected at least 75%" in text


def test_another_golden_label_is_a_failure(
    run: Callable[..., tuple[int, str]], sound: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(sound / "tiny-vit" / "1", tmp_path / "tiny-vit" / "1"))

    def change(golden: Json) -> None:
        golden["answers"]["int8"]["labels"][2]["labels"].reverse()

    edit(folder, "golden.json", change)
    status, text = run(tmp_path)
    assert status == 1
    assert "FAILED  int8, golden answers, labels: image 3" in text


def test_a_graph_that_leaks_between_rows_is_found(
    run: Callable[..., tuple[int, str]], translator: Path, copying_transformer: Transformer
) -> None:
    """One activation scale for a whole tensor: an answer depends on who shares the batch."""
    forget_golden(translator)
    rewrite_int8(translator, copying_transformer, DynamicProducts())
    status, text = run(translator.parents[1])
    assert status == 1
    assert "FAILED  int8, in company as alone, to the bit: " in text
    assert "FAILED  fp32" not in text


def test_int8_that_is_another_model_is_found(
    run: Callable[..., tuple[int, str]], translator: Path
) -> None:
    forget_golden(translator)
    sizes = {"encoder_layers": 1, "decoder_layers": 2, "ffn_size": 96}
    rewrite_int8(translator, random_transformer(**sizes), FloatProducts())
    status, text = run(translator.parents[1])
    assert status == 1
    assert "FAILED  int8, as in fp32, greedy: the answers are " in text


def test_a_leaky_classifier_that_runs_images_one_by_one_is_noted(
    run: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    write_classifier(tmp_path, leaky=True)
    status, text = run(tmp_path)
    assert status == 0
    assert "answers depend on the batch; images run one by one" in " ".join(text.split())
    assert "PASSED with notes" in text


def test_a_leaky_classifier_that_the_runner_overlooks_is_found(
    run: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClassifierRunner, "_is_isolated", lambda self: True)
    write_classifier(tmp_path, leaky=True)
    status, text = run(tmp_path)
    assert status == 1
    assert "FAILED  fp32, in company as alone, to the bit: labels, image " in text


def test_a_bundle_without_golden_answers_is_tested_all_the_same(
    run: Callable[..., tuple[int, str]], translator: Path
) -> None:
    forget_golden(translator)
    assert read_golden(Bundle.open(translator)) is None
    status, text = run(translator.parents[1])
    assert status == 0
    assert "note  the bundle has no golden answers" in text
    assert "in company as alone" in text
    assert "as in fp32, beam 4" in text
    assert "tokens/s together" in text
    assert text.endswith("PASSED with notes: 1 of 1 models\n")


@pytest.mark.parametrize(("precision", "status"), [("int8", 1), ("fp32", 0)])
def test_a_precision_that_cannot_be_opened_fails_if_it_is_the_servers(
    run: Callable[..., tuple[int, str]], translator: Path, precision: str, status: int
) -> None:
    (translator / precision / "decoder.onnx").write_bytes(b"nothing")
    write_card(translator, json.loads((translator / "bundle.json").read_text()))
    found, text = run(translator.parents[1])
    assert found == status
    mark = "FAILED" if status else "note"
    assert f"{mark}  {precision} cannot run here: expected an ONNX graph" in text


def test_a_spoiled_bundle_and_an_empty_folder_are_failures(
    run: Callable[..., tuple[int, str]], translator: Path, tmp_path: Path
) -> None:
    edit(translator, "golden.json", lambda golden: golden["texts"].pop())
    status, text = run(tmp_path)
    assert status == 1
    assert "expected golden answers in" in text
    (translator / "golden.json").write_text("{}")
    status, text = run(tmp_path)
    assert status == 1
    assert "golden.json: expected sha256" in " ".join(text.split())
    status, text = run(tmp_path / "copy")
    assert status == 1
    assert text.endswith("found none\n")


def test_golden_answers_are_in_the_bundle_and_are_read_back(sound: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(sound / "tiny-vit" / "1")
    golden = read_golden(bundle)
    assert golden is not None
    assert golden.task == "classification"
    assert golden.images == make_images(NUM_IMAGES)
    assert set(golden.answers) == {"fp32", "int8"}
    assert "golden.json" in bundle.card.files
    copy = Path(shutil.copytree(bundle.folder, tmp_path / "1"))
    edit(copy, "bundle.json", lambda card: card["files"].pop("golden.json"))
    with pytest.raises(BundleError, match=r"to list golden.json in `files`"):
        Bundle.open(copy)


def test_large_pictures_are_shrunk_and_their_number_is_bounded(tmp_path: Path) -> None:
    for number, content in enumerate(make_images(8, side=400)):
        (tmp_path / f"{number}.png").write_bytes(content)
    files = sorted(tmp_path.iterdir())
    assert max(len(path.read_bytes()) for path in files) > 20_000
    assert len(read_small(files, 64)) == 8
    large = read_small(files, 2000)
    assert 1 <= len(large) < 8


@pytest.mark.parametrize(
    ("rates", "remark", "is_noted"),
    [
        ({"fp32": 100.0, "int8": 250.0}, "fastest: int8, 2.5 times fp32", False),
        ({"fp32": 109.0, "int8": 100.0}, "fastest: fp32, 1.1 times int8", False),
        ({"fp32": 150.0, "int8": 100.0}, "fastest: fp32, 1.5 times int8", True),
    ],
)
def test_a_precision_that_is_clearly_faster_than_the_servers_is_noted(
    rates: dict[str, float], remark: str, is_noted: bool
) -> None:
    said, note = compare_speeds(rates, "int8")
    assert said == remark
    assert (note is not None) == is_noted


def test_the_command_prints_a_verdict_and_exits_with_it(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound / "tiny-vit", tmp_path / "tiny-vit")
    for models, status, last in ((tmp_path, 0, "PASSED"), (tmp_path / "none", 1, "FAILED")):
        ran = subprocess.run(
            [sys.executable, "-m", "service", "--self-test", "--models", str(models)],
            cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert ran.returncode == status, ran.stdout + ran.stderr
        assert ran.stdout.splitlines()[-1].startswith(last)
        assert ran.stdout.startswith("processor  ")
        assert ran.stderr == ""


def test_the_help_names_the_self_test() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "service", "--help"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "--self-test" in ran.stdout
