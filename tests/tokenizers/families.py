"""Small tokenizers of every family, trained here: transformers' own, and ours of the same files."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
import transformers
from transformers.utils import sentencepiece_model_pb2_new as sentencepiece_model_pb2

from service.bundle import (
    Decoding,
    Direction,
    JsonTokenizer,
    Language,
    LanguagePair,
    Languages,
    Provenance,
    Tokens,
    TranslationArchitecture,
    TranslationCard,
    TranslationLimits,
    VocabularyTokenizer,
)
from service.languages import choose_direction
from service.translation.tokenizer import Tokenizer
from service.translation.tokenizer_kinds import open_tokenizer
from tests.tokenizers.lines import strange_lines

TRAINING = strange_lines(3000, seed=1)
DROPPED = 40  # pieces that a vocabulary lacks
FAIRSEQ = ("<s>", "<pad>", "</s>", "<unk>")


@dataclass(frozen=True, slots=True)
class Family:
    """One tokenizer twice."""

    theirs: Any  # transformers', set to the direction
    ours: Tokenizer
    card: TranslationCard
    direction: Direction
    prefix: str = ""  # what transformers is told the target language by
    # Ids that transformers decodes in a way of its own, and no model of the family chooses.
    unlike: frozenset[int] = field(default=frozenset())

    @property
    def frame(self) -> tuple[list[int], list[int]]:
        """The ids around a text."""
        return self.card.tokens.frame(self.direction)


Make = Callable[..., Family]


def marian(folder: Path, *, separate: bool = False, clean_up: bool = False) -> Family:
    """source.spm, target.spm and vocab.json; with `separate`, target_vocab.json and other sizes."""
    source, target = train_spm(folder, "source", 800), train_spm(folder, "target", 900)
    names = [">>deu<<", ">>fra<<", ">>cmn_Hans<<"]
    if separate:
        sides = pieces_of(source)[DROPPED:], pieces_of(target)
    else:
        shared = list(dict.fromkeys([*pieces_of(source), *pieces_of(target)]))
        sides = (shared[DROPPED:],) * 2
    vocabularies = [_numbered(["</s>", "<unk>", *side, *names, "<pad>"]) for side in sides]
    for name, vocabulary in zip(("vocab", "target_vocab"), vocabularies, strict=True):
        (folder / f"{name}.json").write_text(json.dumps(vocabulary))
    theirs = transformers.MarianTokenizer(
        str(source), str(target), str(folder / "vocab.json"),
        target_vocab_file=str(folder / "target_vocab.json"), separate_vocabs=separate,
        clean_up_tokenization_spaces=clean_up,
    )  # fmt: skip
    read, written = vocabularies
    languages = [
        Language(code=code, token=read[name], name=name.strip("<>"))
        for code, name in zip(("de", "fr", "zh-Hans"), names, strict=True)
    ]
    special = {read["</s>"], read["<unk>"], read["<pad>"]}
    card = card_of(
        VocabularyTokenizer(
            kind="sentencepiece-vocabulary",
            source="source.spm",
            target="target.spm" if separate else "source.spm",
            source_vocabulary="vocab.json",
            target_vocabulary="target_vocab.json",
            special_tokens=tuple(special),
            clean_up_spaces=clean_up,
        ),
        Tokens(
            pad=written["<pad>"], eos=0, unk=1, decoder_start=written["<pad>"],
            source=("target_language", "text", 0),
        ),
        len(written),
        source_vocab_size=len(read),
        languages=Languages(sources=(Language(code="en"),), targets=tuple(languages)),
    )  # fmt: skip
    family = _family(theirs, folder, card)
    return replace(family, prefix=f"{names[0]} ", unlike=frozenset({written["<pad>"]} - special))


def m2m100(folder: Path, *, languages_are_special: bool = True, clean_up: bool = False) -> Family:
    """sentencepiece.bpe.model and vocab.json; the languages come behind them."""
    spm = train_spm(folder, "sentencepiece.bpe", 900, model_type="bpe")
    vocabulary = _numbered([*FAIRSEQ, *pieces_of(spm)[DROPPED:]])
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    known = transformers.models.m2m_100.tokenization_m2m_100.FAIRSEQ_LANGUAGE_CODES["m2m100"]
    theirs = transformers.M2M100Tokenizer(
        str(folder / "vocab.json"), str(spm), src_lang="en", tgt_lang="de",
        additional_special_tokens=[f"__{code}__" for code in known if languages_are_special],
        clean_up_tokenization_spaces=clean_up,
    )  # fmt: skip
    languages = [Language(code=code, token=theirs.get_lang_id(code), name=code) for code in known]
    card = card_of(
        VocabularyTokenizer(
            kind="sentencepiece-vocabulary",
            source=spm.name,
            target=spm.name,
            source_vocabulary="vocab.json",
            target_vocabulary="vocab.json",
            special_tokens=tuple(theirs.all_special_ids),
            clean_up_spaces=clean_up,
        ),
        Tokens(
            pad=1, eos=2, unk=3, decoder_start=2, forced_bos="target_language",
            source=("source_language", "text", 2),
        ),
        len(vocabulary) + len(known) + 8,  # made-up words
        languages=Languages(sources=tuple(languages), targets=tuple(languages)),
    )  # fmt: skip
    return _family(theirs, folder, card)


def nllb(folder: Path, *, clean_up: bool = False) -> Family:
    """A tokenizer.json of BPE, with SentencePiece's normalisation."""
    vocabulary, merges = _train_bpe(
        tokenizers.pre_tokenizers.Metaspace(prepend_scheme="always"), FAIRSEQ
    )
    theirs = transformers.NllbTokenizer(
        vocab=vocabulary, merges=merges, _spm_precompiled_charsmap=_charsmap(folder),
        src_lang="eng_Latn", tgt_lang="deu_Latn", clean_up_tokenization_spaces=clean_up,
    )  # fmt: skip
    names = {"en": "eng_Latn", "de": "deu_Latn", "zh-Hans": "zho_Hans", "zh-Hant": "zho_Hant"}
    tokens = Tokens(
        pad=1, eos=2, unk=3, decoder_start=2, forced_bos="target_language",
        source=("source_language", "text", 2),
    )  # fmt: skip
    return _fast(theirs, folder, tokens, names)


def mbart(folder: Path, *, clean_up: bool = False) -> Family:
    """A tokenizer.json of a unigram model, which lists special tokens among its pieces."""
    kind = transformers.MBartTokenizer
    codes = transformers.models.mbart.tokenization_mbart.FAIRSEQ_LANGUAGE_CODES
    theirs = kind(
        vocab=_unigram(folder, codes), src_lang="en_XX", tgt_lang="de_DE",
        clean_up_tokenization_spaces=clean_up,
    )  # fmt: skip
    tokens = Tokens(
        pad=1, eos=2, unk=3, decoder_start="target_language", source=("text", 2, "source_language")
    )
    return _fast(theirs, folder, tokens, {"en": "en_XX", "de": "de_DE", "ro": "ro_RO"})


def mbart50(folder: Path) -> Family:
    """The same with SentencePiece's normalisation, and the language in front."""
    codes = transformers.models.mbart50.tokenization_mbart50.FAIRSEQ_LANGUAGE_CODES
    theirs = transformers.MBart50Tokenizer(
        vocab=_unigram(folder, codes), _spm_precompiled_charsmap=_charsmap(folder),
        src_lang="en_XX", tgt_lang="de_DE",
    )  # fmt: skip
    tokens = Tokens(
        pad=1, eos=2, unk=3, decoder_start=2, forced_bos="target_language",
        source=("source_language", "text", 2),
    )  # fmt: skip
    return _fast(theirs, folder, tokens, {"en": "en_XX", "de": "de_DE", "sl": "sl_SI"})


def bart(folder: Path, *, clean_up: bool = False) -> Family:
    """A tokenizer.json of BPE over bytes."""
    special = (*FAIRSEQ, "<mask>")
    pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    vocabulary, merges = _train_bpe(pre_tokenizer, special, alphabet)
    theirs = transformers.BartTokenizer(
        vocab=vocabulary, merges=merges, clean_up_tokenization_spaces=clean_up
    )
    tokens = Tokens(pad=1, eos=2, unk=3, decoder_start=2, forced_bos=0, source=(0, "text", 2))
    return _fast(theirs, folder, tokens, {})


def train_spm(folder: Path, name: str, size: int, **given: Any) -> Path:
    """A SentencePiece model of the lines above."""
    lines = [line for line in TRAINING if "\0" not in line]  # the trainer refuses these
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines[:: 1 if name == "source" else 2]),
        model_prefix=str(folder / name), vocab_size=size, character_coverage=0.98,
        minloglevel=2, num_threads=1, hard_vocab_limit=False, **given,
    )  # fmt: skip
    return (folder / name).with_name(f"{name}.model").rename(folder / f"{name}.spm")


def pieces_of(spm: Path) -> list[str]:
    """Its pieces, without its control symbols and its unknown one."""
    model = sentencepiece.SentencePieceProcessor(model_file=str(spm))
    return [model.IdToPiece(index) for index in range(3, len(model))]


def card_of(
    tokenizer: VocabularyTokenizer | JsonTokenizer,
    tokens: Tokens,
    vocab_size: int,
    *,
    source_vocab_size: int | None = None,
    languages: Languages | None = None,
) -> TranslationCard:
    """The card of a model that nobody has made."""
    return TranslationCard(
        name="small",
        precisions={"fp32": {"encoder": "encoder.onnx", "decoder": "decoder.onnx"}},
        provenance=Provenance(data="made by a test", licence="Apache-2.0", recipe="none"),
        architecture=TranslationArchitecture(
            encoder_layers=1, decoder_layers=1, d_model=8, num_heads=1, head_size=8, ffn_size=8,
            vocab_size=vocab_size, source_vocab_size=source_vocab_size, max_positions=64,
            norm="post", activation="relu", positions="sinusoidal",
        ),
        tokens=tokens,
        decoding=Decoding(max_target_tokens=32),
        language_pairs=() if languages else (LanguagePair(source="en", target="en"),),
        languages=languages,
        segmentation="sentences",
        tokenizer=tokenizer,
        limits=TranslationLimits(max_source_tokens=32, max_target_tokens=32),
    )  # fmt: skip


def _fast(theirs: Any, folder: Path, tokens: Tokens, names: dict[str, str]) -> Family:
    """Saved and loaded again, as a checkpoint is."""
    theirs.save_pretrained(folder)
    theirs = type(theirs).from_pretrained(folder)
    languages = tuple(
        Language(code=code, token=theirs.convert_tokens_to_ids(name), name=name)
        for code, name in names.items()
    )
    card = card_of(
        JsonTokenizer(
            kind="tokenizers",
            file="tokenizer.json",
            clean_up_spaces=theirs.clean_up_tokenization_spaces,
        ),
        tokens,
        len(theirs),
        languages=Languages(sources=languages, targets=languages) if languages else None,
    )
    return _family(theirs, folder, card)


def _family(theirs: Any, folder: Path, card: TranslationCard) -> Family:
    wanted = ("en", "de") if card.languages is not None else ("en", "en")
    return Family(
        theirs=theirs,
        ours=Tokenizer(open_tokenizer(folder, card), card),
        card=card,
        direction=choose_direction(card, *wanted),
    )


def _numbered(pieces: Sequence[str]) -> dict[str, int]:
    return {piece: index for index, piece in enumerate(pieces)}


def _charsmap(folder: Path) -> bytes:
    """How SentencePiece normalises texts, as its models carry it."""
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(train_spm(folder, "charsmap", 400).read_bytes())
    charsmap: bytes = model.normalizer_spec.precompiled_charsmap
    return charsmap


def _unigram(folder: Path, codes: Sequence[str]) -> list[tuple[str, float]]:
    """Pieces and scores in fairseq's order."""
    model = sentencepiece.SentencePieceProcessor(model_file=str(train_spm(folder, "unigram", 800)))
    learned = [(model.IdToPiece(index), model.GetScore(index)) for index in range(3, len(model))]
    front, back = ([(token, 0.0) for token in tokens] for tokens in (FAIRSEQ, [*codes, "<mask>"]))
    return [*front, *learned, *back]


def _train_bpe(
    pre_tokenizer: Any, special: Sequence[str], alphabet: Sequence[str] = ()
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizer
    # Of equally common characters the trainer keeps others in every run; so they are chosen here.
    common = Counter("".join(TRAINING))
    kept = alphabet or ["\u2581", *sorted(common, key=lambda one: (-common[one], one))[:299]]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=1200, special_tokens=list(special), initial_alphabet=sorted(kept),
        limit_alphabet=len(kept), show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(TRAINING, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


FAMILIES: dict[str, Make] = {
    "marian": marian,
    "marian with separate vocabularies": lambda folder: marian(folder, separate=True),
    "m2m100": m2m100,
    "nllb": nllb,
    "mbart": mbart,
    "mbart-50": mbart50,
    "bart": bart,
}
