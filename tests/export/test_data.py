"""Reading, changing and batching data: nothing is lost, and the same seed gives the same."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from export.data.bpe_dropout import BpeDropout
from export.data.images import augment, read_image_folder
from export.data.parallel import read_parallel
from export.data.perturb import perturb, perturb_all
from export.data.sampling import evenly_spaced
from export.data.tokens import (
    EOS_ID,
    TokenPair,
    batches_by_tokens,
    collate,
    encode_pairs,
    encode_pairs_with_dropout,
    load_tokenizer,
)
from export.verify.translation import SENTENCES
from tests.export.runs import ROOT, write_pictures

LENGTHS = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=60)
PAIRS = [(f"Number {n} is here.", f"Nummer {n} ist hier.") for n in range(300)]


@given(LENGTHS, st.integers(8, 200), st.integers(0, 3))
def test_batches_hold_every_pair_once_and_are_not_too_large(
    lengths: list[tuple[int, int]], max_tokens: int, seed: int
) -> None:
    pairs = [TokenPair([1] * source, [1] * target) for source, target in lengths]
    batches = batches_by_tokens(pairs, max_tokens, random.Random(seed))
    assert batches == batches_by_tokens(pairs, max_tokens, random.Random(seed))
    assert sorted(id(pair) for batch in batches for pair in batch) == sorted(map(id, pairs))
    for batch in batches:
        longest = max(max(len(pair.source), len(pair.target)) for pair in batch)
        assert len(batch) == 1 or longest * len(batch) <= max_tokens


def test_no_pairs_are_no_batches() -> None:
    assert batches_by_tokens([], 100, random.Random(1)) == []


def test_padding_is_masked() -> None:
    batch = collate([TokenPair([5, 2], [6, 7, 2]), TokenPair([5, 8, 9, 2], [2])])
    assert batch.input_ids.tolist() == [[5, 2, 0, 0], [5, 8, 9, 2]]
    assert batch.attention_mask.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch.labels.tolist() == [[6, 7, 2], [2, 0, 0]]
    assert batch.num_target_tokens == 4


@pytest.mark.parametrize("change", [perturb, perturb_all])
def test_changed_pairs_stay_aligned(change: object) -> None:
    """Whatever is joined, copied or cut, the numbers of both sides are the same ones."""
    changed = change(PAIRS, random.Random(3))  # type: ignore[operator]
    assert len(changed) == len(PAIRS)
    assert changed == change(PAIRS, random.Random(3))  # type: ignore[operator]
    for (source, target), (before, _) in zip(changed, PAIRS, strict=True):
        digits = [
            "".join(c if c in "0123456789." else " " for c in text) for text in (source, target)
        ]
        numbers = [[word.rstrip(".") for word in text.split()] for text in digits]
        assert numbers[0] == numbers[1]
        assert before.split()[1] in source
        assert source.endswith(".") == target.endswith(".")


def test_perturbing_changes_some_and_perturbing_all_changes_every_pair() -> None:
    some = perturb(PAIRS, random.Random(1))
    assert 0.1 < sum(a != b for a, b in zip(some, PAIRS, strict=True)) / len(PAIRS) < 0.3
    every = perturb_all(PAIRS, random.Random(1))
    assert all(a != b for a, b in zip(every, PAIRS, strict=True))


def test_a_sentence_of_stops_alone_is_not_cut_to_nothing() -> None:
    """It used to become an empty sentence with an empty translation."""
    assert perturb_all([("...", "..."), ("?", "!")], random.Random(1))[1] == ("?", "!")


def test_without_dropout_words_are_in_their_most_merged_form(tokenizer_path: Path) -> None:
    tokenizer = load_tokenizer(tokenizer_path)
    texts = [
        *SENTENCES,
        "",
        "  two  spaces ",
        "n\u00a0b",
        "unseen: \u20ac \u00df \u4e2d",
        "\ufb01ne",
    ]
    pairs = [(text, text) for text in texts]
    encoder = BpeDropout(tokenizer, 0.0)
    encoded = encode_pairs_with_dropout(encoder, pairs, random.Random(1))
    assert encoded == encode_pairs(tokenizer, pairs)


def test_dropout_splits_words_and_loses_nothing(tokenizer_path: Path) -> None:
    tokenizer = load_tokenizer(tokenizer_path)
    pairs = [(text, text) for text in SENTENCES]
    encoder = BpeDropout(tokenizer, 0.3)
    whole = encode_pairs(tokenizer, pairs)
    dropped = encode_pairs_with_dropout(encoder, pairs, random.Random(1))
    assert dropped != whole
    for before, after in zip(whole, dropped, strict=True):
        assert after.source[-1] == EOS_ID
        assert len(after.source) >= len(before.source)
        assert tokenizer.decode(after.source[:-1]) == tokenizer.decode(before.source[:-1])
    all_dropped = BpeDropout(tokenizer, 1 - 1e-12).encode("window", random.Random(1))
    assert len(all_dropped) == len("_window")


def test_dropout_is_the_same_in_every_process(tokenizer_path: Path) -> None:
    """sentencepiece's own sampling is not, whatever its seed: resumed runs got other batches."""
    script = (
        "import random, sys; from pathlib import Path\n"
        "from export.data.bpe_dropout import BpeDropout\n"
        "import sentencepiece\n"
        "tokenizer = sentencepiece.SentencePieceProcessor(model_file=sys.argv[1])\n"
        "encoder, rng = BpeDropout(tokenizer, 0.3), random.Random('1 0')\n"
        "print([encoder.encode('The old man reads a newspaper.', rng) for _ in range(20)])\n"
    )
    command = [sys.executable, "-c", script, str(tokenizer_path)]
    outputs = {
        subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout for _ in range(2)
    }
    assert len(outputs) == 1


def test_files_of_different_lengths_are_not_parallel(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one\ntwo\n")
    (tmp_path / "b").write_text("eins\n")
    with pytest.raises(ValueError, match=r"has 2 lines and .* has 1: not parallel"):
        read_parallel(tmp_path / "a", tmp_path / "b")


def test_blank_lines_and_other_line_ends_do_not_shift_pairs(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("one\r\n\r\nthree \u2028x\r\n".encode())
    (tmp_path / "b").write_bytes(b"eins\nzwei\ndrei")
    assert read_parallel(tmp_path / "a", tmp_path / "b") == [
        ("one", "eins"),
        ("three \u2028x", "drei"),
    ]


def test_pictures_are_read_with_the_label_of_their_folder(tmp_path: Path) -> None:
    images = read_image_folder(write_pictures(tmp_path, count=3), image_size=4)
    assert images.labels == ("dark", "light")
    assert images.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert images.pixels.shape == (6, 3, 4, 4)
    assert images.pixels[:3].float().mean() < 127 < images.pixels[3:].float().mean()


def test_augmentation_follows_its_generator() -> None:
    images = torch.randn(4, 3, 8, 8)
    first, second = (augment(images, 0.8, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, augment(images, 0.8, torch.Generator().manual_seed(2)))
    assert torch.equal(images, augment(images, 0.0, torch.Generator()))


def test_a_sample_is_spread_over_everything() -> None:
    assert evenly_spaced(range(10), 5) == [0, 2, 4, 6, 8]
    assert evenly_spaced(range(3), 5) == evenly_spaced(range(3), None) == [0, 1, 2]
