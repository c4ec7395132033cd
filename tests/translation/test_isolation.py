"""An answer does not depend on who shares the batch or when it joined: to the last bit."""

import asyncio
import dataclasses
import random
import shutil
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from service.bundle import Bundle
from service.metrics import Metrics
from service.settings import Settings
from service.translation.engine import TranslationEngine
from service.translation.graphs import Graphs
from service.translation.options import DecodingOptions, EarlyStopping
from service.translation.processors import TokenRules
from service.translation.results import Translation
from service.translation.runner import Runner
from service.translation.selection import Floats
from service.translation.sequence import Sequence
from service.translation.tokenizer import Tokenizer
from tests.translation.fakes import Bench, Outcome, make_sequence, outcome

NUM_WORKERS = 3
MAX_ROWS = 24


def random_options(rng: random.Random) -> DecodingOptions:
    """Half greedy, half beams, every option at times."""
    beam_size = rng.choice((1, 1, 1, 1, 2, 3, 4, 5))
    max_target_tokens = rng.randint(1, 20)
    return DecodingOptions(
        beam_size=beam_size,
        num_hypotheses=rng.randint(1, beam_size),
        length_penalty=rng.choice((-0.5, 0.0, 0.6, 1.0, 2.0)),
        early_stopping=rng.choice(list(EarlyStopping)),
        max_target_tokens=max_target_tokens,
        min_target_tokens=rng.choice((0, 0, 0, min(4, max_target_tokens))),
        repetition_penalty=rng.choice((1.0, 1.0, 1.0, 1.3)),
        no_repeat_ngram_size=rng.choice((0, 0, 0, 2)),
        return_scores=True,
    )


class Alone:
    """What every sentence becomes in a fresh runner that holds nothing else."""

    def __init__(self, bundle: Bundle, sentences: list[str], precision: str) -> None:
        rng = random.Random(precision)
        self.graphs = Graphs.open(bundle, precision, "cpu")
        self.rules = TokenRules.from_card(bundle.translation)
        self.sentences = sentences
        self.tokenizer = Tokenizer.from_bundle(bundle)
        self.options = [random_options(rng) for _ in sentences]
        self.outcomes = [self._decode(index) for index in range(len(sentences))]

    def sequence(self, index: int) -> Sequence:
        source = self.tokenizer.encode([self.sentences[index]])[0]
        return make_sequence(source, self.options[index])

    def texts(self, index: int) -> list[str]:
        return [self.tokenizer.decode(ids) for ids, _, _ in self.outcomes[index]]

    def _decode(self, index: int) -> Outcome:
        sequence = self.sequence(index)
        Bench(Runner(self.graphs, sequence.beam_size), rules=self.rules).run(sequence)
        return outcome(sequence)


@pytest.fixture(scope="module")
def alone(bundle: Bundle, sentences: list[str]) -> Callable[[str], Alone]:
    """By precision, computed once."""
    return cache(lambda precision: Alone(bundle, sentences, precision))


class FlakyRunner(Runner):
    """Every third step over several rows fails: before it has written anything, or after."""

    num_failed = 0
    _num_steps = 0

    def step(self, rows: range | None = None) -> Floats:
        rows = rows or range(self.table.num_rows)
        self._num_steps += 1
        fails = self._num_steps % 3 == 0 and len(rows) > 1
        if fails:
            self.num_failed += 1
        if fails and self.num_failed % 2:
            raise RuntimeError("this step fails at once")
        logits = super().step(rows)
        if fails:
            logits[rows.start : rows.stop] = np.nan
            raise RuntimeError("this step fails at its end")
        return logits


def decode_together(
    alone: Alone, *, seed: int, runners: SequenceOf[Runner] | None = None
) -> dict[int, Outcome]:
    """All sentences through several workers; they join, leave and are cancelled at any step."""
    rng = random.Random(seed)
    runners = runners or [Runner(alone.graphs, MAX_ROWS) for _ in range(NUM_WORKERS)]
    bench = Bench(*runners, rules=alone.rules)
    waiting = list(range(len(alone.sentences)))
    rng.shuffle(waiting)
    sequences: dict[int, Sequence] = {}
    leavers = set(rng.sample(waiting, len(waiting) // 5))
    extra: list[Sequence] = []  # a copy of each leaver: nobody waits for it to the end
    while waiting or not all(worker.is_idle for worker in bench.workers):
        for _ in range(rng.choice((0, 0, 1, 2, 5))):
            if waiting:
                index = waiting.pop()
                if index in leavers:
                    extra.append(alone.sequence(index))
                    bench.add(extra[-1])
                sequences[index] = alone.sequence(index)
                bench.add(sequences[index])
        if extra and rng.random() < 0.3:
            extra.pop(rng.randrange(len(extra))).is_cancelled = True
        bench.turn(rng.randrange(NUM_WORKERS))
    assert all(runner.table.num_rows == 0 for runner in runners)
    return {index: outcome(sequence) for index, sequence in sequences.items()}


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_sentence_has_the_same_bits_alone_and_among_others(
    precision: str, alone: Callable[[str], Alone]
) -> None:
    expected = alone(precision)
    assert len(expected.sentences) >= 300
    found = decode_together(expected, seed=7)
    different = [i for i, one in enumerate(expected.outcomes) if found[i] != one]
    assert different == []


def test_steps_that_fail_and_are_run_again_by_halves_change_no_bit(
    alone: Callable[[str], Alone],
) -> None:
    expected = alone("int8")
    flaky = [FlakyRunner(expected.graphs, MAX_ROWS) for _ in range(NUM_WORKERS)]
    found = decode_together(expected, seed=8, runners=flaky)
    assert sum(runner.num_failed for runner in flaky) > 100
    assert [i for i, one in enumerate(expected.outcomes) if found[i] != one] == []


async def test_a_text_has_the_same_bits_from_an_engine_with_threads(
    bundle: Bundle, alone: Callable[[str], Alone]
) -> None:
    expected = alone("int8")
    found = await translate_together(bundle, expected)
    assert len(found) >= 200
    for index, translation in found.items():
        (result,) = translation.results
        scores = [float.fromhex(score) for _, _, score in expected.outcomes[index]]
        assert [one.text for one in result.hypotheses] == expected.texts(index)
        assert [one.score for one in result.hypotheses] == scores
        assert [(one.finish_reason.value, one.num_target_tokens) for one in result.hypotheses] == [
            (reason, len(ids)) for ids, reason, _ in expected.outcomes[index]
        ]


async def translate_together(bundle: Bundle, alone: Alone) -> dict[int, Translation]:
    """Every sentence as a call of its own; one in five is cancelled at some tick of the loop."""
    rng = random.Random(3)
    settings = Settings(
        decode_workers=NUM_WORKERS, max_rows=MAX_ROWS, device="cpu", precision="int8"
    )
    engine = TranslationEngine(bundle, settings=settings, metrics=Metrics.create())
    engine.start()
    calls: dict[int, asyncio.Task[Translation]] = {}
    for index, (text, options) in enumerate(zip(alone.sentences, alone.options, strict=True)):
        if len(alone.tokenizer.encode([text])[0]) > engine.limits.max_source_tokens:
            continue
        calls[index] = asyncio.create_task(engine.translate([text], options))
        for _ in range(rng.choice((0, 1, 3, 30))):
            await asyncio.sleep(0)
        if rng.random() < 0.2:
            calls.pop(rng.choice(list(calls))).cancel()
    translations = await asyncio.gather(*calls.values())
    await engine.stop()
    return dict(zip(calls, translations, strict=True))


@pytest.fixture
def leaky_bundle(bundle: Bundle, tmp_path: Path) -> Bundle:
    """The same model, but int8 with one activation scale for all rows of a tensor."""
    from export.bundling import to_numpy
    from export.graphs.products import DynamicProducts
    from export.graphs.translation import TranslationGraphs
    from export.graphs.weights_file import WeightsFile
    from export.seq2seq import Transformer
    from export.weights import load_bundle_model

    folder = tmp_path / "1"
    shutil.copytree(bundle.folder, folder)
    model = load_bundle_model(bundle.folder, Transformer)
    weights = WeightsFile(folder / "int8")
    bias = model.final_logits_bias.detach().numpy()
    graphs = TranslationGraphs(model.config, to_numpy(model), bias, DynamicProducts(), weights)
    graphs.encoder().save(folder / "int8" / "encoder.onnx")
    graphs.decoder().save(folder / "int8" / "decoder.onnx")
    weights.close()
    card = bundle.translation.model_copy(update={"quantized_caches": ()})
    return dataclasses.replace(bundle, folder=folder, card=card)


def test_a_graph_with_one_scale_for_all_rows_is_found_out(
    leaky_bundle: Bundle, sentences: list[str]
) -> None:
    leaky = Alone(leaky_bundle, sentences[:40], "int8")
    found = decode_together(leaky, seed=7)
    assert sum(found[i] != one for i, one in enumerate(leaky.outcomes)) > 20
