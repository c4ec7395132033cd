"""Python a decode step: what a turn of a decode worker takes beside ONNX Runtime's `run`.

One worker, in this thread. `run` is timed where Python enters it, so this knows nothing of the
runner.
"""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from bench.contenders.ours import nobody, search_options
from bench.contenders.protocol import serve
from service.bundle import Bundle
from service.metrics import Metrics
from service.settings import Settings
from service.translation.measures import TranslationMeasures
from service.translation.processors import TokenRules
from service.translation.runner import open_runners
from service.translation.scheduler import Scheduler
from service.translation.sequence import Sequence
from service.translation.warmup import warm_up
from service.translation.worker import DecodeWorker
from service.translation.workers import Workers

SOURCE_TOKENS = 16


class RunClock:
    """The seconds that this process has spent in `run`."""

    def __init__(self) -> None:
        self.seconds = 0.0
        for name in ("run", "run_with_iobinding"):
            method = getattr(onnxruntime.InferenceSession, name)
            setattr(onnxruntime.InferenceSession, name, self._timed(method))

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def timed(*arguments: Any, **options: Any) -> Any:
            begun = time.perf_counter()
            try:
                return method(*arguments, **options)
            finally:
                self.seconds += time.perf_counter() - begun

        return timed


class Contender:
    """The handlers."""

    def __init__(self) -> None:
        self._clock = RunClock()

    def load(self, bundle: str, precision: str) -> dict[str, Any]:
        """Make one worker that is never started: its turns are taken here."""
        settings = Settings.model_validate({})
        opened = Bundle.open(Path(bundle))
        card = opened.translation
        self._eos = card.tokens.eos
        self._scheduler = Scheduler(
            num_workers=1, encode_tokens_per_step=settings.encode_tokens_per_step
        )
        workers = Workers(count=1, max_rows=settings.max_rows)
        (runner,) = open_runners(opened, precision, "cpu", workers)
        warm_up(runner, card)
        measures = TranslationMeasures(Metrics.create(), opened.name)
        rules = TokenRules.from_card(card)
        self._worker = DecodeWorker(runner, self._scheduler, rules, measures, lambda _: None)
        return {}

    def steps(self, num_sequences: int, **options: int) -> dict[str, Any]:
        """Seconds in and beside `run` of each turn in which nobody joined or left."""
        source = np.full(SOURCE_TOKENS, self._eos, np.int64)
        asked = search_options(**options)
        self._scheduler.add(
            Sequence(source_ids=source, options=asked, receiver=nobody)
            for _ in range(num_sequences)
        )
        turns: list[tuple[float, float]] = []
        while not self._worker.is_idle:
            in_run, begun = self._clock.seconds, time.perf_counter()
            self._worker.turn()
            seconds, in_run = time.perf_counter() - begun, self._clock.seconds - in_run
            turns.append((in_run, seconds - in_run))
        return {"turns": turns[1:-1]}


if __name__ == "__main__":
    contender = Contender()
    serve(load=contender.load, steps=contender.steps)
