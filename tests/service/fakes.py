"""A translator with the real one's interface: it shouts, and does on demand what goes wrong."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from service.bundle import Bundle, Direction
from service.errors import InvalidText, Overloaded
from service.metrics import Metrics
from service.translation.options import (
    DecodingOptions,
    FinishReason,
    Limits,
    Segmentation,
    default_options,
)
from service.translation.results import (
    Hypothesis,
    StreamEvent,
    Summary,
    TextDelta,
    TextFinished,
    Timing,
    Translation,
    TranslationResult,
)

SECRET = "secret of the inside"


class FakeTranslator:
    """Upper-cases. "WAIT" waits for `release`; "FULL" and "BUG" fail the call, "BAD" its text."""

    def __init__(self, bundle: Bundle, *, metrics: Metrics) -> None:
        self.model_name = f"{bundle.name}/{bundle.version}"
        self.device = "cpu"
        self.precision = "fp32"
        self.degraded: str | None = None
        self.failed: str | None = None
        self.on_change: Callable[[], None] = lambda: None
        self.default_options = default_options(bundle.translation)
        limits = bundle.translation.limits
        self.limits = Limits(limits.max_source_tokens, limits.max_target_tokens, 8)
        self.release = asyncio.Event()
        self.started = asyncio.Event()
        self.left = asyncio.Event()
        self.stopped = False
        self.options: list[DecodingOptions] = []
        self.directions: list[Direction | None] = []
        self.segmentations: list[Segmentation | None] = []
        self.deadlines: list[float | None] = []
        self._running = metrics.sequences_running.labels(self.model_name)

    def start(self, on_change: Callable[[], None] = lambda: None) -> None:
        self._running.set(0)
        self.on_change = on_change

    async def stop(self) -> None:
        self.stopped = True

    async def translate(
        self,
        contents: Sequence[str],
        options: DecodingOptions,
        segmentation: Segmentation | None,
        *,
        direction: Direction | None = None,
        deadline_seconds: float | None = None,
    ) -> Translation:
        self.options.append(options)
        self.directions.append(direction)
        self.segmentations.append(segmentation)
        self.deadlines.append(deadline_seconds)
        self._running.inc()
        try:
            for text in contents:
                await self._suffer(text)
            results = [self._result(text, options) for text in contents]
            return Translation(results, Timing(total_seconds=0.25))
        except asyncio.CancelledError:
            self.left.set()
            raise
        finally:
            self._running.dec()

    async def stream(
        self,
        contents: Sequence[str],
        options: DecodingOptions,
        segmentation: Segmentation | None,
        *,
        direction: Direction | None = None,
        deadline_seconds: float | None = None,
    ) -> AsyncIterator[StreamEvent]:
        for index, text in enumerate(contents):
            for word in text.split():
                yield TextDelta(index, f"{word.upper()} ")
        translation = await self.translate(contents, options, segmentation, direction=direction)
        for index, result in enumerate(translation.results):
            yield TextFinished(index, result)
        yield Summary(translation.timing)

    async def _suffer(self, text: str) -> None:
        if text == "WAIT":
            self.started.set()
            await self.release.wait()
        if text == "FULL":
            raise Overloaded("4096 sequences wait, 1 more would pass it", retry_after_seconds=0.25)
        if text == "NEVER":
            raise Overloaded("the call has 9999 sequences, the queue takes 4096 at most")
        if text == "BUG":
            raise RuntimeError(SECRET)

    def _result(self, text: str, options: DecodingOptions) -> TranslationResult:
        if text == "BAD":
            return TranslationResult(error=InvalidText("text is bad"))
        score = -0.5 if options.return_scores else None
        hypothesis = Hypothesis(text.upper(), score, len(text.split()) + 1, FinishReason.EOS)
        return TranslationResult(None, (hypothesis,), len(text.split()) + 1, 1)
