"""fp32 gives the token ids and scores of Hugging Face `generate` with the same options.

The reference is a MarianMTModel with the bundle's weights. A difference is a tie, and allowed, only
if float64 scores of both outputs differ by less than TIE: at most 1 in 1 000, each listed.
"""

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from export.marian import to_marian
from export.seq2seq import Transformer
from export.weights import load_bundle_model
from service.bundle import Bundle
from service.translation.options import DecodingOptions, EarlyStopping
from service.translation.processors import TokenRules
from service.translation.runner import Graphs, Runner
from service.translation.sequence import ScoredTokens
from service.translation.tokenizer import Tokenizer
from tests.translation.fakes import Bench, make_sequence

TIE = 1e-5
SCORE_ERROR = 1e-4
RELATIVE_ERROR = 5e-6  # a negative length penalty multiplies the sum of float32 log-probabilities
NUM_PLAIN, NUM_VARIED = 200, 40
BATCH_SIZE = 40
EARLY_STOPPING = {
    EarlyStopping.ALL_FINISHED: True,
    EarlyStopping.HEURISTIC: False,
    EarlyStopping.NEVER: "never",
}
VARIED: list[dict[str, Any]] = [
    {"beam_size": 4, "early_stopping": EarlyStopping.ALL_FINISHED, "num_hypotheses": 4},
    {"beam_size": 3, "early_stopping": EarlyStopping.NEVER, "length_penalty": 2.0},
    {"beam_size": 4, "early_stopping": EarlyStopping.NEVER, "length_penalty": 0.0},
    {"beam_size": 5, "length_penalty": 0.6, "num_hypotheses": 2},
    {"beam_size": 2, "length_penalty": -1.0, "early_stopping": EarlyStopping.NEVER},
    {"beam_size": 3, "repetition_penalty": 1.4, "num_hypotheses": 3},
    {"beam_size": 4, "no_repeat_ngram_size": 2, "early_stopping": EarlyStopping.ALL_FINISHED},
    {"beam_size": 3, "min_target_tokens": 12, "length_penalty": 2.0},
    {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_target_tokens": 6},
]


@dataclass
class Tally:
    """What was compared, over all tests of this file."""

    num_compared: int = 0
    ties: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def tally() -> Tally:
    return Tally()


class Parity:
    """The bundle on ONNX Runtime beside the same weights in transformers."""

    def __init__(self, bundle: Bundle, sentences: SequenceOf[str]) -> None:
        torch.set_num_threads(1)  # a model this small only waits for its threads
        model = load_bundle_model(bundle.folder, Transformer)
        self.marian = to_marian(model.state_dict(), model.config)
        self.exact = model.double()
        self.sources = Tokenizer.from_bundle(bundle).encode(sentences)
        self.tokens = bundle.translation.tokens
        self.runner = Runner(Graphs.open(bundle, "fp32", "cpu"), 48)
        self.rules = TokenRules.from_card(bundle.translation)

    def ours(self, options: DecodingOptions, count: int) -> list[list[ScoredTokens]]:
        """Of each of the first `count` sentences, decoded together."""
        sequences = [make_sequence(source, options) for source in self.sources[:count]]
        Bench(self.runner, rules=self.rules).run(*sequences)
        return [one.finished[: options.num_hypotheses] for one in sequences]

    def theirs(
        self, options: DecodingOptions, count: int
    ) -> list[list[tuple[list[int], float | None]]]:
        """Ids, and scores where `generate` has them: with beams."""
        found: list[list[tuple[list[int], float | None]]] = [[] for _ in range(count)]
        order = sorted(range(count), key=lambda index: len(self.sources[index]))
        for start in range(0, count, BATCH_SIZE):
            batch = order[start : start + BATCH_SIZE]
            outputs = self._generate([self.sources[index] for index in batch], options)
            for place, hypothesis in enumerate(outputs):
                found[batch[place // options.num_hypotheses]].append(hypothesis)
        return found

    def exact_score(
        self, source: SequenceOf[int], target: SequenceOf[int], length_penalty: float
    ) -> float:
        """By the PyTorch model in float64, without any rule."""
        input_ids = torch.tensor([source])
        shifted = torch.tensor([[self.tokens.decoder_start, *target[:-1]]])
        with torch.no_grad():
            logits = self.exact(input_ids, torch.ones_like(input_ids), shifted)[0]  # (T, V)
        chosen = logits.log_softmax(-1)[torch.arange(len(target)), torch.tensor(target)]
        return float(chosen.sum()) / len(target) ** length_penalty

    def _generate(
        self, sources: SequenceOf[SequenceOf[int]], options: DecodingOptions
    ) -> list[tuple[list[int], float | None]]:
        longest = max(map(len, sources))
        padded = [[*ids, *[self.tokens.pad] * (longest - len(ids))] for ids in sources]
        mask = [[1] * len(ids) + [0] * (longest - len(ids)) for ids in sources]
        output = self.marian.generate(
            torch.tensor(padded),
            attention_mask=torch.tensor(mask),
            num_beams=options.beam_size,
            num_return_sequences=options.num_hypotheses,
            max_new_tokens=options.max_target_tokens,
            min_new_tokens=options.min_target_tokens or None,
            repetition_penalty=options.repetition_penalty,
            no_repeat_ngram_size=options.no_repeat_ngram_size,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
            **self._beam_options(options),
        )
        ids = [self._trimmed(row) for row in output.sequences[:, 1:].tolist()]
        scores = output.sequences_scores.tolist() if options.beam_size > 1 else [None] * len(ids)
        return list(zip(ids, scores, strict=True))

    def _beam_options(self, options: DecodingOptions) -> dict[str, Any]:
        if options.beam_size == 1:  # generate warns of what only beams use
            return {}
        return {
            "length_penalty": options.length_penalty,
            "early_stopping": EARLY_STOPPING[options.early_stopping],
        }

    def _trimmed(self, ids: list[int]) -> list[int]:
        """Without the padding behind the end token."""
        return ids[: ids.index(self.tokens.eos) + 1] if self.tokens.eos in ids else ids


@pytest.fixture(scope="module")
def parity(bundle: Bundle, sentences: list[str]) -> Parity:
    return Parity(bundle, sentences)


def compare(parity: Parity, options: DecodingOptions, count: int, tally: Tally) -> None:
    """Every hypothesis of the first `count` sentences; ties go to the tally."""
    for index, (ours, theirs) in enumerate(
        zip(parity.ours(options, count), parity.theirs(options, count), strict=True)
    ):
        assert len(ours) == len(theirs) == options.num_hypotheses
        tally.num_compared += len(ours)
        for found, (ids, score) in zip(ours, theirs, strict=True):
            source = parity.sources[index]
            if found.token_ids != ids:
                scores = [
                    parity.exact_score(source, target, options.length_penalty)
                    for target in (found.token_ids, ids)
                ]
                tally.ties.append(f"{index} {options}: {found.token_ids} {ids} {scores}")
                assert abs(scores[0] - scores[1]) < TIE, tally.ties[-1]
            elif score is not None:
                assert found.score == pytest.approx(score, abs=SCORE_ERROR, rel=RELATIVE_ERROR)
            elif not options.has_processors:
                exact = parity.exact_score(source, ids, options.length_penalty)
                assert found.score == pytest.approx(exact, abs=SCORE_ERROR)


@pytest.mark.parametrize("beam_size", [1, 4])
def test_the_ids_are_those_of_generate(beam_size: int, parity: Parity, tally: Tally) -> None:
    options = DecodingOptions(beam_size=beam_size, max_target_tokens=24, return_scores=True)
    compare(parity, options, NUM_PLAIN, tally)


@pytest.mark.parametrize("given", VARIED, ids=lambda given: "-".join(map(str, given)))
def test_the_ids_are_those_of_generate_with_any_options(
    given: dict[str, Any], parity: Parity, tally: Tally
) -> None:
    options = DecodingOptions(**{"max_target_tokens": 16, "return_scores": True, **given})
    compare(parity, options, NUM_VARIED, tally)


def test_ties_are_rarer_than_one_in_a_thousand(tally: Tally) -> None:
    """Runs last: what the tests above have compared."""
    print(f"compared {tally.num_compared}, ties {len(tally.ties)}", *tally.ties, sep="\n")
    assert len(tally.ties) <= max(1, tally.num_compared // 1000)
