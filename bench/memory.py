"""Long sentences at once on a small budget of attention caches, at base size.

    python -m bench.memory [--sentences 1000] [--tokens 500] [--target-tokens 100] [--budget 1GiB]

Prints how many finished, how long it took, and the memory of the process before and at its peak.
"""

import argparse
import asyncio
import resource
import time
from dataclasses import replace
from pathlib import Path

from bench.machine import machine
from bench.models import BASE, prepare
from service.bundle import Bundle
from service.metrics import Metrics
from service.settings import Settings
from service.translation.engine import TranslationEngine
from service.translation.options import DecodingOptions, Segmentation
from service.translation.results import Translation
from service.translation.tokenizer import Tokenizer

MIB = 1 << 20


def main() -> None:
    """Measure and print."""
    chosen = _parser().parse_args()
    prepare(BASE)
    bundle = _unlimited(Bundle.open(BASE.bundle))
    settings = Settings.model_validate({"cache_memory": chosen.budget, "device": "cpu"})
    engine = TranslationEngine(bundle, settings=settings, metrics=Metrics.create())
    options = DecodingOptions(
        max_target_tokens=chosen.target_tokens, min_target_tokens=chosen.target_tokens
    )
    text = _text(Tokenizer.from_bundle(bundle), chosen.tokens)
    before, begun = _resident_bytes(), time.monotonic()
    found = asyncio.run(_translate(engine, [text] * chosen.sentences, options))
    seconds, peak = time.monotonic() - begun, _peak_bytes()
    finished = sum(result.error is None for result in found.results)
    texts = {result.hypotheses[0].text for result in found.results if result.error is None}
    print(
        f"{machine()}\n\n{finished} of {chosen.sentences} sentences of "
        f"{found.results[0].num_source_tokens} tokens, {chosen.target_tokens} out, finished in "
        f"{seconds:.0f} s, with {len(texts)} different answer(s) to the same text; "
        f"resident before {before / MIB:,.0f} MiB, at its peak {peak / MIB:,.0f} MiB: "
        f"{(peak - before) / MIB:,.0f} MiB more, of which caches may have "
        f"{settings.cache_memory / MIB:,.0f}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sentences", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=500)
    parser.add_argument("--target-tokens", type=int, default=100)
    parser.add_argument("--budget", default="1GiB")
    return parser


def _unlimited(bundle: Bundle) -> Bundle:
    """The bundle with limits as long as its positions reach."""
    positions = bundle.translation.architecture.max_positions
    limits = {"max_source_tokens": positions, "max_target_tokens": positions}
    card = bundle.translation
    card = card.model_copy(update={"limits": card.limits.model_copy(update=limits)})
    return replace(bundle, card=card)


def _text(tokenizer: Tokenizer, num_tokens: int) -> str:
    """So many tokens, the end token among them, or just more."""
    words = ["a"]
    while len(tokenizer.encode([" ".join(words)])[0]) < num_tokens:
        words += ["man", "rides", "a", "horse"]
    return " ".join(words)


async def _translate(
    engine: TranslationEngine, contents: list[str], options: DecodingOptions
) -> Translation:
    engine.start()
    try:
        return await engine.translate(contents, options, Segmentation.NONE)
    finally:
        await engine.stop()


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
