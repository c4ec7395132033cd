"""Ours: the decode workers with their threads and their scheduler, token ids in, token ids out.

This is what a CTranslate2 `Translator` is called with and answers; text and gRPC have sections of
their own. Settings are the server's defaults.
"""

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.contenders.protocol import serve, timed
from service.bundle import Bundle
from service.cores import num_cores
from service.metrics import Metrics
from service.settings import Settings
from service.translation.measures import TranslationMeasures
from service.translation.options import DecodingOptions, EarlyStopping
from service.translation.processors import TokenRules
from service.translation.runner import open_runners
from service.translation.scheduler import Scheduler
from service.translation.sequence import Sequence
from service.translation.warmup import warm_up
from service.translation.worker import DecodeWorker, StepResults
from service.translation.workers import Workers


class _Nobody:
    """Takes a sequence's results where it is enough that they are in the sequence."""

    def finish(self, sequence: Sequence) -> None:
        """Nothing is to be done."""

    def extend(self, sequence: Sequence, token_ids: list[int]) -> None:
        """Nothing is to be done."""


nobody = _Nobody()


class Decoder:
    """All decode workers of one bundle."""

    def __init__(self, bundle: Bundle, precision: str) -> None:
        settings = Settings.model_validate({})
        card = bundle.translation
        self.eos = card.tokens.eos
        self._scheduler = Scheduler(
            num_workers=num_cores(), encode_tokens_per_step=settings.encode_tokens_per_step
        )
        runners = open_runners(bundle, precision, "cpu", Workers.of(settings, "cpu"))
        for runner in runners:
            warm_up(runner, card)
        rules = TokenRules.from_card(card)
        measures = TranslationMeasures(Metrics.create(), bundle.name)
        self._workers = [
            DecodeWorker(runner, self._scheduler, rules, measures, self._receive)
            for runner in runners
        ]
        self._num_open = 0
        self._changed = threading.Condition()
        for worker in self._workers:
            worker.start()

    def decode(self, sources: list[list[int]], options: DecodingOptions) -> list[Sequence]:
        """Decode all of them; they may share the batch from the start."""
        sequences = [
            Sequence(
                source_ids=np.array(source, np.int64),
                options=options,
                receiver=nobody,
                arrived_at=time.monotonic(),
            )
            for source in sources
        ]
        self._num_open = len(sequences)
        self._scheduler.add(sequences)
        with self._changed:
            self._changed.wait_for(lambda: self._num_open == 0)
        for sequence in sequences:
            if sequence.error is not None:
                raise sequence.error
        return sequences

    def close(self) -> None:
        """End the workers."""
        self._scheduler.close()
        for worker in self._workers:
            worker.join()

    def _receive(self, results: StepResults) -> None:
        with self._changed:
            self._num_open -= len(results.finished)
            self._changed.notify()


class Contender:
    """The handlers."""

    def __init__(self) -> None:
        self._decoder: Decoder | None = None

    def load(self, bundle: str, precision: str) -> dict[str, Any]:
        """Open a bundle in place of the one before."""
        if self._decoder is not None:
            self._decoder.close()
        self._decoder = Decoder(Bundle.open(Path(bundle)), precision)
        return {}

    def translate(self, sources: list[list[int]], **options: int) -> dict[str, Any]:
        """All sources at once."""
        decoder = self._loaded()
        with timed() as times:
            sequences = decoder.decode(sources, search_options(**options))
        return {**times, "ids": [_ids(one, decoder.eos) for one in sequences]}

    def alone(self, sources: list[list[int]], **options: int) -> dict[str, Any]:
        """One source after the other."""
        decoder = self._loaded()
        calls, ids = [], []
        for source in sources:
            with timed() as times:
                (sequence,) = decoder.decode([source], search_options(**options))
            calls.append(times)
            ids.append(_ids(sequence, decoder.eos))
        return {"calls": calls, "ids": ids}

    def _loaded(self) -> Decoder:
        if self._decoder is None:
            raise RuntimeError("nothing is loaded")
        return self._decoder


def search_options(
    *, beam_size: int, num_hypotheses: int, min_tokens: int, max_tokens: int
) -> DecodingOptions:
    """The options of every contender as ours."""
    return DecodingOptions(
        beam_size=beam_size,
        num_hypotheses=num_hypotheses,
        early_stopping=EarlyStopping.ALL_FINISHED,  # the only rule that CTranslate2 has
        min_target_tokens=min_tokens,
        max_target_tokens=max_tokens,
    )


def _ids(sequence: Sequence, eos: int) -> list[list[int]]:
    """The hypotheses that were asked for, without the end token."""
    found = sequence.finished[: sequence.options.num_hypotheses]
    return [one.token_ids[: len(one.token_ids) - (one.token_ids[-1] == eos)] for one in found]


if __name__ == "__main__":
    contender = Contender()
    serve(load=contender.load, translate=contender.translate, alone=contender.alone)
