"""Splits a text into what the model can take, and puts the translations together again.

Nothing is lost: the pieces and the gaps between them, joined, are the text. Knows no model; how
many tokens a piece has is told to it.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import sentencex

# What no sentence goes across: the model would make plain spaces of them.
_BREAKS = re.compile(r"([\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+)")

# Where a sentence over the limit is cut, the best place first: clauses (behind a comma, a
# semicolon, a colon or a dash), then spaces; then anywhere.
_CUTS = (re.compile(r"(?<=[,;:\u2013\u2014])\s"), re.compile(r"\s"))


@dataclass(frozen=True, slots=True)
class Segments:
    """A text as gap, piece, gap, piece, ..., gap: one gap more than pieces, each possibly empty."""

    pieces: tuple[str, ...]
    gaps: tuple[str, ...]

    def join(self, translations: Sequence[str]) -> str:
        """The text with each piece replaced by its translation."""
        parts = [self.gaps[0]]
        for translation, gap in zip(translations, self.gaps[1:], strict=True):
            parts += [translation, gap]
        return "".join(parts)


def split_text(
    text: str,
    *,
    language: str,
    sentences: bool,
    max_characters: int,
    fits: Callable[[str], bool],
) -> Segments:
    """Split a text into sentences (or not at all), and what does not fit into shorter pieces.

    `fits` says whether the model takes a piece whole; it is asked for no more than
    `max_characters`, so that the time this takes is linear in the text.
    """
    parts = _sentences(text, language) if sentences else [text]
    pieces: list[str] = []
    gaps = [""]
    for part in parts:
        for piece in _shorten(part, max_characters, fits):
            body = piece.strip()
            if not body:
                gaps[-1] += piece
                continue
            start = piece.index(body)
            gaps[-1] += piece[:start]
            pieces.append(body)
            gaps.append(piece[start + len(body) :])
    return Segments(tuple(pieces), tuple(gaps))


def _sentences(text: str, language: str) -> Iterator[str]:
    """Yield sentences, and the line breaks and tabs between them."""
    for part in _BREAKS.split(text):
        if part.isspace():
            yield part
        elif part:
            yield from sentencex.segment(language, part)


def _shorten(sentence: str, max_characters: int, fits: Callable[[str], bool]) -> Iterator[str]:
    """Yield the sentence, cut into parts that fit, each as long as can be."""
    start = 0
    while start < len(sentence):
        window = sentence[start : start + max_characters]
        is_rest = start + len(window) == len(sentence)
        body = window.strip()
        whole = not body or (is_rest and fits(body))
        end = len(window) if whole else _longest_head(window, fits)
        yield window[:end]
        start += end


def _longest_head(text: str, fits: Callable[[str], bool]) -> int:
    """Where to cut a text that does not fit: the last of the best places whose head fits."""
    start = len(text) - len(text.lstrip())
    for ends in _places(text, start + 1):
        if ends and fits(text[: ends[0]].strip()):
            return _last_fitting(text, ends, fits)
    return 1  # not even one character fits: the model will have to take it


def _places(text: str, start: int) -> Iterator[Sequence[int]]:
    """Yield the ends of the best kind, then those of the next; every character's would be many."""
    for cut in _CUTS:
        yield [match.end() for match in cut.finditer(text, start)]
    yield range(start, len(text) + 1)


def _last_fitting(text: str, ends: Sequence[int], fits: Callable[[str], bool]) -> int:
    """Bisect for the last end whose head fits; the first one does."""
    low, high = 0, len(ends)
    # Gallop first: a head is short beside a long text, and `fits` costs as much as its argument.
    step = 1
    while low + step < high and fits(text[: ends[low + step]].strip()):
        low, step = low + step, step * 2
    high = min(high, low + step)
    while high - low > 1:
        middle = (low + high) // 2
        if fits(text[: ends[middle]].strip()):
            low = middle
        else:
            high = middle
    return ends[low]
