"""Between text and token ids: a bundle's tokenizer, and what its model reads around the text."""

from collections.abc import Sequence
from typing import Protocol

from service.bundle import Bundle, Direction, TranslationCard
from service.translation.tokenizer_kinds import open_tokenizer


class TextTokenizer(Protocol):
    """Knows text and ids, nothing of templates; safe to use from several threads."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text alone; a special token that is spelled out is text as well."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of target ids; special tokens add nothing."""


class Tokenizer:
    """The tokenizer of one bundle; safe to use from several threads."""

    def __init__(self, text: TextTokenizer, card: TranslationCard) -> None:
        self._text = text
        self._tokens = card.tokens
        self._first_direction = card.first_direction
        self.num_added = len(card.tokens.template) - 1  # ids of a source beside those of its text

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> "Tokenizer":
        """Read the files that the card names. Raises BundleError."""
        return cls(open_tokenizer(bundle.folder, bundle.translation), bundle.translation)

    def encode(self, texts: Sequence[str], direction: Direction | None = None) -> list[list[int]]:
        """The source ids of each text; mere space has only the `num_added` of the template.

        Without a direction the ids are for the card's first one.
        """
        front, back = self._tokens.frame(direction or self._first_direction)
        return [[*front, *ids, *back] for ids in self._text.encode(texts)]

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of target ids; the end token and other special ones, if there, add nothing."""
        return self._text.decode(token_ids)
