"""Translate a test set with the server's engine and compare with the references."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacremoses import MosesPunctNormalizer, MosesTokenizer

from export.data.parallel import Pair
from export.evaluate.figures import Evaluation
from service.bundle import Bundle
from service.metrics import Metrics
from service.settings import Precision, Settings
from service.translation.engine import TranslationEngine
from service.translation.options import Segmentation, merge_options


@dataclass(frozen=True, slots=True)
class TranslationTest:
    """Sets of sentence pairs, and the beam; a set's name goes before the names of its figures."""

    sets: Mapping[str, Sequence[Pair]]
    beam_size: int | None = None  # None: the model's own


def evaluate_translation(
    bundle: Bundle, precisions: Sequence[Precision], test: TranslationTest
) -> Evaluation:
    """Measure every precision on every set.

    bleu and chrf are sacreBLEU's on the text as it is. bleu_tokenised is what papers on Multi30k
    report: lower-cased, punctuation normalised and tokenised as the Moses scripts do.
    Raises AttendantError for a sentence that cannot be translated.
    """
    target_language = bundle.translation.language_pairs[0].target
    bleu, chrf = BLEU(), CHRF()
    figures: dict[str, dict[str, float]] = {}
    for precision in precisions:
        figures[precision] = {}
        for name, pairs in test.sets.items():
            sources, references = zip(*pairs, strict=True)
            found, seconds = _translate(bundle, precision, sources, test.beam_size)
            measured = {
                "bleu": bleu.corpus_score(found, [references]).score,
                "bleu_tokenised": tokenised_bleu(found, references, target_language),
                "chrf": chrf.corpus_score(found, [references]).score,
                "sentences_per_second": len(pairs) / seconds,
            }
            figures[precision] |= {name + key: round(value, 2) for key, value in measured.items()}
    signatures = {"bleu": str(bleu.get_signature()), "chrf": str(chrf.get_signature())}
    return Evaluation(figures, signatures)


def tokenised_bleu(found: Sequence[str], references: Sequence[str], language: str) -> float:
    """BLEU of lower-cased, punctuation-normalised, Moses-tokenised text."""
    normalizer, tokenizer = MosesPunctNormalizer(language), MosesTokenizer(language)

    def prepare(text: str) -> str:
        normalised = normalizer.normalize(text.lower())
        tokenised: str = tokenizer.tokenize(normalised, return_str=True, escape=False)
        return tokenised

    # force: sacreBLEU warns of text that looks tokenised, which this is.
    bleu = BLEU(tokenize="none", force=True)
    score = bleu.corpus_score([*map(prepare, found)], [[*map(prepare, references)]])
    return float(score.score)


def _translate(
    bundle: Bundle, precision: Precision, sources: Sequence[str], beam_size: int | None
) -> tuple[list[str], float]:
    """The best translation of every sentence, and the seconds all of them took."""
    settings = Settings.model_validate(
        # All at once; a sentence over the model's limit is several.
        {"precision": precision, "max_queued_sequences": 16 * len(sources)}
    )
    engine = TranslationEngine(bundle, settings=settings, metrics=Metrics.create())
    options = merge_options(engine.default_options, engine.limits, beam_size=beam_size)

    async def run() -> tuple[list[str], float]:
        engine.start()
        try:
            begun = time.perf_counter()
            translation = await engine.translate(sources, options, Segmentation.NONE)
            seconds = time.perf_counter() - begun
        finally:
            await engine.stop()
        for result in translation.results:
            if result.error is not None:
                raise result.error
        return [result.hypotheses[0].text for result in translation.results], seconds

    return asyncio.run(run())
