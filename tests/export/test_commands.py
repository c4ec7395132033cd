"""From data to a measured bundle through the command line."""

import shutil
from pathlib import Path

import pytest

from export.commands import main
from export.evaluate.translation import tokenised_bleu
from export.golden import NUM_IMAGES
from export.run_bundle import training_command
from export.training.run_folder import RunFolder
from service.bundle import Bundle
from service.golden import read_golden
from tests.export.runs import classification_command, write_pictures


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, translation_run: RunFolder) -> Bundle:
    output = tmp_path_factory.mktemp("models") / "animals-en-de" / "1"
    further = ["--licence", "CC0-1.0", "--max-source-tokens", "64", "--max-target-tokens", "64"]
    assert main(["bundle", str(translation_run.path), "--output", str(output), *further]) == 0
    return Bundle.open(output)


def test_a_bundle_tells_where_its_weights_come_from(bundle: Bundle) -> None:
    card = bundle.translation
    assert card.name == "animals-en-de"
    assert bundle.precisions == ("fp32", "int8")
    assert (card.limits.max_source_tokens, card.limits.max_target_tokens) == (64, 64)
    assert (card.decoding.beam_size, card.decoding.early_stopping) == (4, "heuristic")
    facts = card.provenance
    assert facts.data == "Files text.en text.de; validation text.en text.de."
    assert facts.licence == "CC0-1.0"
    assert "attendant-export train translation --run RUN --train text.en text.de" in facts.recipe
    assert "of 3 epochs. On validation data: loss " in facts.recipe
    assert str(bundle.folder.parents[2]) not in (bundle.folder / "bundle.json").read_text()


def test_the_recipe_is_a_command_that_trains_the_same(translation_run: RunFolder) -> None:
    config = translation_run.read_config()
    words = training_command(config).replace("\\\n", " ").split()
    assert words[:3] == ["attendant-export", "train", "translation"]
    assert words[words.index("--learning-rate") + 1] == "0.005"
    assert "--perturb" in words
    assert "--no-perturb" in training_command({**config, "data": {"perturb": False}})


def test_evaluate_prints_figures_and_writes_them_into_the_card(
    bundle: Bundle, text_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "animals-en-de" / "1"
    shutil.copytree(bundle.folder, copy)
    files = [str(text_folder / name) for name in ("text.en", "text.de")]
    further = ["--limit", "12", "--beam-size", "2", "--perturb", "--write-card"]
    assert main(["evaluate", str(copy), "--data", *files, *further]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].split() == ["fp32", "int8"]
    for name in ("bleu", "bleu_tokenised", "chrf", "sentences_per_second", "perturbed_bleu"):
        assert f"\n{name} " in printed
    assert "bleu: nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:" in printed
    facts = Bundle.open(copy).card.provenance
    assert facts.metrics["int8"].keys() == facts.metrics["fp32"].keys()
    assert facts.metrics["fp32"]["sentences_per_second"] > 0
    assert facts.measured_with["command"] == (
        "attendant-export evaluate models/animals-en-de/1 --data text.en text.de "
        "--beam-size 2 --limit 12 --perturb"
    )
    assert facts.measured_with["command"] in (copy / "MODEL_CARD.md").read_text()


def test_verify_fails_with_a_status_when_a_check_does(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["verify", str(bundle.folder)])
    printed = capsys.readouterr().out
    assert ("NOT verified" in printed) == bool(status)
    assert "greedy ids" in printed
    assert "FAILED" not in "".join(line for line in printed.splitlines() if "fp32" in line)


def test_verify_of_something_else_is_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(tmp_path)]) == 1
    assert "expected a folder named by an integer version" in capsys.readouterr().err


def test_a_run_still_going_on_is_bundled_from_its_snapshots(
    translation_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, output = tmp_path / "run", str(tmp_path / "early" / "1")
    shutil.copytree(translation_run.path, run)
    (run / "weights.pt").unlink()
    command = ["bundle", str(run), "--output", output, "--precision", "fp32"]
    assert main(command) == 1
    assert "its training has not ended" in capsys.readouterr().err
    assert main([*command, "--snapshot", "2", "--max-target-tokens", "64"]) == 0
    recipe = Bundle.open(Path(output)).card.provenance.recipe
    assert "the average of the weights after the last 2 of 3 epochs" in recipe
    assert "with golden answers" in capsys.readouterr().out


def test_a_run_whose_data_is_gone_says_how_to_name_it(
    translation_run: RunFolder,
    text_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, output = tmp_path / "run", str(tmp_path / "moved" / "1")
    shutil.copytree(translation_run.path, run)
    config = (run / "config.json").read_text().replace(str(text_folder), "/gone")
    (run / "config.json").write_text(config)
    command = ["bundle", str(run), "--output", output, "--max-target-tokens", "64"]
    assert main(command) == 1
    expected = "/gone/text.en, to calibrate int8 with, is not there; name the training data by"
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "moved").exists()
    files = [str(text_folder / name) for name in ("text.en", "text.de")]
    assert main([*command, "--calibration", *files]) == 0
    assert "with golden answers" in capsys.readouterr().out


def test_a_classifier_is_trained_bundled_verified_and_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = write_pictures(tmp_path / "pictures")
    run, output = tmp_path / "run", tmp_path / "light" / "1"
    assert main(classification_command(pictures, run)) == 0
    assert main(["bundle", str(run), "--output", str(output)]) == 0
    assert len(read_golden(Bundle.open(output)).images) == NUM_IMAGES
    assert main(["verify", str(output), "--write-card"]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(output), "--data", str(pictures), "--write-card"]) == 0
    printed = capsys.readouterr().out
    assert "\naccuracy " in printed
    facts = Bundle.open(output).card.provenance
    assert facts.metrics["fp32"]["accuracy"] == facts.metrics["int8"]["accuracy"] == 1.0
    assert facts.parity["fp32 labels"] == "24 of 24"
    assert main(["evaluate", str(output), "--data", str(pictures), "--perturb"]) == 1
    assert "measured on one folder" in capsys.readouterr().err


def test_tokenised_bleu_ignores_case_and_kinds_of_quotes() -> None:
    references = ["Der „alte“ Hund rennt schnell nach Hause."]
    assert tokenised_bleu(['der "alte" Hund rennt schnell nach hause .'], references, "de") == (
        pytest.approx(100.0)
    )
    assert tokenised_bleu(["Eine Katze schläft."], references, "de") < 20
