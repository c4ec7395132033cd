"""Which of a model's languages a caller means. Pure functions over cards.

A code asks for the language that has it, or else for what it falls back to: zh-Hant-TW for zh-Hant
or zh (BCP 47, RFC 4647 section 3.4, Lookup), or else for one that it leaves open: zh for zh-Hant,
where the model has no other Chinese. The model's own names, such as deu_Latn, do as well. Codes and
names compare without case.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from service.bundle import Direction, Language, TranslationCard
from service.errors import InvalidArgument, LanguagePairNotFound

# A model may know two hundred languages; a message names so many of them, the likeliest first.
MAX_NAMED = 24


class Fit(NamedTuple):
    """What a model makes of two codes, of which either may be empty: anything."""

    score: int  # how much of the codes it knows: the more, the better it fits
    sources: Sequence[Language]  # never empty; several where the choice is open
    targets: Sequence[Language]


def fit(card: TranslationCard, source: str, target: str) -> Fit | None:
    """The languages that a request means to this model; None if it has no such direction."""
    if card.languages is None:
        return _fitting_pairs(card, source, target)
    sources_score, sources = _meant(source, card.languages.sources_by_name)
    targets_score, targets = _meant(target, card.languages.targets_by_name)
    if len(sources) == 1:
        targets = _without(targets, sources[0])
    if len(targets) == 1:
        sources = _without(sources, targets[0])
    if not sources or not targets:
        return None
    return Fit(sources_score + targets_score, sources, targets)


def choose_direction(card: TranslationCard, source: str, target: str) -> Direction:
    """The direction that a request means to this model.

    Raises LanguagePairNotFound, and InvalidArgument when the choice is the caller's to make.
    """
    found = fit(card, source, target)
    if found is None:
        raise LanguagePairNotFound(no_direction([card], source, target))
    sources = found.sources
    if not source and card.languages is not None and not card.tokens.needs("source_language"):
        sources = sources[:1]  # such a model reads its sources without being told which
    return Direction(
        source=_only(sources, source, "source", card.name),
        target=_only(found.targets, target, "target", card.name),
    )


def sample_directions(card: TranslationCard, count: int) -> list[Direction]:
    """So many directions in which to try a model: English, if it can, into languages in turn."""
    if card.languages is None:
        return [card.first_direction] * count
    english = fit(card, "en", "")
    source = english.sources[0] if english else card.first_direction.source
    targets = _without(card.languages.targets, source)
    return [Direction(source, targets[index % len(targets)]) for index in range(count)]


def no_direction(cards: Iterable[TranslationCard], source: str, target: str) -> str:
    """A message for people: what was asked for, and what there is."""
    offers = list(chain.from_iterable(_offers(card, source, target) for card in cards))
    wanted = f"{source or 'any language'} to {target or 'any language'}"
    return f"no model for {wanted}; there are: {_some(offers)}"


def _fitting_pairs(card: TranslationCard, source: str, target: str) -> Fit | None:
    best, fitting = -1, list[Direction]()
    for direction in card.fixed_directions:
        scores = [
            _meant(asked, dict.fromkeys(one.called, one))[0]
            for asked, one in ((source, direction.source), (target, direction.target))
        ]
        score = -1 if min(scores) < 0 else sum(scores)
        if score > best:
            best, fitting = score, []
        if score == best >= 0:
            fitting.append(direction)
    if not fitting:
        return None
    sources = {one.source.code: one.source for one in fitting}
    targets = {one.target.code: one.target for one in fitting}
    return Fit(best, list(sources.values()), list(targets.values()))


def _meant(asked: str, known: Mapping[str, Language]) -> tuple[int, list[Language]]:
    """The languages that a code fits best, and how well; -1 and none if it fits none."""
    if not asked:
        return 0, list(dict.fromkeys(known.values()))
    code = asked.lower()
    while code:
        if code in known:
            return len(known[code].code), [known[code]]
        code = code.rpartition("-")[0]
    wider = f"{asked}-".lower()
    narrower = [one for name, one in known.items() if name.startswith(wider)]
    return (1, list(dict.fromkeys(narrower))) if narrower else (-1, [])


def _without(languages: Sequence[Language], other: Language) -> list[Language]:
    return [language for language in languages if language.code != other.code]


def _only(languages: Sequence[Language], asked: str, side: str, model: str) -> Language:
    if len(languages) == 1:
        return languages[0]
    codes = _some(sorted(language.code for language in languages))
    complaint = (
        f"{asked} may be any of several," if asked else f"{model} has several {side} languages,"
    )
    raise InvalidArgument(f"{complaint} name one: {codes}", field=f"{side}_language_code")


def _offers(card: TranslationCard, source: str, target: str) -> list[str]:
    """What a model translates, those that resemble what was asked for in front."""
    if card.languages is None:
        return [f"{pair.source} to {pair.target} ({card.name})" for pair in card.language_pairs]
    sources = _some(_likest(source, card.languages.sources))
    targets = _some(_likest(target, card.languages.targets))
    return [f"any of {sources} to any of {targets} ({card.name})"]


def _likest(asked: str, languages: Sequence[Language]) -> list[str]:
    """Codes in alphabetical order, behind those of the language that was asked for."""
    family = asked.lower().replace("_", "-").partition("-")[0]
    codes = sorted(language.code for language in languages)
    return sorted(codes, key=lambda code: code.lower().partition("-")[0] != family)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:MAX_NAMED])
    more = len(names) - MAX_NAMED
    return f"{shown} and {more} more" if more > 0 else shown
