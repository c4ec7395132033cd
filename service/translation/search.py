"""Greedy and beam search: from the logits of one step to the tokens of the next.

Token ids and scores are those of Hugging Face `generate` (version 5) with the same options. Both
searches advance all their sequences at once; neither knows the model, text, or who waits.
Letters: N sequences, K beams, R rows, C candidates a row, V vocabulary.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from service.translation.options import DecodingOptions, EarlyStopping, FinishReason
from service.translation.processors import TokenRules, needs_processing, process
from service.translation.rows import RowTable
from service.translation.sequence import ScoredTokens, Sequence

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class CacheCopier(Protocol):
    """Whoever keeps the self-attention caches of the rows."""

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Let `target` have seen the first `length` target tokens of `source`."""


class Candidate(NamedTuple):
    """A beam of a sequence with one more token."""

    score: np.float32
    beam: int
    token_id: int


class Search:
    """Both searches over the rows of one table."""

    def __init__(self, table: RowTable, rules: TokenRules, caches: CacheCopier) -> None:
        self._greedy = GreedySearch(table, rules)
        self._beam = BeamSearch(table, rules, caches)
        self._table = table

    def advance(self, sequences: SequenceOf[Sequence], logits: Floats) -> None:
        """Choose a token for every row, from logits (R, V), which may be changed.

        Sequences that are done afterwards have `is_done` set and all their hypotheses.
        """
        greedy = [sequence for sequence in sequences if sequence.beam_size == 1]
        if greedy:
            self._greedy.advance(greedy, logits)
        beams: defaultdict[int, list[Sequence]] = defaultdict(list)
        for sequence in sequences:
            if sequence.beam_size > 1:
                beams[sequence.beam_size].append(sequence)
        for group in beams.values():
            self._beam.advance(group, logits)

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
        """Give each of the N sequences one more token."""
        table = self._table
        rows = np.array([sequence.rows[0] for sequence in sequences])  # (N,)
        _process_rows(_with_history(sequences, table), logits, self._rules)
        if self._rules.suppressed:
            logits[rows[:, None], list(self._rules.suppressed)] = -np.inf
        everyone = len(rows) == len(logits)
        tokens = logits.argmax(axis=1)[rows] if everyone else logits[rows].argmax(axis=1)  # (N,)
        stuck = logits[rows, tokens] == -np.inf
        if stuck.any():
            for index in np.flatnonzero(stuck).tolist():
                _give_up(sequences[index], table)
            sequences = [one for one in sequences if not one.is_done]
            rows, tokens = rows[~stuck], tokens[~stuck]
        self._add_scores(sequences, tokens, logits)
        table.lengths[rows] += 1
        table.tokens[rows, 0] = tokens
        table.history[rows, table.lengths[rows]] = tokens
        ended = (tokens == self._rules.eos) | (table.lengths[rows] >= table.limits[rows])
        for index in np.flatnonzero(ended).tolist():
            self._finish(sequences[index])

    def _add_scores(self, sequences: SequenceOf[Sequence], tokens: Ints, logits: Floats) -> None:
        wanted = [n for n, sequence in enumerate(sequences) if sequence.options.return_scores]
        if not wanted:
            return
        rows = np.array([sequences[n].rows[0] for n in wanted])
        log_sums = log_sum_exp(logits[rows])
        self._table.scores[rows] += logits[rows, tokens[wanted]] - log_sums

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

    def __init__(self, table: RowTable, rules: TokenRules, caches: CacheCopier) -> None:
        self._table = table
        self._rules = rules
        self._caches = caches

    def advance(self, sequences: SequenceOf[Sequence], logits: Floats) -> None:
        """Give each beam of the N sequences, all of one beam size K, one more token."""
        beam_size = sequences[0].beam_size
        rows = np.array([sequence.rows for sequence in sequences])  # (N, K)
        scores, tokens = self._continuations(sequences, rows.ravel(), logits)  # (N * K, C)
        width = scores.shape[1]
        scores = scores.reshape(len(sequences), -1)  # (N, K * C)
        tokens = tokens.reshape(len(sequences), -1)  # (N, K * C)
        # Twice as many as beams: even if the best K all end, K others remain.
        order = np.argsort(-scores, axis=1, kind="stable")[:, : 2 * beam_size]  # (N, 2K)
        best = zip(
            np.take_along_axis(scores, order, axis=1),
            (order // width).tolist(),
            np.take_along_axis(tokens, order, axis=1).tolist(),
            strict=True,
        )
        lengths = (self._table.lengths[rows[:, 0]] + 1).tolist()  # targets with this token
        children: list[tuple[int, Candidate]] = []
        for sequence, length, found in zip(sequences, lengths, best, strict=True):
            candidates = map(Candidate, *found)
            children += self._advance_one(sequence, length, candidates)
        self._write(children, rows)

    def _continuations(
        self, sequences: SequenceOf[Sequence], rows: Ints, logits: Floats
    ) -> tuple[Floats, Ints]:
        """Accumulated scores and tokens (N * K, C) of the best continuations of every beam."""
        table, rules = self._table, self._rules
        in_order = len(rows) == len(logits) and bool((rows == np.arange(len(rows))).all())
        chosen = logits if in_order else logits[rows]  # (N * K, V)
        log_sums = log_sum_exp(chosen)  # (N * K,)
        beam_size = sequences[0].beam_size
        for n, sequence in enumerate(sequences):
            length = int(table.lengths[sequence.rows[0]]) + 1
            if needs_processing(sequence.options, rules, length):
                for index in range(n * beam_size, (n + 1) * beam_size):
                    chosen[index] -= log_sums[index]
                    log_sums[index] = 0.0
                    process(
                        chosen[index], table.history[rows[index], :length], sequence.options, rules
                    )
        if rules.suppressed:
            chosen[:, list(rules.suppressed)] = -np.inf
        if rules.renormalize:
            log_sums = log_sum_exp(chosen)
        values, tokens = top_tokens(chosen, min(2 * beam_size, chosen.shape[1]))
        return values - log_sums[:, None] + table.scores[rows][:, None], tokens

    def _advance_one(
        self, sequence: Sequence, length: int, candidates: Iterable[Candidate]
    ) -> list[tuple[int, Candidate]]:
        """Finish and continue beams of one sequence; returns the row of each that goes on."""
        at_limit = length >= sequence.options.max_target_tokens
        children: list[Candidate] = []
        for rank, candidate in enumerate(candidates):
            if candidate.score == -np.inf:
                break
            if at_limit or candidate.token_id == self._rules.eos:
                if rank < sequence.beam_size:
                    self._finish(sequence, candidate, length)
            elif len(children) < sequence.beam_size:
                children.append(candidate)
        if not children and not sequence.finished:
            _give_up(sequence, self._table)
        sequence.is_done = not children or _cannot_improve(sequence, children[0].score, length)
        return [] if sequence.is_done else self._inherit(sequence, children, length)

    def _finish(self, sequence: Sequence, candidate: Candidate, length: int) -> None:
        row = sequence.rows[candidate.beam]
        token_ids = [*self._table.history[row, 1:length].tolist(), candidate.token_id]
        score = _normalised(candidate.score, length, sequence.options.length_penalty)
        is_end = candidate.token_id == self._rules.eos
        reason = FinishReason.EOS if is_end else FinishReason.LENGTH
        sequence.add_finished(ScoredTokens(score, token_ids, reason))

    def _inherit(
        self, sequence: Sequence, children: SequenceOf[Candidate], length: int
    ) -> list[tuple[int, Candidate]]:
        """The best child of a beam keeps its row; further ones are copied into dead beams' rows."""
        rows = sequence.rows
        heirs = {child.beam: child for child in reversed(children)}  # the best child comes last
        free = [row for beam, row in enumerate(rows) if beam not in heirs]
        placed: list[tuple[int, Candidate]] = []
        for child in children:
            row = rows[child.beam]
            if heirs[child.beam] is not child:
                parent, row = row, free.pop()
                self._caches.copy_row(parent, row, length)
                self._table.history[row, :length] = self._table.history[parent, :length]
            placed.append((row, child))
        sequence.rows = [row for row, _ in placed] + free  # best first; `free` ones are dead
        return placed

    def _write(self, children: SequenceOf[tuple[int, Candidate]], rows: Ints) -> None:
        table = self._table
        flat = rows.ravel()
        table.lengths[flat] += 1
        table.scores[flat] = -np.inf
        if children:
            alive = [row for row, _ in children]
            tokens = [child.token_id for _, child in children]
            table.scores[alive] = [child.score for _, child in children]
            table.tokens[alive, 0] = tokens
            table.history[alive, table.lengths[alive]] = tokens


def _with_history(
    sequences: SequenceOf[Sequence], table: RowTable
) -> Iterable[tuple[int, Sequence, Ints]]:
    for sequence in sequences:
        row = sequence.rows[0]
        yield row, sequence, table.history[row, : table.lengths[row] + 1]


def _process_rows(
    rows: Iterable[tuple[int, Sequence, Ints]], logits: Floats, rules: TokenRules
) -> None:
    for row, sequence, history in rows:
        if needs_processing(sequence.options, rules, len(history)):
            process(logits[row], history, sequence.options, rules)


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


def log_sum_exp(scores: Floats) -> Floats:
    """log(sum(exp(scores))) of each row: (R, V) -> (R,).

    A row of -inf alone has the lowest finite number, so that differences are -inf and never NaN.
    """
    lowest = np.finfo(np.float32).min
    highest = np.maximum(scores.max(axis=1, keepdims=True), lowest)  # (R, 1)
    sums = np.exp(scores - highest).sum(axis=1)  # (R,) 1 at least, or no token is possible
    total: Floats = np.log(np.maximum(sums, 1)) + highest[:, 0]
    return total


BLOCK = 64


def top_tokens(scores: Floats, count: int) -> tuple[Floats, Ints]:
    """The `count` largest of each row and their columns, in no order: (R, V) -> twice (R, count).

    The largest n of a row lie in the n blocks with the largest maxima, and maxima are cheap.
    """
    num_rows, width = scores.shape
    num_blocks = math.ceil(width / BLOCK)
    if num_blocks <= 2 * count:
        return _partition(scores, np.broadcast_to(np.arange(width), scores.shape), count)
    whole = width // BLOCK  # blocks; what is behind them is short, and always looked at
    blocks = scores[:, : whole * BLOCK].reshape(num_rows, whole, BLOCK)  # (R, blocks, BLOCK)
    maxima = blocks.max(axis=2)  # (R, blocks)
    chosen = np.argpartition(maxima, whole - count, axis=1)[:, whole - count :]  # (R, count)
    values = np.take_along_axis(blocks, chosen[:, :, None], axis=1)  # (R, count, BLOCK)
    columns = chosen[:, :, None] * BLOCK + np.arange(BLOCK)  # (R, count, BLOCK)
    tail = np.broadcast_to(np.arange(whole * BLOCK, width), (num_rows, width - whole * BLOCK))
    return _partition(
        np.concatenate([values.reshape(num_rows, -1), scores[:, whole * BLOCK :]], axis=1),
        np.concatenate([columns.reshape(num_rows, -1), tail], axis=1),
        count,
    )


def _partition(values: Floats, columns: Ints, count: int) -> tuple[Floats, Ints]:
    width = values.shape[1]
    best = np.argpartition(values, width - count, axis=1)[:, width - count :]  # (R, count)
    return np.take_along_axis(values, best, axis=1), np.take_along_axis(columns, best, axis=1)
