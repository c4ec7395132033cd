"""The kinds of tokenizers that a card may name, each as Hugging Face's own treats text.

Texts go to SentencePiece one by one: for a list it starts a thread a core, which takes 200 us and
more for a sentence that is cut up in 8.

What a caller writes is text, whatever it looks like: "</s>", "<mask>" or ">>fra<<" are cut up like
other words (Hugging Face's `split_special_tokens=True`), and where a vocabulary's piece of that
spelling would still be found, the unknown token stands in its place. So a text cannot end itself,
nor choose a language: only the card's template has tokens with a meaning.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import sentencepiece
import tokenizers

from service.bundle import (
    JsonTokenizer,
    SentencePieceTokenizer,
    TranslationCard,
    VocabularyTokenizer,
)
from service.errors import BundleError

WORD_START = "\u2581"  # SentencePiece's mark in front of a word

# Hugging Face's `clean_up_tokenization`, in its order.
_CLEANED = (
    *((f" {mark}", mark) for mark in (".", "?", "!", ",")),
    (" ' ", "'"),
    *((f" {ending}", ending) for ending in ("n't", "'m", "'s", "'ve", "'re")),
)


def open_tokenizer(
    folder: Path, card: TranslationCard
) -> "SentencePieceText | VocabularyText | JsonText":
    """Read the files of a card's tokenizer. Raises BundleError."""
    match card.tokenizer:
        case SentencePieceTokenizer():
            return SentencePieceText(folder, card.tokenizer, card)
        case VocabularyTokenizer():
            return VocabularyText(folder, card.tokenizer, card)
        case JsonTokenizer():
            return JsonText(folder, card.tokenizer, card)


class SentencePieceText:
    """SentencePiece models whose piece ids are the model's."""

    def __init__(self, folder: Path, files: SentencePieceTokenizer, card: TranslationCard) -> None:
        self._source = _load(folder / files.source)
        self._target = (
            self._source if files.target == files.source else _load(folder / files.target)
        )
        self._eos = card.tokens.eos
        self._check(card.architecture.vocab_size)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text; SentencePiece finds no control symbols in texts."""
        return [self._source.encode(text) for text in texts]

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of target ids; the end token, if there, adds nothing."""
        end = len(token_ids) - (len(token_ids) > 0 and token_ids[-1] == self._eos)
        text: str = self._target.decode(list(token_ids[:end]))
        return text

    def _check(self, vocab_size: int) -> None:
        """Raise BundleError unless the model knows every source id, and we every target id."""
        num_source, num_target = len(self._source), len(self._target)
        if not num_source <= vocab_size <= num_target:
            raise BundleError(
                f"expected tokenizers of {vocab_size} pieces, found {num_source} for the source "
                f"and {num_target} for the target"
            )


class VocabularyText:
    """SentencePiece cuts and joins, vocabularies have the ids: MarianTokenizer, M2M100Tokenizer."""

    def __init__(self, folder: Path, files: VocabularyTokenizer, card: TranslationCard) -> None:
        self._source = _load(folder / files.source)
        self._target = (
            self._source if files.target == files.source else _load(folder / files.target)
        )
        sizes = card.architecture
        source_size = sizes.source_vocab_size or sizes.vocab_size
        source = _read_vocabulary(folder / files.source_vocabulary, source_size)
        target = _read_vocabulary(folder / files.target_vocabulary, sizes.vocab_size)
        self._unk = card.tokens.unk
        # The language that a model is made to begin with is no part of a text, even of a checkpoint
        # whose tokenizer lists no special tokens of languages: transformers writes them out then.
        self._special = frozenset(files.special_tokens) | _forced_languages(card)
        self._clean_up = files.clean_up_spaces
        forbidden = self._special | _of_the_template(card)
        self._ids = {piece: one for piece, one in source.items() if one not in forbidden}
        self._pieces: list[str | None] = [None] * sizes.vocab_size
        for piece, token_id in target.items():
            self._pieces[token_id] = piece
        self._unknown_piece = self._pieces[self._unk] or "<unk>"

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text; a piece that the vocabulary lacks is unknown."""
        encoded = (self._source.encode(text, out_type=str) for text in texts)
        return [[self._ids.get(piece, self._unk) for piece in pieces] for pieces in encoded]

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of target ids. One without a piece ends a run, as a token of its own does there.

        M2M100 has eight of them, "made-up words" that fill up its vocabulary.
        """
        text = ""
        run: list[str] = []
        for token_id in token_ids:
            if token_id in self._special:
                continue
            piece = self._pieces[token_id]
            if piece is None:
                text += self._join(run) + self._unknown_piece
                run = []
            else:
                run.append(piece)
        text += self._join(run)
        text = text.replace(WORD_START, " ").strip()  # of pieces that SentencePiece does not know
        return _clean_up(text) if self._clean_up else text

    def _join(self, pieces: list[str]) -> str:
        text: str = self._target.decode_pieces(pieces) if pieces else ""
        return text


class JsonText:
    """A tokenizer.json: NLLB, BART, mBART and mBART-50."""

    def __init__(self, folder: Path, files: JsonTokenizer, card: TranslationCard) -> None:
        self._tokenizer = _load_json(folder / files.file)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True  # as the text that they are in a text
        self._unk = card.tokens.unk
        # As transformers does: BPE writes spaces in front of marks where they belong.
        is_bpe = isinstance(self._tokenizer.model, tokenizers.models.BPE)
        self._clean_up = files.clean_up_spaces and not is_bpe
        added = self._tokenizer.get_added_tokens_decoder()
        special = {token_id for token_id, token in added.items() if token.special}
        # Unigram vocabularies list special tokens among their pieces.
        self._forbidden = (special | _of_the_template(card)) - {self._unk}
        self._check(card.architecture.vocab_size)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without what the post-processor would add."""
        encoded = (self._tokenizer.encode(text, add_special_tokens=False).ids for text in texts)
        return [
            [self._unk if token_id in self._forbidden else token_id for token_id in ids]
            for ids in encoded
        ]

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of target ids."""
        text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return _clean_up(text) if self._clean_up else text

    def _check(self, vocab_size: int) -> None:
        """Raise BundleError unless the model knows every id; it may have more of them."""
        highest = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
        if highest >= vocab_size:
            raise BundleError(f"expected a tokenizer of ids under {vocab_size}, found {highest}")


def _of_the_template(card: TranslationCard) -> set[int]:
    """The source ids that only the template may put there: the end's, and the languages'."""
    languages = (*card.languages.sources, *card.languages.targets) if card.languages else ()
    tokens = {language.token for language in languages if language.token is not None}
    return tokens | {part for part in card.tokens.template if isinstance(part, int)}


def _forced_languages(card: TranslationCard) -> set[int]:
    """The tokens of target languages, where one is each translation's first."""
    if card.languages is None or card.tokens.forced_bos != "target_language":
        return set()
    return {one.token for one in card.languages.targets if one.token is not None}


def _clean_up(text: str) -> str:
    for spaced, closed in _CLEANED:
        text = text.replace(spaced, closed)
    return text


def _load(path: Path) -> sentencepiece.SentencePieceProcessor:
    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise BundleError(f"expected a SentencePiece model in {path}, found: {error}") from error


def _load_json(path: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more special
        raise BundleError(f"expected a tokenizer.json in {path}, found: {error}") from error


def _read_vocabulary(path: Path, size: int) -> dict[str, int]:
    """Pieces and their ids. Raises BundleError for anything else."""
    try:
        vocabulary = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"expected JSON in {path}, found: {error}") from error
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise BundleError(f"expected an object from pieces to ids in {path}")
    for piece, token_id in vocabulary.items():
        if type(token_id) is not int or not 0 <= token_id < size:
            raise BundleError(
                f"expected ids under {size} in {path}, found {token_id!r} of {piece!r}"
            )
    return vocabulary
