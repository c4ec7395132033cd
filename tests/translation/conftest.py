"""The default bundle and sentences of our own; what runs on scripted logits is in `fakes.py`."""

import os
from pathlib import Path

import pytest

from service.bundle import Bundle

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    """The bundle that the repository ships, or the one that ATTENDANT_TEST_BUNDLE names."""
    default = ROOT / "models" / "captions-en-de" / "1"
    return Bundle.open(Path(os.environ.get("ATTENDANT_TEST_BUNDLE", default)))


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    """About 300 sentences of 1 to 60 words."""
    return (Path(__file__).parent / "sentences.txt").read_text().splitlines()
