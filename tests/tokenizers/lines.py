"""Lines that tokenizers stumble over: mixed scripts, emoji, control characters, odd spaces."""

import random
from collections.abc import Iterator

SCRIPTS = (
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "äöüßéèêñçøåœłžšÄÖÜÉ",
    "αβγδεζηθικλμνξοπρστυφχψωΑΒΓΔ",
    "абвгдежзийклмнопрстуфхцчшщъыьэюяЖЩ",
    "ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
    "אבגדהוזחטיכלמנסעפצקרשת",
    "अआइईउऊकखगघचछजझटठडढणतथदधनपफबभमयरलवशषसह",
    "กขคงจฉชซญฎฏฐณดตถทธนบปผฝพฟภมยรลวศษสหฬอฮ",
    "一二三人大小中国日本学生天地水火木金土山川",
    "あいうえおかきくけこさしすせそアイウエオカキクケコ",
    "가나다라마바사아자차카타파하한국어",
)
MARKS = "\u0301\u0308\u093e\u0e34\u064e\u20e3"
EMOJI = (
    *("😀", "👍🏽", "🇩🇪", "👩‍👩‍👧", "❤️", "🏴\U000e0067\U000e0062\U000e007f"),
    *("\U0001fae0", "⚠", "①", "½"),
)
CONTROLS = "\x00\x01\x07\x08\x1b\x7f\x80\x9f\u00ad\u200b\u200d\u200e\u202e\u2060\ufeff\ufffd\ufffe"
SPACES = " \t\r\n\v\f\x1c\x85\u00a0\u1680\u2003\u2009\u2028\u202f\u205f\u3000\u2581"
FORMS = "ＡＢｃ１２３ﬁﬂ㎏Ⅳ№™ｶﾞ…“”„—·«»\u2018\u2019\u2013"
MARKED = ".,;:!?()[]{}'\"-/\\@#$%^&*_+=<>|~`0123456789"
ENDINGS = ("n't", "'s", "'re", " ' ", " .", " ,", " ?", " !", "http://a.b/c?d=e&f")


def strange_lines(count: int, seed: int) -> list[str]:
    """Lines of 0 to 25 words; a third of ordinary words and spaces alone."""
    rng = random.Random(seed)
    words = _words(rng)
    return [_line(rng, words) for _ in range(count)]


def _words(rng: random.Random) -> list[str]:
    """A small language, so that there is something to learn for a tokenizer."""
    return [
        "".join(rng.choices(script, k=rng.randint(1, 6))) for script in SCRIPTS for _ in range(60)
    ]


def _line(rng: random.Random, words: list[str]) -> str:
    if rng.random() < 0.33:
        return " ".join(rng.choices(words, k=rng.randint(1, 20)))
    return "".join(_part(rng, words) for _ in range(rng.randint(0, 25)))


def _part(rng: random.Random, words: list[str]) -> str:
    kind = rng.random()
    if kind < 0.45:
        return rng.choice(words) + rng.choice(("", " ", " ", " "))
    if kind < 0.6:
        return "".join(rng.choices(SPACES, k=rng.randint(1, 3)))
    return rng.choice(rng.choice((MARKS, EMOJI, CONTROLS, FORMS, MARKED, ENDINGS, *_wide(rng))))


def _wide(rng: random.Random) -> Iterator[str]:
    """Any character of Unicode, halves of pairs left out."""
    yield chr(rng.choice((rng.randrange(0xD800), rng.randrange(0xE000, 0x110000))))
