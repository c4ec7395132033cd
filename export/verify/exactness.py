"""The server's search beside Hugging Face's `generate`: token ids and scores, sentence by sentence.

The reference is a MarianMTModel with the bundle's weights and the rules of its card; the sentences
go through the server's decode workers, many in a batch, each joining when others have left. Where
the ids differ, the two answers tie if their scores under the model in float64, with the same rules,
differ by less than TIE; every tie is listed.
Letters: B sentences, K beams, T target length, V vocabulary.
"""

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from export.marian import to_marian
from export.seq2seq import Transformer
from export.weights import load_bundle_model
from service.bundle import Bundle
from service.metrics import Metrics
from service.translation.graphs import Graphs
from service.translation.measures import TranslationMeasures
from service.translation.options import DecodingOptions, EarlyStopping, FinishReason
from service.translation.processors import TokenRules
from service.translation.runner import Runner
from service.translation.scheduler import Scheduler
from service.translation.sequence import ScoredTokens, Sequence
from service.translation.worker import DecodeWorker, StepResults

TIE = 1e-5
# Scores are sums of float32 log-probabilities, which a small length penalty multiplies.
SCORE_ERROR, RELATIVE_SCORE_ERROR = 1e-4, 5e-6
ROWS_A_BATCH = 128  # of the reference; more take longer each, as their caches are copied each step
MAX_ROWS = 64
ENCODE_TOKENS_PER_STEP = 1024
EARLY_STOPPING = {
    EarlyStopping.ALL_FINISHED: True,
    EarlyStopping.HEURISTIC: False,
    EarlyStopping.NEVER: "never",
}

Request = tuple[SequenceOf[int], DecodingOptions]  # source ids, the end token last
Hypotheses = list[ScoredTokens]  # of one sentence, best first


def decode_in_flight(
    bundle: Bundle,
    requests: SequenceOf[Request],
    *,
    precision: str = "fp32",
    num_workers: int = 1,
    max_rows: int = MAX_ROWS,
) -> list[Hypotheses]:
    """Decode all requests in the server's workers, each on a thread of its own.

    So many rows a worker are full from the first step to nearly the last: requests join in their
    order, at whatever step others leave.
    """
    rules = TokenRules.from_card(bundle.translation)
    graphs = Graphs.open(bundle, precision, "cpu")
    scheduler = Scheduler(num_workers=num_workers, encode_tokens_per_step=ENCODE_TOKENS_PER_STEP)
    measures = TranslationMeasures(Metrics.create(), bundle.name)
    workers = [
        DecodeWorker(Runner(graphs, max_rows), scheduler, rules, measures, _ignore)
        for _ in range(num_workers)
    ]
    sequences = [
        Sequence(np.array(source, np.int64), options, _Nobody()) for source, options in requests
    ]
    scheduler.add(sequences)
    scheduler.close()  # the workers end when there is nothing left
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for sequence in sequences:
        if sequence.error is not None:
            raise sequence.error
    return [one.finished[: one.options.num_hypotheses] for one in sequences]


class _Nobody:
    """The receiver of a sequence that is looked at when all are done."""

    def finish(self, sequence: Sequence) -> None:
        pass

    def extend(self, sequence: Sequence, token_ids: list[int]) -> None:
        pass


def _ignore(results: StepResults) -> None:
    pass


class Reference:
    """A bundle's weights and rules in transformers, and in float64."""

    def __init__(self, bundle: Bundle, *, num_threads: int = 1) -> None:
        model = load_bundle_model(bundle.folder, Transformer)
        # Any: its annotations leave open what `generate` returns.
        self._marian: Any = to_marian(model.state_dict(), model.config)
        self._exact = model.double()
        self._tokens = bundle.translation.tokens
        self._rules = TokenRules.from_card(bundle.translation)
        self._num_threads = num_threads

    def generate(
        self, sources: SequenceOf[SequenceOf[int]], options: DecodingOptions
    ) -> list[Hypotheses]:
        """What `generate` answers to every source."""
        size = max(1, ROWS_A_BATCH // options.beam_size)
        order = sorted(range(len(sources)), key=lambda index: len(sources[index]))
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        found: list[Hypotheses] = [[] for _ in sources]
        with ThreadPoolExecutor(self._num_threads) as pool:
            answers = pool.map(
                lambda batch: self._generate([sources[index] for index in batch], options), batches
            )
            for batch, hypotheses in zip(batches, answers, strict=True):
                for place, hypothesis in enumerate(hypotheses):
                    found[batch[place // options.num_hypotheses]].append(hypothesis)
        return found

    def exact_score(
        self, source: SequenceOf[int], target: SequenceOf[int], options: DecodingOptions
    ) -> float:
        """The score of a target, in float64 and with transformers' own rules."""
        input_ids = torch.tensor([source])
        history = torch.tensor([[self._rules.decoder_start, *target]])  # (1, 1 + T)
        with torch.no_grad():
            logits = self._exact(input_ids, torch.ones_like(input_ids), history[:, :-1])[0]
        process = self._processors(options)
        total = 0.0
        for step, (scores, token) in enumerate(zip(logits[:, None], target, strict=True)):
            if options.beam_size > 1:
                scores = process(history[:, : step + 1], scores.log_softmax(-1))  # (1, V)
            else:
                scores = process(history[:, : step + 1], scores).log_softmax(-1)
            total += float(scores[0, token])
        score: float = total / len(target) ** options.length_penalty
        return score

    def _generate(
        self, sources: SequenceOf[SequenceOf[int]], options: DecodingOptions
    ) -> Hypotheses:
        longest = max(map(len, sources))
        padded = [[*ids, *[self._tokens.pad] * (longest - len(ids))] for ids in sources]
        mask = [[1] * len(ids) + [0] * (longest - len(ids)) for ids in sources]
        output = self._marian.generate(
            torch.tensor(padded),  # (B, S)
            attention_mask=torch.tensor(mask),
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
            **_generation_options(options, self._rules),
        )
        targets = [self._trimmed(row) for row in output.sequences[:, 1:].tolist()]
        if options.beam_size > 1:
            scores = output.sequences_scores.tolist()
        else:
            scores = _greedy_scores(targets, output.scores, options.length_penalty)
        return [self._found(*pair) for pair in zip(targets, scores, strict=True)]

    def _trimmed(self, ids: list[int]) -> list[int]:
        """Without the padding behind the end token."""
        return ids[: ids.index(self._tokens.eos) + 1] if self._tokens.eos in ids else ids

    def _found(self, target: list[int], score: float) -> ScoredTokens:
        is_end = target[-1] == self._tokens.eos
        return ScoredTokens(score, target, FinishReason.EOS if is_end else FinishReason.LENGTH)

    def _processors(self, options: DecodingOptions) -> Callable[[Tensor, Tensor], Tensor]:
        """Those that `generate` uses with these options, in its order."""
        import transformers

        rules = self._rules
        found: Any = transformers.LogitsProcessorList()
        if options.repetition_penalty != 1.0:
            found.append(transformers.RepetitionPenaltyLogitsProcessor(options.repetition_penalty))
        if options.no_repeat_ngram_size:
            found.append(transformers.NoRepeatNGramLogitsProcessor(options.no_repeat_ngram_size))
        if options.min_target_tokens:
            found.append(
                transformers.MinNewTokensLengthLogitsProcessor(
                    1, options.min_target_tokens, rules.eos
                )
            )
        if rules.forced_bos is not None:
            found.append(transformers.ForcedBOSTokenLogitsProcessor(rules.forced_bos))
        if rules.forced_eos is not None:
            longest = options.max_target_tokens + 1  # the start token counts
            found.append(transformers.ForcedEOSTokenLogitsProcessor(longest, rules.forced_eos))
        if rules.suppressed:
            found.append(transformers.SuppressTokensLogitsProcessor(list(rules.suppressed)))
        if rules.renormalize:
            found.append(transformers.LogitNormalization())
        processors: Callable[[Tensor, Tensor], Tensor] = found
        return processors


def _generation_options(options: DecodingOptions, rules: TokenRules) -> dict[str, Any]:
    """Ours under the names of `generate`."""
    found: dict[str, Any] = {
        "num_beams": options.beam_size,
        "num_return_sequences": options.num_hypotheses,
        "max_new_tokens": options.max_target_tokens,
        "min_new_tokens": options.min_target_tokens or None,
        "repetition_penalty": options.repetition_penalty,
        "no_repeat_ngram_size": options.no_repeat_ngram_size,
        "forced_bos_token_id": rules.forced_bos,
        "forced_eos_token_id": rules.forced_eos,
        "suppress_tokens": list(rules.suppressed) or None,
        "renormalize_logits": rules.renormalize,
    }
    if options.beam_size > 1:  # generate warns of what only beams use
        found["length_penalty"] = options.length_penalty
        found["early_stopping"] = EARLY_STOPPING[options.early_stopping]
    return found


def _greedy_scores(
    targets: SequenceOf[SequenceOf[int]],
    logits: SequenceOf[Tensor],
    length_penalty: float,
) -> list[float]:
    """`generate` has scores of beams alone; these are of the logits (B, V) of its steps."""
    totals = torch.zeros(len(targets), dtype=torch.float64)
    for step, values in enumerate(logits):
        running = [index for index, target in enumerate(targets) if len(target) > step]
        tokens = [targets[index][step] for index in running]
        log_probabilities = values[running].double().log_softmax(-1)  # (running, V)
        totals[running] += log_probabilities[torch.arange(len(running)), tokens]
    scores: list[float] = [
        float(total) / len(target) ** length_penalty
        for total, target in zip(totals, targets, strict=True)
    ]
    return scores


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the comparison of some sentences found; ties and differences as lines to be read."""

    num_sentences: int
    ties: tuple[str, ...]
    differences: tuple[str, ...]  # of ids, of scores or of the number of hypotheses
    largest_score_error: float  # of hypotheses with the same ids

    @property
    def num_identical(self) -> int:
        """Sentences whose hypotheses all have the ids and scores of the reference."""
        return self.num_sentences - len(self.ties) - len(self.differences)


def compare(
    reference: Reference,
    requests: SequenceOf[Request],
    ours: SequenceOf[Hypotheses],
    theirs: SequenceOf[Hypotheses],
) -> Comparison:
    """Compare every hypothesis of every sentence."""
    ties: list[str] = []
    differences: list[str] = []
    errors = [0.0]
    answers = zip(requests, ours, theirs, strict=True)
    for index, (request, found, expected) in enumerate(answers):
        complaints, is_tie = _compare_one(reference, request, found, expected)
        errors += [
            abs(a.score - b.score)
            for a, b in zip(found, expected, strict=False)
            if a.token_ids == b.token_ids
        ]
        if complaints:
            (ties if is_tie else differences).append(f"sentence {index}: {'; '.join(complaints)}")
    return Comparison(len(requests), tuple(ties), tuple(differences), max(errors))


def _compare_one(
    reference: Reference, request: Request, found: Hypotheses, expected: Hypotheses
) -> tuple[list[str], bool]:
    """What differs in one sentence, and whether all of it ties."""
    if len(found) != len(expected):
        return [f"{len(found)} hypotheses, not {len(expected)}"], False
    complaints, is_tie = [], True
    for one, other in zip(found, expected, strict=True):
        if one.token_ids != other.token_ids:
            pair = [
                reference.exact_score(request[0], x.token_ids, request[1]) for x in (one, other)
            ]
            is_tie &= abs(pair[0] - pair[1]) < TIE
            complaints.append(
                f"{one.token_ids} has {pair[0]:.7f}, {other.token_ids} {pair[1]:.7f} in float64"
            )
        elif not _close(one.score, other.score) or one.finish_reason != other.finish_reason:
            is_tie = False
            complaints.append(f"the score of {one.token_ids} is {one.score}, not {other.score}")
    return complaints, is_tie


def _close(score: float, expected: float) -> bool:
    return abs(score - expected) <= SCORE_ERROR + RELATIVE_SCORE_ERROR * abs(expected)
