"""The models folder, model by model, to a verdict and an exit status."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

from service.bundle import CARD_FILE, Bundle, is_version_folder
from service.errors import BundleError
from service.selftest.examination import Examination
from service.selftest.machine import facts
from service.selftest.report import ModelReport, Verdict
from service.settings import Settings

# Each measurement of speed takes about twice as long.
SPEED_SECONDS = 1.5


def self_test(settings: Settings, *, speed_seconds: float = SPEED_SECONDS) -> int:
    """Check every bundle in the models folder and print what was found.

    Returns the exit status: 1 where anything failed, or there was nothing to check.
    """
    for name, fact in facts().items():
        print(f"{name:<10} {fact}")
    print(f"{'settings':<10} device {settings.device}, precision {settings.precision}\n")
    verdicts = []
    for folder in _folders(settings.models):
        report = _examine(folder, settings, speed_seconds)
        print(report.text(), flush=True)
        verdicts.append(report.verdict)
    print(_summary(verdicts, settings.models))
    return 0 if verdicts and Verdict.FAILED not in verdicts else 1


def _folders(models: Path) -> Iterator[Path]:
    for card in sorted(models.glob(f"*/*/{CARD_FILE}")):
        if is_version_folder(card.parent):
            yield card.parent


def _examine(folder: Path, settings: Settings, speed_seconds: float) -> ModelReport:
    try:
        examination = Examination(Bundle.open(folder), settings, speed_seconds=speed_seconds)
    except BundleError as error:
        return ModelReport("/".join(folder.parts[-2:]), failures=[str(error)])
    return asyncio.run(examination.run())


def _summary(verdicts: list[Verdict], models: Path) -> str:
    if not verdicts:
        return f"FAILED: expected models in {models}, found none"
    worst = max(verdicts, key=list(Verdict).index)
    count = f"{verdicts.count(worst)} of {len(verdicts)} models"
    return f"{worst.value}: {count}" if worst is not Verdict.PASSED else f"PASSED: {count}"
