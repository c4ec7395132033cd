"""Training can be killed at any moment, and its parts compute what their formulas say."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from export.bundling import export_classification
from export.commands import main
from export.data.images import read_image_folder
from export.seq2seq import Transformer
from export.training.classification import (
    ClassificationDataConfig,
    channel_statistics,
    fit_temperature,
)
from export.training.loop import OptimizationConfig, Trainer
from export.training.run_folder import RunFolder, average_weights
from export.training.runs import train_classification
from export.training.translation import label_smoothed_loss
from export.vit import VisionTransformer, ViTConfig
from export.weights import load_bundle_model
from service.bundle import Bundle
from tests.export.models import describe_pictures, random_vit
from tests.export.runs import (
    classification_command,
    same_bits,
    train_through_kills,
    translation_command,
    write_pictures,
)


def test_translation_training_killed_three_times_ends_in_the_same_bits(
    text_folder: Path, translation_run: RunFolder, tmp_path: Path
) -> None:
    killed = RunFolder(tmp_path / "killed")
    command = translation_command(text_folder, killed.path, "--checkpoint-seconds", "0")
    train_through_kills(command, killed, kills=3, seed=5)
    assert same_bits(killed, translation_run)
    assert killed.read_log() == translation_run.read_log()


def test_classification_training_killed_once_ends_in_the_same_bits(tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path / "pictures")
    whole, killed = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "killed")
    assert main(classification_command(pictures, whole.path)) == 0
    command = classification_command(pictures, killed.path, "--checkpoint-seconds", "0")
    train_through_kills(command, killed, kills=1, seed=6)
    assert same_bits(killed, whole)
    assert whole.load_weights()["temperature"] != 1.0


def test_a_run_that_has_ended_ends_in_the_same_bits_again(
    text_folder: Path, translation_run: RunFolder, tmp_path: Path
) -> None:
    """And writes the log and the curves anew that a kill behind the last checkpoint left out."""
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    for file in translation_run.path.rglob("*"):
        copy = run.path / file.relative_to(translation_run.path)
        copy.mkdir() if file.is_dir() else copy.write_bytes(file.read_bytes())
    for name in ("weights.pt", "log.jsonl", "curves.png"):
        (run.path / name).unlink()
    assert main(translation_command(text_folder, run.path)) == 0
    assert same_bits(run, translation_run)
    assert run.read_log() == translation_run.read_log()
    assert (run.path / "curves.png").exists()


def test_a_run_has_a_log_curves_and_a_result(translation_run: RunFolder) -> None:
    log = translation_run.read_log()
    assert [record["epoch"] for record in log] == [1, 2, 3]
    assert log[-1]["valid_loss"] < log[0]["valid_loss"]
    with Image.open(translation_run.path / "curves.png") as picture:
        assert picture.width > 300
    progress = translation_run.read_progress()
    assert progress["finished"] == 1
    assert progress["loss"] <= log[-1]["valid_loss"]
    assert not list(translation_run.path.rglob("*.partial*"))


def test_another_configuration_in_the_same_folder_is_refused(
    text_folder: Path, translation_run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    before = translation_run.load_weights()
    assert main(translation_command(text_folder, translation_run.path, "--seed", "2")) == 1
    assert "holds another configuration" in capsys.readouterr().err
    assert before.keys() == translation_run.load_weights().keys()


def test_training_can_start_from_a_bundle(
    text_folder: Path, translation_bundle: Bundle, tmp_path: Path
) -> None:
    """With a learning rate of nothing the weights stay those of the bundle."""
    run = RunFolder(tmp_path / "tuned")
    further = ["--init", str(translation_bundle.folder), "--learning-rate", "0", "--epochs", "1"]
    assert main(translation_command(text_folder, run.path, *further)) == 0
    expected = load_bundle_model(translation_bundle.folder, Transformer).state_dict()
    found = run.load_weights()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    architecture = run.read_config()["architecture"]
    assert architecture["d_model"] == translation_bundle.translation.architecture.d_model
    output = tmp_path / "tuned-model" / "1"
    limits = ["--precision", "fp32", "--max-target-tokens", "40"]
    assert main(["bundle", str(run.path), "--output", str(output), *limits]) == 0
    recipe = Bundle.open(output).card.provenance.recipe
    assert recipe.startswith("random weights\n\nThen, from those weights:\n\n    attendant-export")


@pytest.mark.parametrize("labels", [("cat", "dog", "ship", "train", "tree"), ("dark", "light")])
def test_a_classifier_keeps_the_head_of_a_bundle_only_for_the_same_labels(
    labels: tuple[str, ...], tmp_path: Path
) -> None:
    """Another set of labels of any size used to fail, or to take over heads of other labels."""
    bundle = export_classification(
        random_vit(image_size=8, patch_size=4),
        tmp_path / "tiny-vit" / "1",
        description=describe_pictures(8),
    )
    start = load_bundle_model(bundle.folder, VisionTransformer).state_dict()
    run = tmp_path / "run"
    train_classification(
        train=write_pictures(tmp_path / "pictures", labels, count=4),
        valid=None,
        run_path=run,
        architecture=ViTConfig(num_labels=0),
        data=ClassificationDataConfig(valid_share=0.25),
        optimization=OptimizationConfig(epochs=1, learning_rate=0.0),
        init=bundle.folder,
    )
    found = RunFolder(run).load_weights()
    assert torch.equal(found["class_token"], start["class_token"])
    assert found["head.bias"].shape == (len(labels),)
    assert torch.equal(found["head.bias"], start["head.bias"]) == (len(labels) == 5)


def test_the_smoothed_loss_is_the_cross_entropy_with_smoothed_labels() -> None:
    logits = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([[3, 4, 2], [5, 2, 0]])  # 0 is padding
    expected = 0.0
    for row, position in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]:
        chances = torch.softmax(logits[row, position], dim=0).tolist()
        for token in range(1, 7):
            wanted = 0.1 / 6 + (0.9 if token == labels[row, position] else 0.0)
            expected -= wanted * math.log(chances[token])
    assert float(label_smoothed_loss(logits, labels, 0.1)) == pytest.approx(expected, rel=1e-5)
    logits[1, 2] = 100.0 * torch.randn(7)  # behind the end: counts nothing
    assert float(label_smoothed_loss(logits, labels, 0.1)) == pytest.approx(expected, rel=1e-5)


def test_the_temperature_is_what_the_logits_were_multiplied_by() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(4000, 5, generator=generator)
    targets = torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)
    assert fit_temperature(logits, targets) == pytest.approx(1.0, abs=0.05)
    assert fit_temperature(2.5 * logits, targets) == pytest.approx(2.5, abs=0.12)


def test_the_temperature_of_a_classifier_without_faults_is_a_number() -> None:
    logits = torch.tensor([[9.0, 0.0], [0.0, 7.0]])
    assert math.exp(-3) <= fit_temperature(logits, torch.tensor([0, 1])) < 1


def test_channel_statistics_are_those_of_all_pixels(tmp_path: Path) -> None:
    pixels = read_image_folder(write_pictures(tmp_path / "pictures"), 8).pixels
    mean, std = channel_statistics(pixels)
    values = pixels.double() / 255
    torch.testing.assert_close(mean.double(), values.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(std.double(), values.std(dim=(0, 2, 3), correction=0))


def test_weights_are_averaged_tensor_by_tensor() -> None:
    snapshots = [{"a": torch.full((2,), value)} for value in (1.0, 2.0, 6.0)]
    assert average_weights(snapshots)["a"].tolist() == [3.0, 3.0]
    assert average_weights(snapshots)["a"].dtype == torch.float32


class ScriptedTask:
    """One weight, whose validation loss an epoch is told beforehand."""

    unit = "steps"

    def __init__(self, losses: Sequence[float]) -> None:
        self.model = nn.Linear(1, 1, bias=False)
        self.losses = list(losses)

    def epoch_batches(self, epoch: int) -> Sequence[Any]:
        return [1.0]

    def loss(self, batch: Any) -> Tensor:
        loss: Tensor = (self.model(torch.tensor([[batch]])) ** 2).sum()
        return loss

    def num_units(self, batch: Any) -> int:
        return 1

    def validate(self) -> dict[str, float]:
        return {"loss": self.losses.pop(0)}


def test_training_stops_when_validation_has_not_improved_for_a_while(tmp_path: Path) -> None:
    task = ScriptedTask([3.0, 2.0, 2.5, 2.4, *[1.9, 1.8, 1.95]])  # the last three: averages
    config = OptimizationConfig(epochs=20, patience=2, average_checkpoints=3)
    run = RunFolder(tmp_path)
    figures = Trainer(task, config, run).train()
    assert len(run.read_log()) == 4
    assert figures["averaged"] == 2  # of 1, 2 and 3, what validated best
    snapshots = [run.load_snapshot(epoch) for epoch in (2, 3)]
    assert torch.equal(run.load_weights()["weight"], average_weights(snapshots)["weight"])
    assert run.snapshot_epochs() == [1, 2, 3]
    assert json.loads((tmp_path / "progress.json").read_text())["loss"] == 1.8
