"""What a translation model translates: fixed pairs, or any of its languages into any other."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

from pydantic import Field, model_validator

from service.bundle.fields import CardModel, TokenId

LanguageCode = Annotated[str, Field(min_length=2)]  # BCP 47, such as de or zh-Hant


class LanguagePair(CardModel):
    """One direction of a model that needs no telling."""

    source: LanguageCode
    target: LanguageCode


class Language(CardModel):
    """A language of a multilingual model; callers name it by its code or by its name."""

    code: LanguageCode
    token: TokenId | None = None  # what tells the model; None: it need not be told
    name: str = ""  # the model's own, such as deu_Latn

    @cached_property
    def called(self) -> frozenset[str]:
        """What it may be called by, in lower case: its code and the model's own name."""
        return frozenset(name.lower() for name in (self.code, self.name) if name)


class Languages(CardModel):
    """A multilingual model's: it translates any source into any target but the source itself."""

    sources: Annotated[tuple[Language, ...], Field(min_length=1)]
    targets: Annotated[tuple[Language, ...], Field(min_length=1)]

    @cached_property
    def sources_by_name(self) -> dict[str, Language]:
        """By all that each is called by: every request looks here."""
        return {name: one for one in self.sources for name in one.called}

    @cached_property
    def targets_by_name(self) -> dict[str, Language]:
        """The same of the targets."""
        return {name: one for one in self.targets for name in one.called}

    @model_validator(mode="after")
    def _each_is_there_once(self) -> "Languages":
        for side, languages in (("sources", self.sources), ("targets", self.targets)):
            called = Counter(name for one in languages for name in one.called)
            if twice := [name for name, count in called.items() if count > 1]:
                raise ValueError(f"expected each language once in {side}, found {twice[0]} twice")
        if len({one.code for one in (*self.sources, *self.targets)}) == 1:
            raise ValueError(f"expected two languages at least, found {self.sources[0].code} alone")
        return self


@dataclass(frozen=True, slots=True)
class Direction:
    """From which language a request is translated, and into which."""

    source: Language
    target: Language

    @classmethod
    def of(cls, pair: LanguagePair) -> "Direction":
        """That of a pair, whose model need not be told."""
        return cls(Language(code=pair.source), Language(code=pair.target))

    @property
    def pair(self) -> LanguagePair:
        """Its codes."""
        return LanguagePair(source=self.source.code, target=self.target.code)
