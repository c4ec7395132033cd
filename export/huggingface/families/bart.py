"""BART: learned positions, a norm behind the embeddings, post-norm; one language, or a pair.

transformers ignores `normalize_before`, `normalize_embedding`, `add_final_layer_norm`,
`static_position_embeddings` and `extra_pos_embeddings`; so does this.
"""

from typing import Any

from export.huggingface.checkpoint import Checkpoint
from export.huggingface.errors import CheckpointError
from export.huggingface.families import Pair, common_architecture
from export.huggingface.generation import Generation
from export.huggingface.texts import Texts, decoder_start, fast_tokenizer, json_tokenizer, pair_of
from export.seq2seq import Seq2SeqConfig
from service.bundle import Tokens

ARCHITECTURES = ("BartForConditionalGeneration", "BartModel")
TOKENIZERS = dict.fromkeys(
    ("BartTokenizer", "BartTokenizerFast", "RobertaTokenizer", "RobertaTokenizerFast"),
    "BartTokenizer",
)
POSITION_OFFSET = 2


def architecture(config: Any) -> Seq2SeqConfig:
    """Sizes and switches."""
    return Seq2SeqConfig(
        **common_architecture(config),
        norm="post",
        positions="learned",
        position_offset=POSITION_OFFSET,
        embedding_norm=True,
    )


def shares_sides(config: Any) -> bool:
    """One embedding, always."""
    return True


def texts(checkpoint: Checkpoint, generation: Generation, languages: Pair | None) -> Texts:
    """Byte-level BPE between <s> and </s>. A model from a language into itself summarises."""
    if languages is None:
        raise CheckpointError(
            "expected --languages SRC TGT: a BART checkpoint does not say its languages; a model "
            "that summarises has the same one twice, such as --languages en en"
        )
    tokenizer = fast_tokenizer(checkpoint, TOKENIZERS, "BartTokenizer")
    card, files = json_tokenizer(tokenizer)
    tokens = Tokens(
        pad=generation.pad,
        eos=generation.eos,
        unk=tokenizer.unk_token_id,
        source=(tokenizer.bos_token_id, "text", tokenizer.eos_token_id),
        decoder_start=decoder_start(generation),
        forced_bos=generation.forced_bos,
    )
    pair = pair_of(languages)
    return Texts(
        card,
        files,
        tokens,
        language_pairs=(pair,),
        segmentation="none" if pair.source == pair.target else "sentences",
    )
