"""BPE-dropout (Provilkov et al. 2020): subwords with merges left out at random.

sentencepiece can do this too, but in version 0.2.3 what it draws depends on the process beside the
seed, so that a training which was killed would go on with other batches.
"""

import math
import random
from itertools import pairwise

import sentencepiece

SPACE = "\u2581"  # what sentencepiece writes before each word


class BpeDropout:
    """Encodes texts with a byte-pair vocabulary whose pieces do not reach across spaces."""

    def __init__(self, tokenizer: sentencepiece.SentencePieceProcessor, probability: float) -> None:
        if not 0 <= probability < 1:
            raise ValueError(f"bpe_dropout {probability} is not in [0, 1)")
        self._tokenizer = tokenizer
        self._probability = probability
        self._scores = {
            tokenizer.id_to_piece(token): tokenizer.get_score(token)
            for token in range(tokenizer.get_piece_size())
            if not (tokenizer.is_byte(token) or tokenizer.is_control(token))
        }
        self._merged: dict[str, tuple[list[int], int]] = {}

    def encode(self, text: str, rng: random.Random) -> list[int]:
        """Token ids, without an end token; the generator's state alone decides on the merges."""
        ids: list[int] = []
        for word in text.split():
            merged, num_merges = self._encode_whole(word)
            kept = self._merges_before_the_first_drop(rng)
            ids += merged if kept >= num_merges else self._encode_partly(word, kept, rng)
        return ids

    def _encode_whole(self, word: str) -> tuple[list[int], int]:
        """The ids of a word in its most merged form, and how many merges that takes."""
        if word not in self._merged:
            ids = self._tokenizer.encode(word)
            letters = self._letters(word)
            possible = SPACE not in letters[1:] and all(map(self._scores.__contains__, letters))
            self._merged[word] = ids, len(letters) - len(ids) if possible else 0
        return self._merged[word]

    def _merges_before_the_first_drop(self, rng: random.Random) -> float:
        """How often one can merge until chance says no: a geometric distribution."""
        if self._probability == 0:
            return math.inf
        return math.floor(math.log(1 - rng.random()) / math.log(1 - self._probability))

    def _encode_partly(self, word: str, kept: int | float, rng: random.Random) -> list[int]:
        """Make the best merges, `kept` times; leave the next one out, then each with a chance."""
        pieces, merges = self._letters(word), 0
        while found := self._possible_merges(pieces):
            best = max(found)
            if merges >= kept:
                rest = [m for m in found if rng.random() >= self._probability]
                if merges == kept and best in rest:
                    rest.remove(best)
                if not rest:
                    break
                best = max(rest)
            place = -best[1]
            pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]
            merges += 1
        return [self._tokenizer.piece_to_id(piece) for piece in pieces]

    def _possible_merges(self, pieces: list[str]) -> list[tuple[float, int]]:
        """Score and negative place of each pair that is a piece: the largest is merged first."""
        return [
            (self._scores[a + b], -place)
            for place, (a, b) in enumerate(pairwise(pieces))
            if a + b in self._scores
        ]

    def _letters(self, word: str) -> list[str]:
        return list(self._tokenizer.normalize(word))
