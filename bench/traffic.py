"""What callers ask for: requests as `bench.contenders.callers` takes them."""

import random
from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any

from bench.models import BenchModel
from bench.sentences import TokenCounter

SEED = 1
MIN_SOURCE_TOKENS, MAX_SOURCE_TOKENS = 5, 100  # of mixed traffic
# A third each: greedy, beam search, and its four best.
SEARCHES = ((1, 1), (4, 1), (4, 4))

Request = dict[str, Any]


def request(
    model: BenchModel, texts: Sequence[str], beam_size: int = 1, num_hypotheses: int = 1
) -> Request:
    """One call."""
    return {
        "texts": list(texts),
        "beam_size": beam_size,
        "num_hypotheses": num_hypotheses,
        "min_target_tokens": model.min_tokens,
        "max_target_tokens": model.max_tokens,
    }


def uniform_traffic(model: BenchModel, texts: Sequence[str]) -> list[Request]:
    """A sentence a call, greedy."""
    return [request(model, [text]) for text in texts]


def mixed_traffic(
    model: BenchModel, texts: Sequence[str], count: int, num_tokens: TokenCounter
) -> list[Request]:
    """Sources of all lengths, made of sentences, each kind of search as often."""
    rng = random.Random(SEED)
    words = cycle(" ".join(texts).split())
    lengths = [rng.randint(MIN_SOURCE_TOKENS, MAX_SOURCE_TOKENS) for _ in range(count)]
    searches = [SEARCHES[index % len(SEARCHES)] for index in range(count)]
    rng.shuffle(searches)
    return [
        request(model, [_text(words, length, num_tokens)], *search)
        for length, search in zip(lengths, searches, strict=True)
    ]


def _text(words: Iterator[str], length: int, num_tokens: TokenCounter) -> str:
    """The next words, as many as make so many tokens or just more."""
    text = next(words)
    while num_tokens(text) < length:
        text += " " + next(words)
    return text
