"""mBART and mBART-50: BART with pre-norm layers and a final norm, told its languages by tokens.

mBART begins a translation with the target's token and ends a source with the source's; mBART-50
begins with the end token, forces the target's as the first one, and begins a source with its own.
"""

import re
from typing import Any

from export.huggingface.checkpoint import Checkpoint
from export.huggingface.families import Pair, common_architecture
from export.huggingface.families.bart import POSITION_OFFSET
from export.huggingface.generation import Generation
from export.huggingface.languages import languages_of
from export.huggingface.texts import (
    Texts,
    Told,
    decoder_start,
    fast_tokenizer,
    json_tokenizer,
    multilingual,
    only,
)
from export.seq2seq import Seq2SeqConfig
from service.bundle import Tokens

ARCHITECTURES = ("MBartForConditionalGeneration", "MBartModel")
TOKENIZERS = {
    "MBartTokenizer": "MBartTokenizer",
    "MBartTokenizerFast": "MBartTokenizer",
    "MBart50Tokenizer": "MBart50Tokenizer",
    "MBart50TokenizerFast": "MBart50Tokenizer",
}
LANGUAGE = re.compile(r"[a-z]{2}_[A-Z]{2}")


def architecture(config: Any) -> Seq2SeqConfig:
    """Sizes and switches."""
    return Seq2SeqConfig(
        **common_architecture(config),
        norm="pre",
        positions="learned",
        position_offset=POSITION_OFFSET,
        embedding_norm=True,
    )


def shares_sides(config: Any) -> bool:
    """One embedding, always."""
    return True


def texts(checkpoint: Checkpoint, generation: Generation, languages: Pair | None) -> Texts:
    """Which of the two it is, its tokenizer says."""
    tokenizer = fast_tokenizer(checkpoint, TOKENIZERS, "MBartTokenizer")
    card, files = json_tokenizer(tokenizer)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda piece: piece[1])
    known = languages_of((name, token) for name, token in vocabulary if LANGUAGE.fullmatch(name))
    eos = generation.eos
    if type(tokenizer).__name__ == "MBart50Tokenizer":
        always = generation.forced_bos
        told = Told(("source_language", "text", eos), decoder_start(generation), "target_language")
    else:
        always = generation.decoder_start
        told = Told(("text", eos, "source_language"), "target_language", generation.forced_bos)
    told, pairs, both = multilingual(told, known, only(known, always), languages)
    tokens = Tokens(
        pad=generation.pad,
        eos=eos,
        unk=tokenizer.unk_token_id,
        source=told.source,
        decoder_start=told.decoder_start,
        forced_bos=told.forced_bos,
    )
    return Texts(card, files, tokens, language_pairs=pairs, languages=both)
