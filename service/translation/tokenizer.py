"""Between text and token ids. Knows SentencePiece, and nothing of models but their end token."""

from collections.abc import Sequence
from pathlib import Path

import sentencepiece

from service.bundle import Bundle
from service.errors import BundleError


class Tokenizer:
    """The tokenizer of one bundle; safe to use from several threads."""

    def __init__(self, source: Path, target: Path, eos_token_id: int) -> None:
        self._source = _load(source)
        self._target = self._source if target == source else _load(target)
        self._eos_token_id = eos_token_id

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> "Tokenizer":
        """Read the files that the card names. Raises BundleError."""
        card = bundle.translation
        tokenizer = cls(
            bundle.folder / card.tokenizer.source,
            bundle.folder / card.tokenizer.target,
            card.tokens.eos,
        )
        tokenizer.check(card.architecture.vocab_size)
        return tokenizer

    def check(self, vocab_size: int) -> None:
        """Raise BundleError unless the model knows every source id, and we every target id."""
        num_source, num_target = len(self._source), len(self._target)
        if not num_source <= vocab_size <= num_target:
            raise BundleError(
                f"expected tokenizers of {vocab_size} pieces, found {num_source} for the source "
                f"and {num_target} for the target"
            )

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The source ids of each text, the end token last; mere space has only that."""
        encoded: list[list[int]] = self._source.encode(list(texts))
        return [[*ids, self._eos_token_id] for ids in encoded]

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of target ids; the end token, if there, adds nothing."""
        end = len(token_ids) - (len(token_ids) > 0 and token_ids[-1] == self._eos_token_id)
        text: str = self._target.decode(list(token_ids[:end]))
        return text


def _load(path: Path) -> sentencepiece.SentencePieceProcessor:
    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise BundleError(f"expected a SentencePiece model in {path}, found: {error}") from error
