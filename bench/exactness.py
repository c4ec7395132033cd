"""fp32 beside Hugging Face's `generate`, and int8 beside fp32, on every sentence of a file.

    python -m bench.exactness --data SRC [--references TGT] [--settings NAME ...] [--bundle DIR]

Prints a line a setting: sentences with identical ids and scores, ties (other ids whose scores under
the model in float64 differ by less than 1e-5; each is listed below the table), differences, and
the largest difference of a score. With references, also sacreBLEU of both precisions. Needs the
extras `export` and `dev`.
"""

import argparse
import datetime
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.machine import machine
from export.verify.exactness import Comparison, Reference, compare, decode_in_flight
from service.bundle import Bundle
from service.translation.options import DecodingOptions, EarlyStopping
from service.translation.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
MAX_TARGET_TOKENS = 64  # the longest translation of Multi30k test 2016 has half of it


def options(beam_size: int, **given: Any) -> DecodingOptions:
    """With scores, as they are compared."""
    return DecodingOptions(
        beam_size=beam_size, max_target_tokens=MAX_TARGET_TOKENS, return_scores=True, **given
    )


SETTINGS = {
    "greedy": options(1),
    "beam 4": options(4),
    **{f"beam 5, {rule.value}": options(5, early_stopping=rule) for rule in EarlyStopping},
    **{f"beam 4, penalty {value:g}": options(4, length_penalty=value) for value in (0.0, 0.6, 2.0)},
}
WITH_REFERENCES = ("greedy", "beam 5, heuristic")


@dataclass(frozen=True, slots=True)
class Text:
    """A bundle, and sentences with their token ids."""

    bundle: Bundle
    tokenizer: Tokenizer
    sources: Sequence[Sequence[int]]

    @classmethod
    def of(cls, bundle: Bundle, sentences: Sequence[str]) -> "Text":
        """Encode the sentences as the server does."""
        tokenizer = Tokenizer.from_bundle(bundle)
        return cls(bundle, tokenizer, tokenizer.encode(sentences))

    def compare(self, reference: Reference, setting: DecodingOptions) -> Comparison:
        """Every sentence through both."""
        requests = [(source, setting) for source in self.sources]
        ours = decode_in_flight(self.bundle, requests)
        return compare(reference, requests, ours, reference.generate(self.sources, setting))

    def translate(self, precision: str, setting: DecodingOptions) -> list[str]:
        """The best translation of every sentence."""
        requests = [(source, setting) for source in self.sources]
        found = decode_in_flight(self.bundle, requests, precision=precision)
        return [self.tokenizer.decode(hypotheses[0].token_ids) for hypotheses in found]


def main() -> int:
    """Print the tables. Returns 1 where more differs than the rule for ties allows."""
    chosen = _parser().parse_args()
    torch.set_num_threads(1)  # models this small only wait for their threads
    text = Text.of(Bundle.open(chosen.bundle.resolve()), _lines(chosen.data))
    command = shlex.join(["python", "-m", "bench.exactness", *sys.argv[1:]])
    print(f"{datetime.date.today()}, {machine()}\n\n`{command}`\n")
    comparisons = list(_print_exactness(text, chosen.settings))
    for name, comparison in zip(chosen.settings, comparisons, strict=True):
        for kind, lines in (("tie", comparison.ties), ("difference", comparison.differences)):
            for line in lines:
                print(f"{kind}, {name}, {line}")
    if chosen.references:
        _print_quality(text, _lines(chosen.references))
    num_compared = sum(one.num_sentences for one in comparisons)
    num_ties = sum(len(one.ties) for one in comparisons)
    return int(any(one.differences for one in comparisons) or 1000 * num_ties > num_compared)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.exactness",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = ROOT / "models" / "captions-en-de" / "1"
    parser.add_argument("--data", type=Path, required=True, metavar="SRC")
    parser.add_argument("--references", type=Path, metavar="TGT")
    parser.add_argument("--bundle", type=Path, default=default)
    parser.add_argument("--settings", nargs="*", choices=SETTINGS, default=list(SETTINGS))
    return parser


def _lines(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines()


def _print_exactness(text: Text, names: Sequence[str]) -> Iterator[Comparison]:
    reference = Reference(text.bundle)
    print("| setting | sentences | identical | ties | differences | largest score error | s |")
    print("| --- | --: | --: | --: | --: | --: | --: |")
    for name in names:
        begun = time.monotonic()
        found = text.compare(reference, SETTINGS[name])
        print(
            f"| {name} | {found.num_sentences} | {found.num_identical} | {len(found.ties)} "
            f"| {len(found.differences)} | {found.largest_score_error:.1e} "
            f"| {time.monotonic() - begun:.0f} |",
            flush=True,
        )
        yield found


def _print_quality(text: Text, references: Sequence[str]) -> None:
    from sacrebleu.metrics.bleu import BLEU

    bleu = BLEU()
    print("\n| setting | BLEU fp32 | BLEU int8 | int8 less fp32 |\n| --- | --: | --: | --: |")
    for name in WITH_REFERENCES:
        fp32, int8 = (
            bleu.corpus_score(text.translate(precision, SETTINGS[name]), [references]).score
            for precision in ("fp32", "int8")
        )
        print(f"| {name} | {fp32:.2f} | {int8:.2f} | {int8 - fp32:+.2f} |", flush=True)
    print(f"\n{bleu.get_signature()}")


if __name__ == "__main__":
    sys.exit(main())
