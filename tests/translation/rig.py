"""An engine over runners with scripted logits, and what holds it at a step."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle import Bundle
from service.devices import Devices
from service.metrics import Metrics
from service.settings import Settings
from service.translation.engine import TranslationEngine
from service.translation.options import DecodingOptions
from service.translation.workers import Workers
from tests.translation.fakes import FakeRunner, reading

TIMEOUT_SECONDS = 60  # of a broken engine


class Rig:
    """An engine whose model copies its source, and its runners."""

    def __init__(self, bundle: Bundle, devices: Devices | None = None, **given: Any) -> None:
        self._vocab_size = bundle.translation.architecture.vocab_size
        self._eos = bundle.translation.tokens.eos
        self.metrics = Metrics.create()
        self.runners: list[FakeRunner] = []
        self.before_open: Callable[[], object] = lambda: None
        self.engine = TranslationEngine(
            bundle,
            settings=Settings(**{"decode_workers": 1, "device": "cpu", **given}),
            metrics=self.metrics,
            devices=devices or Devices(),
            open_runners=self._open,
        )
        self.runner.num_steps = 0  # forget the warm-up

    @property
    def runner(self) -> FakeRunner:
        return self.runners[0]

    def reading(self, name: str, **labels: str) -> float:
        return reading(self.metrics, f"attendant_{name}", self.engine.model_name, **labels)

    def assert_at_rest(self) -> None:
        for gauge in ("requests_waiting", "sequences_running", "rows_running"):
            assert self.reading(gauge) == 0
        assert all(runner.table.num_rows == 0 for runner in self.runners)

    def _open(
        self, bundle: Bundle, precision: str, device: str, workers: Workers
    ) -> list[FakeRunner]:
        self.before_open()
        limit = bundle.translation.limits.max_target_tokens
        self.runners = [
            FakeRunner(self._copy, max_rows=workers.max_rows, max_target_tokens=limit)
            for _ in range(workers.count)
        ]
        return self.runners

    def _copy(self, source: tuple[int, ...], target: tuple[int, ...]) -> NDArray[np.float32]:
        logits = np.linspace(-1.0, 0.0, self._vocab_size, dtype=np.float32)
        logits[source[len(target) - 1] if len(target) <= len(source) else self._eos] = 20.0
        return logits


class Gate:
    """Holds a runner before its next step."""

    def __init__(self, runner: FakeRunner) -> None:
        self.arrived, self._opened = threading.Event(), threading.Event()
        runner.before_step = self._hold

    def open(self) -> None:
        self._opened.set()

    async def wait(self) -> None:
        """Until the runner is held."""
        await asyncio.to_thread(self.arrived.wait, TIMEOUT_SECONDS)

    def _hold(self) -> None:
        self.arrived.set()
        self._opened.wait(TIMEOUT_SECONDS)


async def copied(rig: Rig, text: str, **given: Any) -> str:
    """What a text becomes."""
    options = DecodingOptions(**given)
    (result,) = (await rig.engine.translate([text], options)).results
    assert result.error is None
    return result.hypotheses[0].text
