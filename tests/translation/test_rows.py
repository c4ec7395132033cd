"""Rows are given out, taken back and closed up, against a model that keeps a dictionary."""

import random

import numpy as np

from service.translation.rows import RowTable
from service.translation.sequence import Sequence
from tests.translation.fakes import START, make_sequence

CAPACITY, MAX_TARGET_TOKENS = 24, 12


class Shadow:
    """What a runner keeps for a row: here, a number that tells whose it is."""

    def __init__(self) -> None:
        self.kept = np.zeros(CAPACITY, int)

    def move_row(self, source: int, target: int) -> None:
        self.kept[target] = self.kept[source]


class Contents:
    """What every row of a sequence should hold, kept where nothing ever moves."""

    def __init__(
        self, rng: random.Random, sequence: Sequence, table: RowTable, number: int
    ) -> None:
        self.marks = [number * 100 + beam for beam in range(sequence.beam_size)]
        self.length = rng.randint(0, MAX_TARGET_TOKENS)
        self.history = [[rng.randint(3, 99) for _ in range(self.length)] for _ in self.marks]
        self.scores = [rng.uniform(-9, 0) for _ in self.marks]
        for row, history, score in zip(sequence.rows, self.history, self.scores, strict=True):
            table.lengths[row] = self.length
            table.history[row, 1 : self.length + 1] = history
            table.tokens[row, 0] = history[-1] if history else START
            table.scores[row] = score


def assert_held(table: RowTable, shadow: Shadow, running: dict[Sequence, Contents]) -> None:
    rows = [row for sequence in running for row in sequence.rows]
    assert sorted(rows) == list(range(table.num_rows))
    assert table.num_free == CAPACITY - len(rows)
    assert [owner for owner in table.owners[table.num_rows :] if owner is not None] == []
    for sequence, contents in running.items():
        assert [table.owners[row] for row in sequence.rows] == [sequence] * sequence.beam_size
        assert shadow.kept[sequence.rows].tolist() == contents.marks
        assert table.next_lengths([sequence]) == [contents.length + 1]
        assert np.array_equal(table.scores[sequence.rows], np.float32(contents.scores))
        for row, history in zip(sequence.rows, contents.history, strict=True):
            assert table.lengths[row] == contents.length
            assert table.history[row, : contents.length + 1].tolist() == [START, *history]
            assert table.tokens[row, 0] == [START, *history][-1]


def test_rows_keep_their_contents_whoever_leaves() -> None:
    rng = random.Random(4)
    table, shadow = RowTable(CAPACITY, MAX_TARGET_TOKENS), Shadow()
    running: dict[Sequence, Contents] = {}
    for number in range(2000):
        beam_size = rng.randint(1, 5)
        if beam_size <= table.num_free and rng.random() < 0.6:
            sequence = make_sequence(beam_size=beam_size)
            table.allocate(sequence, START)
            rng.shuffle(sequence.rows)  # beams change places
            running[sequence] = Contents(rng, sequence, table, number)
            shadow.kept[sequence.rows] = running[sequence].marks
        else:
            leaving = rng.sample(list(running), rng.randint(0, len(running)))
            table.release(leaving)
            assert all(sequence.rows == [] for sequence in leaving)
            running = {one: kept for one, kept in running.items() if one not in leaving}
        assert table.num_free == CAPACITY - sum(one.beam_size for one in running)
        if rng.random() < 0.5:
            table.close_gaps(shadow)
            assert_held(table, shadow, running)


def test_a_new_sequence_has_one_beam_alive() -> None:
    table = RowTable(CAPACITY, MAX_TARGET_TOKENS)
    sequence = make_sequence(beam_size=3)
    table.allocate(sequence, START)
    assert table.scores[sequence.rows].tolist() == [0.0, -np.inf, -np.inf]
    assert (table.history[sequence.rows, 0] == START).all()
