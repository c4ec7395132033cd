"""Greedy and beam search against an enumeration, and against the rules written down plainly."""

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.translation.options import DecodingOptions, EarlyStopping, FinishReason
from service.translation.processors import TokenRules
from service.translation.selection import log_sum_exp, top_tokens
from service.translation.sequence import Sequence
from tests.translation.fakes import (
    EOS,
    RULES,
    START,
    Bench,
    FakeRunner,
    Script,
    make_sequence,
    random_script,
)
from tests.translation.reference import Found, Reference

SOURCE = (5, EOS)


def search(script: Script, options: DecodingOptions, rules: TokenRules = RULES) -> Sequence:
    """Decode one sequence with it alone in the batch."""
    sequence = make_sequence(SOURCE, options)
    runner = FakeRunner(script, max_rows=options.beam_size)
    Bench(runner, rules=rules).run(sequence)
    assert runner.table.num_rows == 0
    assert sequence.error is None
    return sequence


def assert_found(sequence: Sequence, expected: list[Found]) -> None:
    assert [tuple(one.token_ids) for one in sequence.finished] == [one.tokens for one in expected]
    scores = [one.score for one in sequence.finished]
    assert scores == pytest.approx([one.score for one in expected], abs=1e-4, rel=1e-4)


@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(10))
def test_a_beam_as_wide_as_the_search_space_finds_the_best_of_all(
    length_penalty: float, seed: int
) -> None:
    """Four tokens, of which one starts and one ends: 2 + 4 + ... targets, 15 of them at most."""
    script = random_script(4, eos_boost=1.0, seed=seed)
    options = DecodingOptions(
        beam_size=16,
        length_penalty=length_penalty,
        early_stopping=EarlyStopping.NEVER,
        max_target_tokens=3,
        return_scores=True,
    )
    everything = Reference(script, SOURCE, options, RULES).everything()
    assert len(everything) == 1 + 2 + 4 * 3
    assert_found(search(script, options), everything)


def random_case(rng: random.Random) -> tuple[Script, DecodingOptions, TokenRules]:
    """A table, options and rules, with everything that can be set, set at times."""
    vocab_size = rng.choice((6, 9, 30, 200))
    script = random_script(
        vocab_size, eos_boost=rng.choice((0.0, 2.0, 4.0)), seed=rng.getrandbits(32)
    )
    max_target_tokens = rng.randint(1, 10)
    options = DecodingOptions(
        beam_size=rng.choice((1, 2, 3, 4, 5)),
        length_penalty=rng.choice((0.0, 0.6, 1.0, 2.0, -1.0)),
        early_stopping=rng.choice(list(EarlyStopping)),
        max_target_tokens=max_target_tokens,
        min_target_tokens=rng.choice((0, 0, min(3, max_target_tokens), max_target_tokens)),
        repetition_penalty=rng.choice((1.0, 1.0, 1.5, 0.7)),
        no_repeat_ngram_size=rng.choice((0, 0, 1, 2, 3)),
        return_scores=True,
    )
    rules = TokenRules(
        eos=EOS,
        decoder_start=START,
        forced_bos=rng.choice((None, None, None, 4)),
        forced_eos=rng.choice((None, None, EOS)),
        suppressed=rng.choice(((), (), (3,), (1, 3))),
        renormalize=rng.random() < 0.3,
    )
    return script, options, rules


@pytest.mark.parametrize("seed", range(400))
def test_every_search_follows_the_rules(seed: int) -> None:
    script, options, rules = random_case(random.Random(seed))
    reference = Reference(script, SOURCE, options, rules)
    expected = [reference.greedy()] if options.beam_size == 1 else reference.beams()
    assert_found(search(script, options, rules), expected)


@pytest.mark.parametrize("seed", range(60))
def test_each_sequence_of_a_batch_follows_the_rules_of_its_own_language(seed: int) -> None:
    """Greedy ones and beams, each with a start and a first token of its own, or with neither."""
    rng = random.Random(seed)
    script, _, shared = random_case(rng)
    sequences, expected = [], []
    for _ in range(6):
        _, options, _ = random_case(rng)
        rules = replace(
            shared, decoder_start=rng.choice((START, 3, 4)), forced_bos=rng.choice((None, 3, 4, 5))
        )
        sequence = make_sequence(SOURCE, options)
        sequence.rules = rng.choice((rules, None))
        reference = Reference(script, SOURCE, options, sequence.rules or shared)
        sequences.append(sequence)
        expected.append([reference.greedy()] if options.beam_size == 1 else reference.beams())
    Bench(FakeRunner(script), rules=shared).run(*sequences)
    for sequence, found in zip(sequences, expected, strict=True):
        assert_found(sequence, found)


@pytest.mark.parametrize("early_stopping", list(EarlyStopping))
@pytest.mark.parametrize("length_penalty", [-1.0, -0.3, 0.0, 0.6, 1.0, 2.0])
def test_the_search_stops_when_its_rule_says_so(
    early_stopping: EarlyStopping, length_penalty: float
) -> None:
    """Tables in which hypotheses end at many lengths, so that the rules differ."""
    for seed in range(30):
        script = random_script(30, eos_boost=3.0, seed=seed)
        options = DecodingOptions(
            beam_size=2 + seed % 2,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
            max_target_tokens=20,
            return_scores=True,
        )
        assert_found(search(script, options), Reference(script, SOURCE, options, RULES).beams())


@pytest.mark.parametrize("length_penalty", [-1.0, 0.0])
def test_a_penalty_that_favours_short_ones_is_judged_at_the_present_length(
    length_penalty: float,
) -> None:
    """Two poor hypotheses end first, a far better one at once behind them: the bound at the
    longest length would have stopped before it."""

    def script(source: tuple[int, ...], target: tuple[int, ...]) -> NDArray[np.float32]:
        end = 0.08 if len(target) < 3 else 0.97
        probabilities = np.array([1e-9, 0.01, end, 0.98 - end, 0.01])
        return np.log(probabilities / probabilities.sum()).astype(np.float32)

    options = DecodingOptions(
        beam_size=2,
        length_penalty=length_penalty,
        early_stopping=EarlyStopping.NEVER,
        max_target_tokens=40,
    )
    sequence = search(script, options)
    assert sequence.finished[0].token_ids == [3, 3, EOS]
    assert_found(sequence, Reference(script, SOURCE, options, RULES).beams())


def test_sequences_of_all_kinds_in_one_batch_follow_the_rules() -> None:
    rng = random.Random(5)
    script, _, rules = random_case(rng)
    runner = FakeRunner(script, max_rows=40)
    bench = Bench(runner, rules=rules)
    sequences = []
    for number in range(60):
        _, options, _ = random_case(rng)
        sequences.append(make_sequence((number, EOS), options))
    bench.run(*sequences)
    for number, sequence in enumerate(sequences):
        reference = Reference(script, (number, EOS), sequence.options, rules)
        is_greedy = sequence.beam_size == 1
        assert_found(sequence, [reference.greedy()] if is_greedy else reference.beams())


@pytest.mark.parametrize("width", [4, 63, 64, 65, 127, 129, 1000, 5000])
@pytest.mark.parametrize("count", [1, 2, 4, 10])
def test_the_top_tokens_are_those_of_a_full_sort(width: int, count: int) -> None:
    count = min(count, width)
    scores = np.random.default_rng(width).normal(size=(7, width)).astype(np.float32)
    scores[1, : width // 2] = -np.inf
    scores[2, -1] = 100.0
    scores[3, 0] = 100.0
    values, tokens = top_tokens(scores, count)
    assert (np.take_along_axis(scores, tokens, axis=1) == values).all()
    assert (np.sort(values, axis=1) == np.sort(scores, axis=1)[:, width - count :]).all()
    assert all(len(set(row)) == count for row in tokens.tolist())


def test_a_row_without_any_possible_token_has_no_logarithm_of_zero() -> None:
    scores = np.array([[-np.inf, -np.inf], [0.0, 0.0]], np.float32)
    assert np.isfinite(log_sum_exp(scores)).all()
    assert log_sum_exp(scores)[1] == pytest.approx(np.log(2))


@pytest.mark.parametrize("length_penalty", [-3e38, -2000.0, 2000.0, 3e38])
@pytest.mark.parametrize("early_stopping", list(EarlyStopping))
@pytest.mark.parametrize("beam_size", [1, 4])
def test_an_extreme_length_penalty_gives_an_answer(
    length_penalty: float, early_stopping: EarlyStopping, beam_size: int
) -> None:
    options = DecodingOptions(
        beam_size=beam_size,
        length_penalty=length_penalty,
        early_stopping=early_stopping,
        max_target_tokens=6,
        return_scores=True,
    )
    sequence = search(random_script(30), options)
    assert 1 <= len(sequence.finished[0].token_ids) <= 6


@pytest.mark.parametrize("beam_size", [1, 3])
@pytest.mark.parametrize("renormalize", [False, True])
def test_rules_that_forbid_every_token_give_what_there_is(
    beam_size: int, renormalize: bool
) -> None:
    """No token twice, and no end before the limit: six tokens are used up before."""
    options = DecodingOptions(
        beam_size=beam_size,
        max_target_tokens=10,
        min_target_tokens=10,
        no_repeat_ngram_size=1,
        return_scores=True,
    )
    rules = TokenRules(eos=EOS, decoder_start=START, renormalize=renormalize)
    best = search(random_script(8), options, rules).finished[0]
    assert sorted(best.token_ids) == [1, 3, 4, 5, 6, 7]
    assert best.finish_reason is FinishReason.LENGTH
    assert np.isfinite(best.score)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_rules_that_forbid_even_the_first_token_give_an_empty_answer(beam_size: int) -> None:
    rules = TokenRules(eos=EOS, decoder_start=START, suppressed=tuple(range(8)))
    options = DecodingOptions(beam_size=beam_size, return_scores=True)
    best = search(random_script(8), options, rules).finished[0]
    assert best.token_ids == []
    assert best.score == 0.0


@pytest.mark.parametrize("beam_size", [1, 3])
def test_a_model_that_allows_no_token_has_given_its_answer(beam_size: int) -> None:
    def script(source: tuple[int, ...], target: tuple[int, ...]) -> NDArray[np.float32]:
        logits = np.full(8, -np.inf, np.float32)
        if len(target) < 3:  # with the start token
            logits[4:] = 0.0
        return logits

    options = DecodingOptions(beam_size=beam_size, max_target_tokens=10)
    best = search(script, options).finished[0]
    assert len(best.token_ids) == 2
    assert best.finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize("beam_size", [1, 4])
def test_an_answer_says_how_it_ended(beam_size: int) -> None:
    def reason(**given: Any) -> FinishReason:
        options = DecodingOptions(beam_size=beam_size, **given)
        return search(random_script(30, eos_boost=8.0), options).finished[0].finish_reason

    assert reason(max_target_tokens=20) is FinishReason.EOS
    assert reason(max_target_tokens=3, min_target_tokens=3) is FinishReason.LENGTH


def test_without_rules_one_beam_is_what_greedy_search_finds() -> None:
    script = random_script(50, eos_boost=2.0)
    options = DecodingOptions(beam_size=1, max_target_tokens=12, return_scores=True)
    assert_found(search(script, options), Reference(script, SOURCE, options, RULES).beams())
