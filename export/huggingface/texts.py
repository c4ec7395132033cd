"""How a checkpoint's texts become ids: its tokenizer's files, its languages, its templates."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from export.huggingface.checkpoint import Checkpoint, read_json
from export.huggingface.errors import CheckpointError
from export.huggingface.families import Pair
from export.huggingface.generation import Generation
from export.huggingface.languages import standard_code
from service.bundle import (
    JsonTokenizer,
    Language,
    LanguagePair,
    Languages,
    Tokenizer,
    Tokens,
    VocabularyTokenizer,
)
from service.bundle.translation import SourcePart, TargetPart

TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True, slots=True)
class Texts:
    """What a card says of texts, and the files that it names, by their names in the bundle."""

    tokenizer: Tokenizer
    files: Mapping[str, Path | str]  # to be copied; or a file's content
    tokens: Tokens
    language_pairs: tuple[LanguagePair, ...] = ()
    languages: Languages | None = None
    segmentation: Literal["sentences", "none"] = "sentences"


def fast_tokenizer(checkpoint: Checkpoint, kinds: Mapping[str, str], default: str) -> Any:
    """transformers' tokenizer of a checkpoint, one of `kinds`: class in the file -> class to use.

    Where there is no tokenizer.json transformers makes one of the checkpoint's other files.
    Raises CheckpointError.
    """
    import transformers

    found = checkpoint.tokenizer_fields.get("tokenizer_class") or default
    if found not in kinds:
        raise CheckpointError(f"expected a tokenizer_class of {', '.join(kinds)}, found {found}")
    kind = getattr(transformers, kinds[found])
    return _read(kind, checkpoint)


def slow_tokenizer(checkpoint: Checkpoint, name: str) -> Any:
    """transformers' tokenizer of a family that has no tokenizer.json. Raises CheckpointError."""
    import transformers

    found = checkpoint.tokenizer_fields.get("tokenizer_class") or name
    if found != name:  # some models have another family's weights and tell languages elsewhere
        raise CheckpointError(f"expected a tokenizer_class of {name}, found {found}")
    return _read(getattr(transformers, name), checkpoint)


def _read(kind: Any, checkpoint: Checkpoint) -> Any:
    try:
        return kind.from_pretrained(str(checkpoint.folder), local_files_only=True)
    except Exception as error:  # whatever the libraries raise over a broken file
        reason = str(error).strip().partition("\n")[0]
        name = kind.__name__
        raise CheckpointError(f"{checkpoint.folder}: no {name} can be read: {reason}") from error


def json_tokenizer(tokenizer: Any) -> tuple[JsonTokenizer, dict[str, Path | str]]:
    """The tokenizer.json of a transformers tokenizer, and its place in the card."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    card = JsonTokenizer(
        kind="tokenizers",
        file=TOKENIZER_FILE,
        clean_up_spaces=bool(tokenizer.clean_up_tokenization_spaces),
    )
    return card, {TOKENIZER_FILE: backend.to_str()}


def vocabulary_tokenizer(
    checkpoint: Checkpoint, files: Sequence[str], special_tokens: Sequence[int], *, clean_up: bool
) -> tuple[VocabularyTokenizer, dict[str, Path | str]]:
    """SentencePiece models and vocabularies: source, target, and the vocabulary of each."""
    paths = [checkpoint.file(name) for name in files]
    source, target, source_vocabulary, target_vocabulary = files
    card = VocabularyTokenizer(
        kind="sentencepiece-vocabulary",
        source=source,
        target=target,
        source_vocabulary=source_vocabulary,
        target_vocabulary=target_vocabulary,
        special_tokens=tuple(special_tokens),
        clean_up_spaces=clean_up,
    )
    return card, dict(zip(files, paths, strict=True))


def read_vocabulary(path: Path) -> dict[str, int]:
    """Ids by piece. Raises CheckpointError."""
    vocabulary = read_json(path)
    if not all(isinstance(token, int) for token in vocabulary.values()):
        raise CheckpointError(f"expected ids of pieces in {path}")
    return vocabulary


def pair_of(languages: Pair) -> LanguagePair:
    """--languages in BCP 47. Raises CheckpointError for what is no language."""
    return LanguagePair(source=asked_code(languages.source), target=asked_code(languages.target))


def asked_code(code: str) -> str:
    """BCP 47 of a code of --languages. Raises CheckpointError for what is no language."""
    try:
        return standard_code(code)
    except ValueError as error:
        raise CheckpointError(f"--languages {code}: {error}") from error


def chosen(languages: Sequence[Language], code: str) -> Language:
    """The language that somebody names by its code or by the model's own name."""
    wanted = {code.lower()}
    with suppress(ValueError):
        wanted.add(standard_code(code).lower())
    for language in languages:
        if wanted & {language.code.lower(), language.name.lower()}:
            return language
    known = ", ".join(language.name for language in languages[:12])
    raise CheckpointError(f"--languages {code}: the model has {known}, ... but no such language")


def decoder_start(generation: Generation) -> int:
    """The id that generating begins with. Raises CheckpointError."""
    if generation.decoder_start is None:
        raise CheckpointError("expected a decoder_start_token_id, found none")
    return generation.decoder_start


@dataclass(frozen=True, slots=True)
class Told:
    """Where a multilingual model is told its languages, as `Tokens` has it."""

    source: tuple[SourcePart, ...]
    decoder_start: TargetPart
    forced_bos: TargetPart | None = None


def multilingual(
    told: Told,
    sources: Sequence[Language],
    targets: Sequence[Language],
    asked: Pair | None,
) -> tuple[Told, tuple[LanguagePair, ...], Languages | None]:
    """All languages of a model; or, where a pair is asked for, a model of that pair alone.

    Raises CheckpointError for a pair that the model has not.
    """
    if asked is None:
        return told, (), Languages(sources=tuple(sources), targets=tuple(targets))
    source, target = chosen(sources, asked.source), chosen(targets, asked.target)
    ids: dict[Any, Any] = {"source_language": source.token, "target_language": target.token}
    fixed = Told(
        source=tuple(ids.get(part, part) for part in told.source),
        decoder_start=ids.get(told.decoder_start, told.decoder_start),
        forced_bos=ids.get(told.forced_bos, told.forced_bos),
    )
    return fixed, (LanguagePair(source=source.code, target=target.code),), None


def only(languages: Sequence[Language], token: int | None) -> Sequence[Language]:
    """The one language of a token that a checkpoint always begins with; else all of them."""
    return [one for one in languages if one.token == token] or languages
