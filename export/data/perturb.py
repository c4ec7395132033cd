"""Changes to sentence pairs that teach a model what people really type.

Training captions all begin with a capital and end with a full stop; a person writes "a man on a
horse", joins two sentences, shouts, or names somebody the corpus has never heard of. Each change
keeps the two sides translations of each other, in any pair of languages.
"""

import itertools
import random
from collections.abc import Callable, Sequence

from export.data.parallel import Pair

STOPS = ".!?"
VOWELS, CONSONANTS = "aeiouy", "bcdfghjklmnpqrstvwxz"


def other_case(pair: Pair, pool: Sequence[Pair], rng: random.Random) -> Pair:
    """The source in lower case, in upper case or with a small first letter; the target stays."""
    source, target = pair
    forms = (source.lower(), source.upper(), source[:1].lower() + source[1:])
    return rng.choices(forms, weights=(2, 1, 2))[0], target


def without_stop(pair: Pair, pool: Sequence[Pair], rng: random.Random) -> Pair:
    """Neither side ends in a stop, unless nothing else is in it."""
    source, target = (text.rstrip(STOPS + " ") for text in pair)
    return (source, target) if source and target else pair


def without_stop_or_case(pair: Pair, pool: Sequence[Pair], rng: random.Random) -> Pair:
    """As most people type: no stop, no capitals."""
    return other_case(without_stop(pair, pool, rng), pool, rng)


def joined(pair: Pair, pool: Sequence[Pair], rng: random.Random) -> Pair:
    """Two pairs behind each other."""
    other = rng.choice(pool)
    return f"{pair[0]} {other[0]}", f"{pair[1]} {other[1]}"


def copied(pair: Pair, pool: Sequence[Pair], rng: random.Random) -> Pair:
    """A made-up name or a number beside the sentence, the same on both sides."""
    name, number = made_up_name(rng), made_up_number(rng)
    frames = ("{name}: {text}", "{text} ({number})", "{number}. {text}", "{name}, {number}: {text}")
    frame = rng.choice(frames)
    source, target = (frame.format(name=name, number=number, text=text) for text in pair)
    return source, target


def made_up_name(rng: random.Random) -> str:
    """One or two capitalised words of two to four syllables."""

    def word() -> str:
        syllables = (rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(rng.randint(2, 4)))
        return ("".join(syllables) + rng.choice(("", "n", "s", "r", "l"))).capitalize()

    return " ".join(word() for _ in range(rng.randint(1, 2)))


def made_up_number(rng: random.Random) -> str:
    """A whole number of one to five digits, or a decimal."""
    whole = str(rng.randrange(10 ** rng.randint(1, 5)))
    return f"{whole}.{rng.randrange(10)}" if rng.random() < 0.1 else whole


# Each change and how often it is made, of a thousand pairs.
CHANGES: tuple[tuple[Callable[[Pair, Sequence[Pair], random.Random], Pair], int], ...] = (
    (other_case, 40),
    (without_stop, 30),
    (without_stop_or_case, 40),
    (joined, 40),
    (copied, 30),
)


def perturb_all(pairs: Sequence[Pair], rng: random.Random) -> list[Pair]:
    """Change every pair, for a test of what people type: case, the stop, both, two joined."""
    changes = (other_case, without_stop, without_stop_or_case, joined)
    return [
        change(pair, pairs, rng)
        for pair, change in zip(pairs, itertools.cycle(changes), strict=False)
    ]


def perturb(pairs: Sequence[Pair], rng: random.Random) -> list[Pair]:
    """Change about one pair in six, each in one way; the others stay as they are."""
    names = [change for change, _ in CHANGES] + [None]
    weights = [weight for _, weight in CHANGES]
    weights.append(1000 - sum(weights))
    chosen = rng.choices(names, weights=weights, k=len(pairs))
    return [
        pair if change is None else change(pair, pairs, rng)
        for pair, change in zip(pairs, chosen, strict=True)
    ]
