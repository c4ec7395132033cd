"""M2M100 and NLLB: pre-norm, the sinusoids of tensor2tensor, one bundle for all languages."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from export.huggingface.checkpoint import Checkpoint
from export.huggingface.families import Pair, common_architecture
from export.huggingface.generation import Generation
from export.huggingface.languages import languages_of
from export.huggingface.texts import (
    TOKENIZER_FILE,
    Texts,
    Told,
    decoder_start,
    fast_tokenizer,
    json_tokenizer,
    multilingual,
    only,
    slow_tokenizer,
    vocabulary_tokenizer,
)
from export.seq2seq import Seq2SeqConfig
from service.bundle import Tokenizer, Tokens

ARCHITECTURES = ("M2M100ForConditionalGeneration", "M2M100Model")
SPM, VOCABULARY = "sentencepiece.bpe.model", "vocab.json"
NLLB_TOKENIZERS = {"NllbTokenizer": "NllbTokenizer", "NllbTokenizerFast": "NllbTokenizer"}
NLLB_LANGUAGE = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")


class _Read(NamedTuple):
    tokenizer: Any
    card: Tokenizer
    files: Mapping[str, Path | str]
    languages: Sequence[tuple[str, int]]  # the model's own names, and their tokens


def architecture(config: Any) -> Seq2SeqConfig:
    """Sizes and switches. The first token stands behind the padding token's place."""
    return Seq2SeqConfig(
        **common_architecture(config),
        norm="pre",
        positions="tensor2tensor",
        position_offset=config.pad_token_id + 1,
    )


def shares_sides(config: Any) -> bool:
    """One embedding, always."""
    return True


def texts(checkpoint: Checkpoint, generation: Generation, languages: Pair | None) -> Texts:
    """The tokenizer of M2M100 where there is a vocab.json, else NLLB's."""
    tokenizer, card, files, named = (
        _m2m100(checkpoint)
        if checkpoint.has(VOCABULARY) and not checkpoint.has(TOKENIZER_FILE)
        else _nllb(checkpoint)
    )
    legacy = bool(getattr(tokenizer, "legacy_behaviour", False))  # the language behind the text
    known = languages_of(named)
    eos = generation.eos
    told = Told(
        source=("text", eos, "source_language") if legacy else ("source_language", "text", eos),
        decoder_start=decoder_start(generation),
        forced_bos="target_language",
    )
    told, pairs, both = multilingual(told, known, only(known, generation.forced_bos), languages)
    tokens = Tokens(
        pad=generation.pad,
        eos=eos,
        unk=tokenizer.unk_token_id,
        source=told.source,
        decoder_start=told.decoder_start,
        forced_bos=told.forced_bos,
    )
    return Texts(card, files, tokens, language_pairs=pairs, languages=both)


def _m2m100(checkpoint: Checkpoint) -> _Read:
    tokenizer = slow_tokenizer(checkpoint, "M2M100Tokenizer")
    card, files = vocabulary_tokenizer(
        checkpoint,
        (SPM, SPM, VOCABULARY, VOCABULARY),
        tokenizer.all_special_ids,
        clean_up=bool(tokenizer.clean_up_tokenization_spaces),
    )
    return _Read(tokenizer, card, files, list(tokenizer.lang_code_to_id.items()))


def _nllb(checkpoint: Checkpoint) -> _Read:
    tokenizer = fast_tokenizer(checkpoint, NLLB_TOKENIZERS, "NllbTokenizer")
    card, files = json_tokenizer(tokenizer)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda piece: piece[1])
    named = [(name, token) for name, token in vocabulary if NLLB_LANGUAGE.fullmatch(name)]
    return _Read(tokenizer, card, files, named)
