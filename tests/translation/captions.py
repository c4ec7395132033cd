"""Sentences as one writes them under pictures, made of a small grammar by a seeded generator.

Most are clauses of a subject, a verb and what surrounds them; some are odd, as texts from outside
are: one word, words repeated or unknown, numbers, no final stop, capitals, foreign letters.
"""

import random

SUBJECTS = (
    "a man", "a woman", "a young girl in a red coat", "an old man with a grey beard", "everybody",
    "the tallest of three workers in orange vests", "a brown dog", "a group of people", "a cyclist",
    "a street musician", "the goalkeeper", "a little boy with a green balloon", "nobody", "a chef",
    "a bride in a white dress", "the man on the left", "a crowd", "somebody", "one of four girls",
    "a dog with a stick in its mouth", "an elderly couple", "a skateboarder", "a child",
)  # fmt: skip
VERBS = (
    "is riding a horse", "plays the guitar", "waits for the bus", "jumps over a fence", "runs",
    "is reading a newspaper", "looks at the camera", "sells fruit", "is painting a wall", "laughs",
    "throws a ball to another player", "sleeps", "holds a sign", "cooks dinner", "is dancing",
    "climbs a rock", "talks on the phone", "is sitting on a bench", "drinks coffee", "swims",
    "rides a bicycle", "is standing next to a blue car", "points at the sky", "pulls a sled",
)  # fmt: skip
PLACES = (
    "on the beach", "in the park", "in front of a shop", "at night", "near the river", "outside",
    "in a crowded street", "under a large tree", "while it is raining", "in the snow",
    "on top of a hill", "behind the station", "with a smile", "during a race", "in the kitchen",
    "between two parked cars", "by the water", "in the middle of the road", "at a market",
)  # fmt: skip
LINKS = (", while", " and", ", and", " as", ", but", " because")
SINGLE = (
    "Dogs",
    "Snow!",
    "Bread",
    "Why?",
    "Swimming",
    "A street",
    "Red, blue and green",
    "Tennis.",
)
UNKNOWN = ("zorbing", "Quxley", "Łódź", "naïve", "10:45", "№ 7", "<b>", "東京", "😀", "e-mail")
SHORTEST, LONGEST = 1, 60  # words


def captions(count: int, *, seed: int) -> list[str]:
    """So many different sentences of 1 to 60 words; the same for the same seed."""
    rng = random.Random(seed)
    found: dict[str, None] = {}  # a set that keeps its order
    while len(found) < count:
        sentence = _odd(rng) if rng.random() < 0.15 else _caption(rng)
        if SHORTEST <= len(sentence.split()) <= LONGEST:
            found[sentence] = None
    return list(found)


def _caption(rng: random.Random) -> str:
    num_clauses = rng.choices((1, 2, 3, 4), (60, 28, 8, 4))[0]
    text = _clause(rng)
    for _ in range(num_clauses - 1):
        text += f"{rng.choice(LINKS)} {_clause(rng)}"
    return text[0].upper() + text[1:] + "."


def _clause(rng: random.Random) -> str:
    places = rng.sample(PLACES, rng.choices((0, 1, 2, 3), (25, 50, 20, 5))[0])
    return " ".join([rng.choice(SUBJECTS), rng.choice(VERBS), *places])


def _odd(rng: random.Random) -> str:
    caption = _caption(rng)
    words = caption.split()
    match rng.randrange(7):
        case 0:
            return f"{rng.choice(SINGLE)} {rng.choice(('', rng.choice(UNKNOWN)))}".strip()
        case 1:
            return caption.removesuffix(".")
        case 2:
            return rng.choice((caption.upper(), caption.lower()))
        case 3:
            words.insert(rng.randrange(len(words)), rng.choice(UNKNOWN))
        case 4:
            words.insert(rng.randrange(len(words)), str(rng.randrange(10 ** rng.randint(1, 6))))
        case 5:
            place = rng.randrange(len(words))
            words[place:place] = [words[place]] * rng.randint(1, 9)
        case 6:
            return rng.choice(SUBJECTS)
    return " ".join(words)
