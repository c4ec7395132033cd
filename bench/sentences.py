"""What is translated: sentences to time, and others to choose the peers' settings with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from bench.models import SENTENCES, BenchModel
from service.bundle import Bundle
from service.translation.tokenizer import Tokenizer

TokenCounter = Callable[[str], int]


@dataclass(frozen=True, slots=True)
class Sentences:
    """Both kinds, and where they are from."""

    timed: tuple[str, ...]
    tuning: tuple[str, ...]
    origin: str

    @classmethod
    def read(cls, data: Path | None, tune: Path | None) -> "Sentences":
        """From files, a sentence a line; without them, half of our own for each."""
        own = SENTENCES.read_text(encoding="utf-8").splitlines()
        timed = own[::2] if data is None else data.read_text(encoding="utf-8").splitlines()
        tuning = own[1::2] if tune is None else tune.read_text(encoding="utf-8").splitlines()
        names = [str(path.name) if path else "bench/sentences.txt" for path in (data, tune)]
        origin = f"{len(timed)} timed from {names[0]}, {len(tuning)} for tuning from {names[1]}"
        if data is None or tune is None:
            origin += " (half of our own 64 each, again and again; --data and --tune name files)"
        return cls(tuple(timed), tuple(tuning), origin)


def repeat(texts: Sequence[str], count: int) -> list[str]:
    """So many of them, from the beginning again where there are fewer."""
    return list(islice(cycle(texts), count))


def token_counter(model: BenchModel) -> TokenCounter:
    """Counts a source's tokens, the end token with them."""
    tokenizer = Tokenizer.from_bundle(Bundle.open(model.bundle))
    return lambda text: len(tokenizer.encode([text])[0])


def encode(model: BenchModel, texts: Sequence[str]) -> list[list[int]]:
    """Source ids, the end token last; a source over the model's limit is cut."""
    bundle = Bundle.open(model.bundle)
    longest = bundle.translation.limits.max_source_tokens - 1
    encoded = Tokenizer.from_bundle(bundle).encode(list(texts))
    return [[*ids[:-1][:longest], ids[-1]] for ids in encoded]
