"""Small models, made once a run: random ones, and one that has learned to copy its source."""

import random
from pathlib import Path

import pytest
import torch
from torch import nn

from export.bundling import (
    export_classification,
    export_translation,
)
from export.commands import main
from export.data.tokens import train_tokenizer
from export.seq2seq import Seq2SeqConfig, Transformer, shift_right
from export.training.run_folder import RunFolder
from export.verify.translation import SENTENCES
from service.bundle import Bundle
from tests.export.models import VOCAB_SIZE, describe, describe_pictures, random_vit
from tests.export.runs import translation_command, write_text


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    # Models this small only wait for their threads.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "source.spm"
    train_tokenizer(list(SENTENCES) * 3, VOCAB_SIZE, path)
    return path


@pytest.fixture(scope="session")
def copying_transformer() -> Transformer:
    """Seconds of training: it stops by the end token, at many lengths."""
    torch.manual_seed(1)
    rng = random.Random(1)
    config = Seq2SeqConfig(
        VOCAB_SIZE, d_model=48, num_heads=2, ffn_size=96, dropout=0.0,
        encoder_layers=1, decoder_layers=2,
    )  # fmt: skip
    model = Transformer(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(400):
        length = rng.randint(1, 9)
        words = torch.randint(3, VOCAB_SIZE, (32, length))
        ids = torch.cat([words, torch.full((32, 1), config.eos_token_id)], dim=1)
        logits = model(ids, torch.ones_like(ids), shift_right(ids, config.pad_token_id))
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="session")
def calibration_pairs() -> list[tuple[str, str]]:
    return list(zip(SENTENCES, SENTENCES, strict=True))


@pytest.fixture(scope="session")
def translation_bundle(
    tmp_path_factory: pytest.TempPathFactory,
    tokenizer_path: Path,
    copying_transformer: Transformer,
    calibration_pairs: list[tuple[str, str]],
) -> Bundle:
    """fp32 and calibrated int8 of the model that copies."""
    return export_translation(
        copying_transformer,
        tokenizer_path,
        tmp_path_factory.mktemp("models") / "copy" / "1",
        description=describe("copy"),
        calibration_pairs=calibration_pairs,
    )


@pytest.fixture(scope="session")
def classification_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """fp32 and calibrated int8 of a random Vision Transformer with a convolutional stem."""
    return export_classification(
        random_vit(),
        tmp_path_factory.mktemp("models") / "tiny-vit" / "1",
        description=describe_pictures(),
        calibration_pictures=torch.randn(16, 3, 32, 32),
    )


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parallel files text.en and text.de."""
    folder = tmp_path_factory.mktemp("text")
    write_text(folder)
    return folder


@pytest.fixture(scope="session")
def translation_run(tmp_path_factory: pytest.TempPathFactory, text_folder: Path) -> RunFolder:
    """A run that was never interrupted."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    assert main(translation_command(text_folder, run)) == 0
    return RunFolder(run)
