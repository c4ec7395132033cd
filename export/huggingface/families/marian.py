"""Marian: OPUS-MT's pairs and multilingual models.

transformers computes post-norm layers with sinusoids whatever `normalize_before`,
`normalize_embedding`, `add_final_layer_norm` and `static_position_embeddings` say; so does this.
"""

import re
from typing import Any

from export.huggingface.checkpoint import Checkpoint
from export.huggingface.errors import CheckpointError
from export.huggingface.families import Pair, common_architecture
from export.huggingface.generation import Generation
from export.huggingface.languages import languages_of, standard_code
from export.huggingface.texts import (
    Texts,
    Told,
    asked_code,
    decoder_start,
    multilingual,
    pair_of,
    read_vocabulary,
    slow_tokenizer,
    vocabulary_tokenizer,
)
from export.seq2seq import Seq2SeqConfig
from service.bundle import Language, LanguagePair, Tokens

ARCHITECTURES = ("MarianMTModel",)
SOURCE, TARGET, VOCABULARY, TARGET_VOCABULARY = (
    "source.spm",
    "target.spm",
    "vocab.json",
    "target_vocab.json",
)
GROUP = "mul"  # BCP 47's code of several languages; Marian calls such groups ROMANCE, or fi_nb_sv
LANGUAGE_TOKEN = re.compile(r">>(.+)<<")


def architecture(config: Any) -> Seq2SeqConfig:
    """Sizes and switches."""
    sizes = common_architecture(config)
    if not config.share_encoder_decoder_embeddings:
        sizes["vocab_size"] = config.decoder_vocab_size
    return Seq2SeqConfig(**sizes, norm="post", positions="sinusoidal")


def shares_sides(config: Any) -> bool:
    """Whether source and target have one embedding."""
    return bool(config.share_encoder_decoder_embeddings)


def texts(checkpoint: Checkpoint, generation: Generation, languages: Pair | None) -> Texts:
    """Two SentencePiece models over one vocabulary, or one each."""
    tokenizer = slow_tokenizer(checkpoint, "MarianTokenizer")
    separate = bool(tokenizer.separate_vocabs)
    vocabulary = read_vocabulary(checkpoint.file(VOCABULARY))
    card, files = vocabulary_tokenizer(
        checkpoint,
        # Without a vocabulary of its own the target is joined by the source's model.
        (
            (SOURCE, TARGET, VOCABULARY, TARGET_VOCABULARY)
            if separate
            else (SOURCE, SOURCE, VOCABULARY, VOCABULARY)
        ),
        tokenizer.all_special_ids,
        clean_up=bool(tokenizer.clean_up_tokenization_spaces),
    )
    told = Told(("text", generation.eos), decoder_start(generation), generation.forced_bos)
    targets = languages_of(
        (match[1], token)
        for piece, token in vocabulary.items()
        if (match := LANGUAGE_TOKEN.fullmatch(piece))
    )
    if targets:
        told = Told(("target_language", *told.source), told.decoder_start, told.forced_bos)
        sources = [Language(code=_source_code(checkpoint, languages))]
        told, pairs, known = multilingual(told, sources, targets, languages)
    else:
        pair = pair_of(languages) if languages else _own_pair(checkpoint)
        pairs, known = (pair,), None
    tokens = Tokens(
        pad=generation.pad,
        eos=generation.eos,
        unk=vocabulary[tokenizer.unk_token],
        source=told.source,
        decoder_start=told.decoder_start,
        forced_bos=told.forced_bos,
    )
    return Texts(card, files, tokens, language_pairs=pairs, languages=known)


def _own_pair(checkpoint: Checkpoint) -> LanguagePair:
    fields = checkpoint.tokenizer_fields
    source, target = fields.get("source_lang"), fields.get("target_lang")
    if not source or not target:
        raise CheckpointError(
            "expected source_lang and target_lang in tokenizer_config.json, or --languages SRC TGT"
        )
    return LanguagePair(source=_own_code(source), target=_own_code(target))


def _source_code(checkpoint: Checkpoint, languages: Pair | None) -> str:
    if languages is not None:
        return asked_code(languages.source)
    source = checkpoint.tokenizer_fields.get("source_lang")
    if not source:
        raise CheckpointError(
            "expected a source_lang in tokenizer_config.json, or --languages SRC TGT"
        )
    return _own_code(source)


def _own_code(name: str) -> str:
    try:
        return standard_code(name)
    except ValueError:
        return GROUP
