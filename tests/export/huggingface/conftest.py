"""Each family's checkpoint and its bundle, made once a run."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from export.huggingface.families import Pair
from export.huggingface.importing import ImportOptions, import_checkpoint
from export.huggingface.report import Report
from tests.export.huggingface.checkpoints import FAMILIES, Saved

Checkpoints = Callable[[str], Saved]
Imports = Callable[[str], Report]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    """The checkpoint of a family, by its name in FAMILIES. To be read, not changed."""
    root = tmp_path_factory.mktemp("checkpoints")
    return cache(lambda name: FAMILIES[name](root / name))


@pytest.fixture(scope="session")
def imports(tmp_path_factory: pytest.TempPathFactory, checkpoints: Checkpoints) -> Imports:
    """The bundle of that checkpoint, fp32 and int8."""
    root = tmp_path_factory.mktemp("models")
    return cache(
        lambda name: import_checkpoint(
            checkpoints(name).folder, root / name / "1", ImportOptions(languages=languages(name))
        )
    )


def languages(name: str) -> Pair | None:
    """What BART has to be told."""
    return Pair("en", "en") if name == "bart" else None


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Where a bundle may be written."""
    return tmp_path / "models" / "imported" / "1"
