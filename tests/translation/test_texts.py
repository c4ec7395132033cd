"""From a text to pieces and back: nothing is lost, and the time is linear."""

import random
import threading
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.bundle import Bundle, Direction, LanguagePair
from service.errors import BundleError, InvalidOption, InvalidText, TextTooLong
from service.translation.options import DecodingOptions, Segmentation
from service.translation.preparation import PreparedText, TextPreparer
from service.translation.segmenter import Segments, split_text
from service.translation.tokenizer import Tokenizer

MAX_CHARACTERS = 60
EN_DE = Direction.of(LanguagePair(source="en", target="de"))

texts = st.text(
    st.one_of(
        st.sampled_from("aZ é.!?,;:- \t\r\n\u2013\u3000\u2028"), st.characters(codec="utf-8")
    ),
    max_size=400,
)


def at_most(limit: int, calls: list[str] | None = None):  # type: ignore[no-untyped-def]
    """A model that takes so many characters."""

    def fits(piece: str) -> bool:
        if calls is not None:
            calls.append(piece)
        return len(piece) <= limit

    return fits


def split(text: str, limit: int = 30, *, sentences: bool = True) -> Segments:
    return split_text(
        text,
        language="en",
        sentences=sentences,
        max_characters=MAX_CHARACTERS,
        fits=at_most(limit),
    )


@settings(max_examples=400, deadline=None)
@given(text=texts, limit=st.integers(1, 80), sentences=st.booleans())
def test_pieces_and_gaps_are_the_text(text: str, limit: int, sentences: bool) -> None:
    segments = split(text, limit, sentences=sentences)
    assert segments.join(segments.pieces) == text
    assert len(segments.gaps) == len(segments.pieces) + 1
    assert all(gap.isspace() for gap in segments.gaps if gap)
    assert all(piece == piece.strip() != "" for piece in segments.pieces)
    assert all(len(piece) <= min(limit, MAX_CHARACTERS) for piece in segments.pieces)


def test_sentences_are_split_and_their_spacing_is_kept() -> None:
    segments = split("  A dog runs.  A cat sleeps!\r\n\r\nNo title\tYes\n")
    assert segments.pieces == ("A dog runs.", "A cat sleeps!", "No title", "Yes")
    assert segments.gaps == ("  ", "  ", "\r\n\r\n", "\t", "\n")


def test_without_segmentation_a_text_is_one_piece() -> None:
    segments = split(" A dog.\nA cat. ", sentences=False)
    assert segments.pieces == ("A dog.\nA cat.",)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("one two three, four five six seven", ("one two three,", "four five six seven")),
        ("one two three four five six seven", ("one two three four", "five six seven")),
        ("abcdefghijklmnopqrstuvwxyz", ("abcdefghijklmnopqrst", "uvwxyz")),
    ],
)
def test_a_long_sentence_is_cut_at_the_best_place(text: str, pieces: tuple[str, ...]) -> None:
    segments = split(text, 20)
    assert segments.pieces == pieces
    assert segments.join(pieces) == text


@pytest.mark.parametrize("unit", ["a", "ab, ", "word ", "A cat. "])
def test_a_huge_text_asks_for_its_length_in_proportion(unit: str) -> None:
    """What `fits` costs is in proportion to its argument: count the characters it is given."""

    def cost(num_characters: int) -> tuple[int, int]:
        calls: list[str] = []
        text = unit * (num_characters // len(unit))
        split_text(text, language="en", sentences=True, max_characters=400, fits=at_most(50, calls))
        return len(calls), sum(map(len, calls))

    (small_calls, small_total), (calls, total) = cost(8192), cost(65536)
    assert calls <= 9 * small_calls
    assert total <= 9 * small_total
    assert calls <= 65536 / 50 * 20


@pytest.fixture(scope="module")
def preparer(bundle: Bundle) -> TextPreparer:
    limit = bundle.translation.limits.max_source_tokens
    return TextPreparer(Tokenizer.from_bundle(bundle), limit, 65536, 4096)


def prepare(preparer: TextPreparer, text: str, **given: int) -> object:
    (prepared,) = preparer.prepare([text], EN_DE, DecodingOptions(**given), Segmentation.SENTENCES)  # type: ignore[arg-type]
    return prepared


def test_no_source_is_longer_than_the_model_takes(
    preparer: TextPreparer, sentences: list[str]
) -> None:
    rng = random.Random(1)
    words = " ".join(sentences).replace(".", "").split()
    for text in (
        " ".join(rng.choices(words, k=500)),
        "x" * 5000,
        "\ufdfa" * 200,  # one character that becomes eighteen
        "\U0001f600" * 500,
        "1" * 65536,
    ):
        prepared = prepare(preparer, text)
        assert isinstance(prepared, PreparedText)
        assert max(map(len, prepared.source_ids)) <= preparer.max_source_tokens
        assert prepared.segments.join(prepared.segments.pieces) == text


def test_a_text_over_the_limit_has_an_error_of_its_own(preparer: TextPreparer) -> None:
    long, fine = preparer.prepare(
        ["é" * 32769, "é" * 32768], EN_DE, DecodingOptions(), Segmentation.SENTENCES
    )
    assert isinstance(long, TextTooLong)
    assert "65538 bytes, the limit is 65536" in long.message
    assert isinstance(fine, PreparedText)


def test_several_hypotheses_of_several_sentences_are_an_error(preparer: TextPreparer) -> None:
    options = {"beam_size": 4, "num_hypotheses": 2}
    assert isinstance(prepare(preparer, "A dog. A cat.", **options), InvalidOption)
    assert isinstance(prepare(preparer, "A dog.\n", **options), PreparedText)


def test_half_a_character_is_an_error_of_its_text(preparer: TextPreparer) -> None:
    """Regression: a lone surrogate, which JSON can spell, failed the whole call."""
    found = prepare(preparer, "abc\ud800")
    assert isinstance(found, InvalidText)
    assert found.message == "text has U+D800 at 3, half of a character"


def test_what_has_no_tokens_is_not_decoded(preparer: TextPreparer) -> None:
    for text in ("", " \r\n\t ", "\u3000", "\x01"):
        prepared = prepare(preparer, text)
        assert isinstance(prepared, PreparedText)
        assert prepared.num_sequences == 0


@pytest.mark.parametrize(("code", "count"), [("de", 1), ("de-AT", 1), ("en", 2)])
def test_sentences_end_where_they_do_in_the_language_of_the_source(
    preparer: TextPreparer, code: str, count: int
) -> None:
    """ "3. Mai" is a date in German, in Austria too."""
    direction = Direction.of(LanguagePair(source=code, target="fr"))
    text = "Er kam am 3. Mai mit Prof. Maier."
    (found,) = preparer.prepare([text], direction, DecodingOptions(), Segmentation.SENTENCES)
    assert isinstance(found, PreparedText)
    assert len(found.segments.pieces) == count


def test_a_tokenizer_of_another_size_than_the_model_is_refused(bundle: Bundle) -> None:
    """Regression: an id without a piece, chosen by one sequence, hung its neighbours' calls."""
    card = bundle.translation
    for wrong in (card.architecture.vocab_size - 1, card.architecture.vocab_size + 1):
        architecture = card.architecture.model_copy(update={"vocab_size": wrong})
        other = replace(bundle, card=card.model_copy(update={"architecture": architecture}))
        with pytest.raises(BundleError, match=f"expected tokenizers of {wrong} pieces"):
            Tokenizer.from_bundle(other)


def test_a_text_of_more_sequences_than_the_queue_takes_is_that_texts_error(
    preparer: TextPreparer,
) -> None:
    too_many, fine = replace(preparer, max_sequences=8).prepare(
        ["a\t" * 9, "A dog runs."], EN_DE, DecodingOptions(), Segmentation.SENTENCES
    )
    assert isinstance(too_many, TextTooLong)
    assert too_many.message == "text has 9 sequences, the queue takes 8"
    assert isinstance(fine, PreparedText)


def test_a_preparation_that_nobody_waits_for_any_more_ends_before_the_next_text(
    preparer: TextPreparer,
) -> None:
    abandoned = threading.Event()
    abandoned.set()
    texts = ["A dog runs."] * 3
    assert not preparer.prepare(texts, EN_DE, DecodingOptions(), Segmentation.SENTENCES, abandoned)
