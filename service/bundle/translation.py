"""How a translation model reads, decodes and writes: its ids, its defaults, its tokenizer."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from service.bundle.fields import CardModel, RelativePath, TokenId
from service.bundle.languages import Direction, Language

Side = Literal["source_language", "target_language"]
SourcePart = TokenId | Literal["text", "source_language", "target_language"]
TargetPart = TokenId | Literal["target_language"]


class Tokens(CardModel):
    """Ids with a meaning. A multilingual model is told its languages by their tokens, somewhere.

    `source` is the template of what the encoder reads; without one, the text and the end token.
    `forced_bos` is the first generated token of a model that wants one.
    """

    pad: TokenId
    eos: TokenId
    unk: TokenId
    decoder_start: TargetPart
    forced_bos: TargetPart | None = None
    source: tuple[SourcePart, ...] | None = None

    @model_validator(mode="after")
    def _one_text(self) -> "Tokens":
        if (count := self.template.count("text")) != 1:
            raise ValueError(f"expected one text in the template of sources, found {count}")
        return self

    @property
    def template(self) -> tuple[SourcePart, ...]:
        """What the encoder reads, in order."""
        return ("text", self.eos) if self.source is None else self.source

    def frame(self, direction: Direction) -> tuple[list[int], list[int]]:
        """The ids in front of the text and those behind it."""
        languages = {"source_language": direction.source, "target_language": direction.target}
        place = self.template.index("text")
        front, back = (
            [part if isinstance(part, int) else _token(languages[part]) for part in parts]
            for parts in (self.template[:place], self.template[place + 1 :])
        )
        return front, back

    def decoder_start_into(self, target: Language) -> int:
        """What the decoder begins with."""
        return _token(target) if self.decoder_start == "target_language" else self.decoder_start

    def forced_bos_into(self, target: Language) -> int | None:
        """What the first generated token has to be."""
        return _token(target) if self.forced_bos == "target_language" else self.forced_bos

    def needs(self, side: Side) -> bool:
        """Whether the model is told this language."""
        return side in (*self.template, self.decoder_start, self.forced_bos)


class Decoding(CardModel):
    """Defaults of a request's options, and what a generation_config forces on every request."""

    beam_size: PositiveInt = 1
    num_hypotheses: PositiveInt = 1
    length_penalty: float = 1.0
    early_stopping: Literal["all_finished", "heuristic", "never"] = "heuristic"
    max_target_tokens: PositiveInt
    min_target_tokens: Annotated[int, Field(ge=0)] = 0
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    no_repeat_ngram_size: Annotated[int, Field(ge=0)] = 0
    forced_eos: TokenId | None = None
    suppressed_tokens: tuple[TokenId, ...] = ()
    renormalize: bool = False


class SentencePieceTokenizer(CardModel):
    """Two SentencePiece models (the same file, often) whose piece ids are the model's token ids."""

    kind: Literal["sentencepiece"]
    source: RelativePath
    target: RelativePath


class VocabularyTokenizer(CardModel):
    """SentencePiece models whose pieces are looked up in vocabularies of the model's own.

    A vocabulary is a JSON object from pieces to ids, Hugging Face's vocab.json. Marian joins a
    target's pieces by the source's SentencePiece model where one vocabulary serves both.
    """

    kind: Literal["sentencepiece-vocabulary"]
    source: RelativePath
    target: RelativePath
    source_vocabulary: RelativePath
    target_vocabulary: RelativePath
    special_tokens: tuple[TokenId, ...]  # ids that a translation's text leaves out
    clean_up_spaces: bool = False  # Hugging Face's clean_up_tokenization_spaces


class JsonTokenizer(CardModel):
    """A tokenizer.json, read by the library `tokenizers`; its post-processor is not used."""

    kind: Literal["tokenizers"]
    file: RelativePath
    clean_up_spaces: bool = False


Tokenizer = Annotated[
    SentencePieceTokenizer | VocabularyTokenizer | JsonTokenizer, Field(discriminator="kind")
]


def tokenizer_files(tokenizer: Tokenizer) -> set[str]:
    """The files that it names."""
    match tokenizer:
        case SentencePieceTokenizer():
            return {tokenizer.source, tokenizer.target}
        case VocabularyTokenizer():
            vocabularies = {tokenizer.source_vocabulary, tokenizer.target_vocabulary}
            return {tokenizer.source, tokenizer.target} | vocabularies
        case JsonTokenizer():
            return {tokenizer.file}


class TranslationLimits(CardModel):
    """The longest sentences the graphs take; the end token counts."""

    max_source_tokens: PositiveInt
    max_target_tokens: PositiveInt


def _token(language: Language) -> int:
    if language.token is None:
        raise ValueError(f"{language.code} has no token")
    return language.token
