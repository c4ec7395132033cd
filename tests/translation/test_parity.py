"""fp32 gives the token ids and scores of Hugging Face `generate` with the same options.

A small model that has learned when to stop decodes 2 000 sentences, all of them greedily and with 4
beams, some hundred under each of many other settings, mixed in the same batches; the default model
decodes some hundred more. A difference is a tie, and allowed, only if float64 scores of both
outputs differ by less than 1e-5: at most 1 in 1 000, each listed.
"""

import os
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
import torch
from sacrebleu.metrics.bleu import BLEU

from export.verify.exactness import (
    SCORE_ERROR,
    Comparison,
    Hypotheses,
    Reference,
    Request,
    compare,
    decode_in_flight,
)
from service.bundle import Bundle
from service.translation.options import DecodingOptions, FinishReason
from service.translation.tokenizer import Tokenizer
from tests.translation.captions import captions
from tests.translation.settings import RULES, SETTINGS, Setting
from tests.translation.toy import make_toy_bundle, with_rules

NUM_SENTENCES, NUM_OF_DEFAULT = 2000, 200
# Of the 2 000, under a setting that is not one of the two plain ones; together they take all.
NUM_A_SETTING = int(os.environ.get("ATTENDANT_TEST_SENTENCES", "500"))
LEAST_CHANGED = 0.05  # of a setting's sentences
LEAST_STOPPED = 0.5  # of all sentences, by the end token and neither at once nor at the limit
NUM_SCORED = 10  # of a setting's sentences, in float64 too
NUM_THREADS = 2
BLEU_OF_INT8 = 80.0  # with fp32's translations as references


def name_of(setting: Setting) -> str:
    return setting.name


NAMED = pytest.mark.parametrize("setting", SETTINGS, ids=name_of)
GREEDY = next(one for one in SETTINGS if one.name == "greedy")


@dataclass
class Tally:
    """What was compared, over all tests of this file."""

    num_compared: int = 0
    ties: list[str] = field(default_factory=list)

    def add(self, name: str, comparison: Comparison) -> None:
        self.num_compared += comparison.num_sentences
        self.ties += [f"{name}: {tie}" for tie in comparison.ties]


@pytest.fixture(scope="module")
def tally() -> Tally:
    return Tally()


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # models this small only wait for their threads


class Toy:
    """The small model under every setting: the answers of both sides, computed once."""

    def __init__(self, folder: Path) -> None:
        bundle = make_toy_bundle(folder)
        self.bundles = {
            name: with_rules(bundle, folder / name, **rules) for name, rules in RULES.items()
        }
        texts = captions(NUM_SENTENCES, seed=2)
        self.sources = Tokenizer.from_bundle(bundle).encode(texts)
        self.reference = cache(
            lambda rules: Reference(self.bundles[rules], num_threads=NUM_THREADS)
        )
        self._found: dict[tuple[str, DecodingOptions], dict[int, Hypotheses]] = defaultdict(dict)
        self._ours = cache(self._decode)

    def window(self, setting: Setting) -> list[int]:
        """The sentences of a setting: all for plain search, a stretch of them for the others."""
        if setting.is_plain or setting == GREEDY:
            return list(range(NUM_SENTENCES))
        start = SETTINGS.index(setting) * NUM_A_SETTING
        return [(start + place) % NUM_SENTENCES for place in range(NUM_A_SETTING)]

    def requests(self, setting: Setting) -> list[Request]:
        return [(self.sources[index], setting.options) for index in self.window(setting)]

    def ours(self, setting: Setting) -> list[Hypotheses]:
        found = self._ours(setting.rules)
        return [found[setting.name, index] for index in self.window(setting)]

    def theirs(self, setting: Setting) -> list[Hypotheses]:
        return self._generate(setting.rules, setting.options, self.window(setting))

    def plainly(self, setting: Setting) -> list[Hypotheses]:
        """What `generate` finds in the same sentences by plain beam search."""
        return self._generate("plain", setting.plainly, self.window(setting))

    def _generate(
        self, rules: str, options: DecodingOptions, window: Sequence[int]
    ) -> list[Hypotheses]:
        known = self._found[rules, options]
        new = [index for index in window if index not in known]
        if new:
            sources = [self.sources[index] for index in new]
            known |= zip(new, self.reference(rules).generate(sources, options), strict=True)
        return [known[index] for index in window]

    def _decode(self, rules: str) -> dict[tuple[str, int], Hypotheses]:
        """All settings of a bundle in one stream: neighbours differ in all that they can."""
        stream = [
            (setting, index)
            for setting in SETTINGS
            if setting.rules == rules
            for index in self.window(setting)
        ]
        random.Random(rules).shuffle(stream)
        requests = [(self.sources[index], setting.options) for setting, index in stream]
        answers = decode_in_flight(self.bundles[rules], requests, num_workers=NUM_THREADS)
        return {
            (setting.name, index): answer
            for (setting, index), answer in zip(stream, answers, strict=True)
        }


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return Toy(tmp_path_factory.mktemp("toy"))


@NAMED
def test_ids_and_scores_are_those_of_generate(setting: Setting, toy: Toy, tally: Tally) -> None:
    requests, reference = toy.requests(setting), toy.reference(setting.rules)
    comparison = compare(reference, requests, toy.ours(setting), toy.theirs(setting))
    tally.add(setting.name, comparison)
    assert comparison.differences == ()


@NAMED
def test_scores_in_float64_are_those_of_generate(setting: Setting, toy: Toy) -> None:
    """What ties are judged by: the same rules in the same order, nothing forgotten."""
    reference = toy.reference(setting.rules)
    found = list(zip(toy.requests(setting), toy.theirs(setting), strict=True))
    for (source, options), hypotheses in found[:NUM_SCORED]:
        for hypothesis in hypotheses:
            exact = reference.exact_score(source, hypothesis.token_ids, options)
            assert exact == pytest.approx(hypothesis.score, abs=SCORE_ERROR)


@pytest.mark.parametrize("setting", [one for one in SETTINGS if not one.is_plain], ids=name_of)
def test_a_setting_is_not_in_vain(setting: Setting, toy: Toy) -> None:
    """A rule that changes nothing is not tested by any number of sentences."""
    changed = [
        ids_of(found, setting) != ids_of(plainly, setting)
        for found, plainly in zip(toy.theirs(setting), toy.plainly(setting), strict=True)
    ]
    assert sum(changed) >= LEAST_CHANGED * len(changed)


def test_half_of_all_sentences_stop_between_three_tokens_and_the_limit(toy: Toy) -> None:
    """Otherwise it would be the limit that stops a search, and not the rules for stopping."""
    stopped = [
        3 <= len(hypotheses[0].token_ids) < setting.options.max_target_tokens
        and hypotheses[0].finish_reason is FinishReason.EOS
        for setting in SETTINGS
        for hypotheses in toy.theirs(setting)
    ]
    assert sum(stopped) >= LEAST_STOPPED * len(stopped)


class Default:
    """The default model: its sentences, and what fp32 makes of them."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.tokenizer = Tokenizer.from_bundle(bundle)
        texts = captions(NUM_OF_DEFAULT, seed=3)
        self.sources = self.tokenizer.encode(texts)
        self.decode = cache(self._decode)

    def requests(self, options: DecodingOptions) -> list[Request]:
        return [(source, options) for source in self.sources]

    def _decode(self, precision: str, options: DecodingOptions) -> list[Hypotheses]:
        requests = self.requests(options)
        return decode_in_flight(self.bundle, requests, precision=precision, num_workers=NUM_THREADS)

    def texts(self, precision: str, options: DecodingOptions) -> list[str]:
        found = self.decode(precision, options)
        return [self.tokenizer.decode(hypotheses[0].token_ids) for hypotheses in found]


@pytest.fixture(scope="module")
def default(bundle: Bundle) -> Default:
    return Default(bundle)


@pytest.mark.parametrize("beam_size", [1, 4])
def test_the_default_model_gives_what_generate_gives(
    beam_size: int, default: Default, tally: Tally
) -> None:
    options = DecodingOptions(beam_size=beam_size, max_target_tokens=32, return_scores=True)
    reference = Reference(default.bundle, num_threads=NUM_THREADS)
    expected = reference.generate(default.sources, options)
    found = default.decode("fp32", options)
    comparison = compare(reference, default.requests(options), found, expected)
    tally.add(f"the default model, beam {beam_size}", comparison)
    assert comparison.differences == ()


@pytest.mark.parametrize("beam_size", [1, 4])
def test_int8_says_nearly_the_same(beam_size: int, default: Default) -> None:
    """Both beside references: `python -m bench.exactness`, which needs a test set."""
    options = DecodingOptions(beam_size=beam_size, max_target_tokens=32, return_scores=True)
    found, expected = (default.texts(precision, options) for precision in ("int8", "fp32"))
    assert BLEU().corpus_score(found, [expected]).score >= BLEU_OF_INT8


def test_ties_are_rarer_than_one_in_a_thousand(
    tally: Tally, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs last: what the tests above have compared."""
    with capsys.disabled():
        print(f" compared {tally.num_compared:,}, ties {len(tally.ties)}", *tally.ties, sep="\n  ")
    assert len(tally.ties) <= tally.num_compared // 1000


def ids_of(hypotheses: Hypotheses, setting: Setting) -> list[list[int]]:
    """Those that the setting should change."""
    looked_at = hypotheses[:1] if setting.seen_in == "best" else hypotheses
    return [hypothesis.token_ids for hypothesis in looked_at]
