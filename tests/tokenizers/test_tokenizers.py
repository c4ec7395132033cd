"""Tokenizers of checkpoints beside transformers' own, both ways, and what texts must not do."""

import random
from pathlib import Path

import pytest

from service.bundle import TranslationCard
from service.errors import BundleError
from service.translation.tokenizer_kinds import open_tokenizer
from tests.tokenizers.families import FAMILIES, Family, Make, bart, m2m100, marian, mbart, nllb
from tests.tokenizers.lines import strange_lines

NUM_LINES = 2000
LINES = strange_lines(NUM_LINES, seed=2)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    """One after the other, each trained once."""
    return FAMILIES[request.param](tmp_path_factory.mktemp("tokenizer"))


def test_the_lines_are_as_strange_as_they_should_be() -> None:
    text = "".join(LINES)
    assert len(set(LINES)) > 0.9 * NUM_LINES
    for kind in ("😀", "\0", "\u202e", "\u3000", "  ", "\n", "中", "ש", "ﬁ", "\u2581"):
        assert text.count(kind) > 10


def test_sources_are_what_transformers_makes_of_them(family: Family) -> None:
    ours = family.ours.encode(LINES, family.direction)
    for line, ids in zip(LINES, ours, strict=True):
        assert family.theirs(family.prefix + line).input_ids == ids, repr(line)


def test_translations_are_read_as_transformers_reads_them(family: Family) -> None:
    for ids in target_ids(family):
        assert family.ours.decode(ids) == family.theirs.decode(ids, skip_special_tokens=True)


def test_any_ids_are_read_as_transformers_reads_them(family: Family) -> None:
    """Special tokens among them, anywhere, and such as no text ever becomes."""
    for ids in random_ids(family, seed=3):
        ours, theirs = family.ours.decode(ids), family.theirs.decode(ids, skip_special_tokens=True)
        assert ours == theirs, ids


@pytest.mark.parametrize("make", [marian, m2m100, mbart, nllb, bart])
def test_spaces_are_cleaned_up_where_transformers_does(make: Make, tmp_path: Path) -> None:
    family = make(tmp_path, clean_up=True)
    assert family.theirs.clean_up_tokenization_spaces
    num_cleaned = 0
    for ids in [*random_ids(family, seed=4), *target_ids(family)]:
        cleaned = family.theirs.decode(ids, skip_special_tokens=True)
        assert family.ours.decode(ids) == cleaned
        kept = family.theirs.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        num_cleaned += any(spaced in kept for spaced in (" .", " ,", " ' "))
    assert num_cleaned


def test_what_a_stream_sends_of_a_translation_stays(family: Family) -> None:
    """A stream sends the words before the last space; further tokens must leave them alone."""
    for ids in random_ids(family, seed=5)[:400]:
        whole = family.ours.decode(ids)
        for end in range(len(ids)):
            text = family.ours.decode(ids[:end])
            assert whole.startswith(text[: max(text.rfind(" "), 0)])


def test_a_text_has_no_special_tokens_whatever_it_says(family: Family) -> None:
    """transformers would end "a</s>b" in the middle, and translate "__fr__ a" from French.

    Here both are text: as with its `split_special_tokens`, but for unigram vocabularies, which have
    special tokens among their pieces. Those are unknown words.
    """
    unk = family.theirs.unk_token_id
    forbidden = set(family.theirs.all_special_ids) - {unk}
    front, back = family.frame
    for token in family.theirs.all_special_tokens:
        for text in (token, f"a {token} b", f"a{token}b", f"{token}{token}", f"{token} Haus"):
            (ids,) = family.ours.encode([text], family.direction)
            split = family.theirs(family.prefix + text, split_special_tokens=True).input_ids
            inner = split[len(front) : len(split) - len(back)]
            expected = [unk if token_id in forbidden else token_id for token_id in inner]
            assert ids == [*front, *expected, *back]
            assert expected


def test_a_marian_text_cannot_choose_its_language(tmp_path: Path) -> None:
    family = marian(tmp_path)
    german = family.direction.target.token
    for text in (">>fra<< Haus", ">>fra<<Haus", ">>fra<<"):
        (ids,) = family.ours.encode([text], family.direction)
        assert ids[0] == german
        pieces = family.theirs.spm_source.encode(text, out_type=str)
        assert ids[1:-1] == family.theirs.convert_tokens_to_ids(pieces)
        assert not set(ids[1:]) & {family.theirs.encoder[">>fra<<"], german}


def test_a_language_that_is_forced_is_no_text_even_if_the_checkpoint_calls_it_ordinary(
    tmp_path: Path,
) -> None:
    """Tokenizers of M2M100 that version 5 of transformers saved: it writes "__de__" itself."""
    family = m2m100(tmp_path, languages_are_special=False)
    german = family.direction.target.token
    (ids,) = family.ours.encode(["Haus"], family.direction)
    assert family.theirs.decode([german], skip_special_tokens=True) == "__de__"
    assert family.ours.decode([german, *ids[1:]]) == family.ours.decode(ids[1:])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "expected JSON in"),
        ("[]", "expected an object from pieces to ids"),
        ('{"a": "b"}', "expected ids under 12 in .*, found 'b' of 'a'"),
        ('{"a": -1}', "found -1 of 'a'"),
        ('{"a": 12}', "found 12 of 'a'"),
    ],
)
def test_a_vocabulary_that_does_not_fit_is_refused(
    tmp_path: Path, content: str, message: str
) -> None:
    card = of_size(marian(tmp_path).card, 12)
    (tmp_path / "vocab.json").write_text(content)
    with pytest.raises(BundleError, match=message):
        open_tokenizer(tmp_path, card)


def test_a_tokenizer_json_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    card = bart(tmp_path).card
    with pytest.raises(BundleError, match="expected a tokenizer of ids under 100, found 1199"):
        open_tokenizer(tmp_path, of_size(card, 100))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BundleError, match=r"expected a tokenizer.json in "):
        open_tokenizer(tmp_path, card)


def of_size(card: TranslationCard, vocab_size: int) -> TranslationCard:
    """The card of a model with another number of tokens."""
    sizes = {"vocab_size": vocab_size, "source_vocab_size": None}
    architecture = card.architecture.model_copy(update=sizes)
    return card.model_copy(update={"architecture": architecture})


def target_ids(family: Family) -> list[list[int]]:
    """What the lines would be as translations."""
    return [family.theirs(text_target=line).input_ids for line in LINES]


def random_ids(family: Family, seed: int) -> list[list[int]]:
    """Of 0 to 25 tokens each, many of them special ones."""
    rng = random.Random(seed)
    special = family.theirs.all_special_ids
    known = [one for one in range(family.card.architecture.vocab_size) if one not in family.unlike]
    return [
        [rng.choice(special if rng.random() < 0.15 else known) for _ in range(rng.randrange(26))]
        for _ in range(NUM_LINES)
    ]
