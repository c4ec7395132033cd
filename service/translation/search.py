"""Greedy and beam search: from the logits of one step to the tokens of the next.

Token ids and scores are those of Hugging Face `generate` (version 5) with the same options. Both
searches advance all their sequences at once; neither knows the model, text, or who waits.
Letters: N sequences, K beams, R rows, C candidates a row, V vocabulary.
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from service.translation.options import DecodingOptions, EarlyStopping, FinishReason
from service.translation.processors import TokenRules, needs_processing, process
from service.translation.rows import RowTable
from service.translation.selection import Floats, Ints, log_sum_exp, top_tokens
from service.translation.sequence import ScoredTokens, Sequence


class Candidate(NamedTuple):
    """A beam of a sequence with one more token."""

    score: np.float32
    beam: int
    token_id: int


@dataclass(slots=True)
class Candidates:
    """Continuations of N sequences, best first: three arrays (N, ...) of one shape."""

    scores: Floats
    beams: Ints  # 0 to K - 1; -1: none
    tokens: Ints

    def of(self, indices: list[int]) -> "Candidates":
        """Those of some of the sequences."""
        return Candidates(self.scores[indices], self.beams[indices], self.tokens[indices])

    def row(self, index: int) -> list[Candidate]:
        """Those of one sequence."""
        beams, tokens = self.beams[index].tolist(), self.tokens[index].tolist()
        return list(map(Candidate, self.scores[index], beams, tokens))

    def first(self, count: int) -> "Candidates":
        """The first so many of each."""
        return Candidates(self.scores[:, :count], self.beams[:, :count], self.tokens[:, :count])

    def put_first(self, index: int, ranks: list[int], count: int) -> None:
        """In place: the first `count` of one sequence are those at these ranks, then dead beams."""
        for array, none in ((self.scores, -np.inf), (self.beams, -1), (self.tokens, 0)):
            kept = array[index, ranks]
            array[index, :count] = none
            array[index, : len(ranks)] = kept


class StepOutput(Protocol):
    """Whoever made the logits and keeps the self-attention caches of the rows."""

    def best_tokens(self, rows: Ints, count: int) -> tuple[Floats, Ints]:
        """The `count` largest log-probabilities of each of these rows, best first, and their
        tokens: twice (len(rows), count), by the logits as they are now."""

    def copy_rows(self, sources: Ints, targets: Ints, lengths: Ints) -> None:
        """Let each target have seen the first `length` target tokens of its source."""


class Search:
    """Both searches over the rows of one table."""

    def __init__(self, table: RowTable, rules: TokenRules, output: StepOutput) -> None:
        self._greedy = GreedySearch(table, rules)
        self._beam = BeamSearch(table, rules, output)
        self._table = table

    def advance(self, sequences: SequenceOf[Sequence], logits: Floats) -> None:
        """Choose a token for every row, from logits (R, V), which may be changed.

        Sequences that are done afterwards have `is_done` set and all their hypotheses.
        """
        widths: defaultdict[int, list[Sequence]] = defaultdict(list)
        for sequence in sequences:
            widths[sequence.beam_size].append(sequence)
        for beam_size, group in widths.items():
            search = self._greedy if beam_size == 1 else self._beam
            search.advance(group, logits)

    def stable_tokens(self, sequence: Sequence) -> list[int]:
        """The target tokens of an unfinished sequence that no further step can change."""
        table = self._table
        alive = [row for row in sequence.rows if table.scores[row] > -np.inf]
        first = table.history[alive[0], 1 : table.lengths[alive[0]] + 1]
        count = len(first)
        others = [table.history[row, 1 : table.lengths[row] + 1] for row in alive[1:]]
        # Of the finished only the best can still be the answer.
        others += [np.array(best.token_ids) for best in sequence.finished[:1]]
        for other in others:
            shared = min(count, len(other))
            differences = np.flatnonzero(first[:shared] != other[:shared])
            count = int(differences[0]) if len(differences) else shared
        stable: list[int] = first[:count].tolist()
        return stable


class GreedySearch:
    """The most probable token, always; rules act on raw logits."""

    def __init__(self, table: RowTable, rules: TokenRules) -> None:
        self._table = table
        self._rules = rules

    def advance(self, sequences: SequenceOf[Sequence], logits: Floats) -> None:
        """Give each of the N sequences one more token.

        Row by row and in plain Python: a decode step leaves nothing of NumPy's in the processor's
        caches, and then each of its functions takes microseconds (bench/RESULTS.md).
        """
        table = self._table
        rows = [sequence.rows[0] for sequence in sequences]
        lengths = table.next_lengths(sequences)
        self._apply_rules(sequences, rows, lengths, logits)
        tokens = _likeliest(rows, logits)
        for sequence, value in zip(sequences, logits[rows, tokens].tolist(), strict=True):
            if value == -math.inf:
                _give_up(sequence, table)
        self._add_scores(sequences, rows, tokens, logits)
        for sequence, row, length, token in zip(sequences, rows, lengths, tokens, strict=True):
            if sequence.is_done:
                continue
            table.lengths[row] = length
            table.tokens[row, 0] = token
            table.history[row, length] = token
            if token == self._rules.eos or length >= sequence.options.max_target_tokens:
                self._finish(sequence)

    def _apply_rules(
        self, sequences: SequenceOf[Sequence], rows: list[int], lengths: list[int], logits: Floats
    ) -> None:
        rules = self._rules
        if too_short := _too_short(sequences, lengths):
            logits[[rows[n] for n in too_short], rules.eos] = -np.inf
        for sequence, row, length in zip(sequences, rows, lengths, strict=True):
            options, own = sequence.options, sequence.rules or rules
            if needs_processing(options, own, length):
                process(logits[row], self._table.history[row, :length], options, own)
        if rules.suppressed:
            logits[np.ix_(rows, rules.suppressed)] = -np.inf

    def _add_scores(
        self, sequences: SequenceOf[Sequence], rows: list[int], tokens: list[int], logits: Floats
    ) -> None:
        wanted = [
            (row, token)
            for sequence, row, token in zip(sequences, rows, tokens, strict=True)
            if sequence.options.return_scores and not sequence.is_done
        ]
        if wanted:
            scored, chosen = map(list, zip(*wanted, strict=True))
            self._table.scores[scored] += logits[scored, chosen] - log_sum_exp(logits[scored])

    def _finish(self, sequence: Sequence) -> None:
        row = sequence.rows[0]
        length = int(self._table.lengths[row])
        token_ids = self._table.history[row, 1 : length + 1].tolist()
        score = _normalised(self._table.scores[row], length, sequence.options.length_penalty)
        reason = FinishReason.EOS if token_ids[-1] == self._rules.eos else FinishReason.LENGTH
        sequence.finished = [ScoredTokens(score, token_ids, reason)]
        sequence.is_done = True


class BeamSearch:
    """The best K continuations of K beams; rules act on log-probabilities."""

    def __init__(self, table: RowTable, rules: TokenRules, output: StepOutput) -> None:
        self._table = table
        self._rules = rules
        self._output = output

    def advance(self, sequences: SequenceOf[Sequence], logits: Floats) -> None:
        """Give each beam of the N sequences, all of one beam size K, one more token."""
        rows = np.array([sequence.rows for sequence in sequences])  # (N, K)
        lengths = self._table.next_lengths(sequences)
        candidates = self._candidates(sequences, rows, lengths, logits)
        self._finish_some(sequences, lengths, candidates)
        self._table.lengths[rows] += 1  # of sequences that are done too: their tokens are counted
        going_on = [n for n, sequence in enumerate(sequences) if not sequence.is_done]
        if len(going_on) < len(sequences):
            sequences = [sequences[n] for n in going_on]
            rows, candidates = rows[going_on], candidates.of(going_on)
        self._continue(sequences, rows, candidates.first(rows.shape[1]))

    def _candidates(
        self, sequences: SequenceOf[Sequence], rows: Ints, lengths: list[int], logits: Floats
    ) -> "Candidates":
        """The best 2K continuations of each: even if the best K all end, K others remain."""
        num_sequences, beam_size = rows.shape
        scores, tokens = self._continuations(sequences, rows, lengths, logits)  # (N, K, C)
        width = scores.shape[2]
        scores = scores.reshape(num_sequences, -1)  # (N, K * C)
        tokens = tokens.reshape(num_sequences, -1)
        order = (-scores).argsort(axis=1, kind="stable")[:, : 2 * beam_size]  # (N, 2K)
        each = np.arange(num_sequences)[:, None]
        return Candidates(scores[each, order], order // width, tokens[each, order])

    def _continuations(
        self, sequences: SequenceOf[Sequence], rows: Ints, lengths: list[int], logits: Floats
    ) -> tuple[Floats, Ints]:
        """Accumulated scores and tokens (N, K, C) of the best continuations of every beam."""
        rules = self._rules
        changed = list(self._changed_scores(sequences, lengths, logits))
        too_short = _too_short(sequences, lengths)
        if rules.renormalize:  # what may be chosen has all of the probability
            logits[rows[too_short], rules.eos] = -np.inf
            logits[rows[:, :, None], list(rules.suppressed)] = -np.inf
        count = self._num_needed(rows.shape[1], logits.shape[1])
        values, tokens = self._output.best_tokens(rows.ravel(), count)  # (N * K, C)
        values, tokens = values.reshape(*rows.shape, count), tokens.reshape(*rows.shape, count)
        if too_short:
            values[too_short] = np.where(tokens[too_short] == rules.eos, -np.inf, values[too_short])
        if rules.suppressed:
            values[np.isin(tokens, rules.suppressed)] = -np.inf
        for n, beam, scores in changed:
            values[n, beam], tokens[n, beam] = top_tokens(scores[None], count)
        return values + self._table.scores[rows][:, :, None], tokens

    def _num_needed(self, beam_size: int, vocab_size: int) -> int:
        """So many of a row's best tokens that 2K of them are allowed, whichever rules forbid."""
        forbidden = 1 + len(self._rules.suppressed)  # the end token may be too early
        return min(2 * beam_size + forbidden, vocab_size)

    def _changed_scores(
        self, sequences: SequenceOf[Sequence], lengths: list[int], logits: Floats
    ) -> Iterator[tuple[int, int, Floats]]:
        """Sequence, beam, and log-probabilities (V,), where rules change them."""
        for n, (sequence, length) in enumerate(zip(sequences, lengths, strict=True)):
            if needs_processing(sequence.options, sequence.rules or self._rules, length):
                for beam, row in enumerate(sequence.rows):
                    history = self._table.history[row, :length]
                    yield n, beam, self._process(logits[row], history, sequence)

    def _process(self, logits: Floats, history: Ints, sequence: Sequence) -> Floats:
        """Log-probabilities after all rules, (V,), of one beam's logits (V,)."""
        scores: Floats = logits - log_sum_exp(logits[None])
        process(scores, history, sequence.options, sequence.rules or self._rules)
        if self._rules.suppressed:
            scores[list(self._rules.suppressed)] = -np.inf
        if self._rules.renormalize:
            scores -= log_sum_exp(scores[None])
        return scores

    def _finish_some(
        self, sequences: SequenceOf[Sequence], lengths: list[int], candidates: "Candidates"
    ) -> None:
        """Let beams end; the first K candidates are then the beams that go on."""
        beam_size = sequences[0].beam_size
        tokens = candidates.tokens[:, :beam_size].tolist()
        worst = candidates.scores[:, beam_size - 1].tolist()
        for n, (sequence, length) in enumerate(zip(sequences, lengths, strict=True)):
            if (
                self._rules.eos in tokens[n]
                or worst[n] == -math.inf
                or length >= sequence.options.max_target_tokens
                or len(sequence.finished) == beam_size
            ):
                ranks = self._advance_one(sequence, length, candidates.row(n))
                candidates.put_first(n, ranks, beam_size)

    def _advance_one(
        self, sequence: Sequence, length: int, candidates: SequenceOf[Candidate]
    ) -> list[int]:
        """Finish beams of one sequence; returns the ranks of the candidates that go on."""
        at_limit = length >= sequence.options.max_target_tokens
        going_on: list[int] = []
        for rank, candidate in enumerate(candidates):
            if candidate.score == -np.inf:
                break
            if at_limit or candidate.token_id == self._rules.eos:
                if rank < sequence.beam_size:
                    self._finish(sequence, candidate, length)
            elif len(going_on) < sequence.beam_size:
                going_on.append(rank)
        if not going_on and not sequence.finished:
            _give_up(sequence, self._table)
        sequence.is_done = not going_on or _cannot_improve(
            sequence, candidates[going_on[0]].score, length
        )
        return going_on

    def _finish(self, sequence: Sequence, candidate: Candidate, length: int) -> None:
        row = sequence.rows[candidate.beam]
        token_ids = [*self._table.history[row, 1:length].tolist(), candidate.token_id]
        score = _normalised(candidate.score, length, sequence.options.length_penalty)
        is_end = candidate.token_id == self._rules.eos
        reason = FinishReason.EOS if is_end else FinishReason.LENGTH
        sequence.add_finished(ScoredTokens(score, token_ids, reason))

    def _continue(
        self, sequences: SequenceOf[Sequence], rows: Ints, children: "Candidates"
    ) -> None:
        """Give the children (N, K) their rows, and write their tokens."""
        table = self._table
        rows = self._inherit(rows, children.beams)
        table.scores[rows] = children.scores
        table.tokens[rows, 0] = children.tokens
        table.history[rows, table.lengths[rows]] = children.tokens
        for sequence, own in zip(sequences, rows.tolist(), strict=True):
            sequence.rows = own

    def _inherit(self, rows: Ints, parents: Ints) -> Ints:
        """The best child of a beam keeps its row; further ones are copied into dead beams' rows.

        rows (N, K) of the beams, parents (N, K) of the children, -1 for none -> rows (N, K).
        """
        beam_size = rows.shape[1]
        children = parents[:, :, None] == np.arange(beam_size)  # (N, K, K), of which beam
        dead = ~children.any(axis=1)  # (N, K) beams without a child
        heirs = children.argmax(axis=1)  # (N, K) the best child of each beam
        each = np.arange(len(rows))[:, None]
        moved = heirs[each, parents] != np.arange(beam_size)  # (N, K): as many as are dead
        moved |= parents < 0
        inherited = rows[each, parents]
        copied = parents[moved] >= 0
        sources, targets = inherited[moved][copied], rows[dead][copied]
        if len(sources):
            lengths = self._table.lengths[sources]  # with the token that this step cached
            self._output.copy_rows(sources, targets, lengths)
            longest = int(lengths.max())
            self._table.history[targets, :longest] = self._table.history[sources, :longest]
        inherited[moved] = rows[dead]
        return inherited


def _likeliest(rows: list[int], logits: Floats) -> list[int]:
    """The token of the largest logit of each of these rows."""
    some = len(rows) < len(logits)
    tokens: list[int] = (logits[rows] if some else logits).argmax(axis=1).tolist()
    return tokens if some else [tokens[row] for row in rows]


def _too_short(sequences: SequenceOf[Sequence], lengths: list[int]) -> list[int]:
    """Which of the sequences may not end with the token that makes them so long."""
    return [
        n
        for n, (sequence, length) in enumerate(zip(sequences, lengths, strict=True))
        if length <= sequence.options.min_target_tokens
    ]


def _give_up(sequence: Sequence, table: RowTable) -> None:
    """Rules forbid every token: the best beam as it stands is the answer."""
    row = sequence.rows[0]
    length = int(table.lengths[row])
    token_ids = table.history[row, 1 : length + 1].tolist()
    score = _normalised(table.scores[row], max(length, 1), sequence.options.length_penalty)
    sequence.finished = [ScoredTokens(score, token_ids, FinishReason.LENGTH)]
    sequence.is_done = True


def _normalised(log_probability: np.float32, length: int, length_penalty: float) -> float:
    """log P(Y|X) / |Y|^length_penalty, as Hugging Face scores (Wu et al. 2016 use another form)."""
    with np.errstate(all="ignore"):  # any finite penalty is legal: 2 ** 2000 is infinity
        score = log_probability / np.float32(np.float64(length) ** length_penalty)
    if math.isfinite(score):
        return float(score)
    return float(np.nan_to_num(score))  # extreme penalties give the largest finite score


def _cannot_improve(sequence: Sequence, best_running: np.float32, length: int) -> bool:
    """Whether the search may stop, by the sequence's own rule (Hugging Face's early_stopping)."""
    options: DecodingOptions = sequence.options
    if len(sequence.finished) < sequence.beam_size:
        return False
    if options.early_stopping is EarlyStopping.ALL_FINISHED:
        return True
    if options.early_stopping is EarlyStopping.NEVER and options.length_penalty > 0:
        length = options.max_target_tokens
    return _normalised(best_running, length, options.length_penalty) <= sequence.finished[-1].score
