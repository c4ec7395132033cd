"""A translation engine under test."""

import asyncio
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, cycle, islice, product

from service.bundle import Bundle, Direction
from service.golden import TextAnswer
from service.metrics import Metrics
from service.selftest.samples import TEXTS
from service.selftest.trial import Company, Speed, in_company, measure_alone, measure_many
from service.settings import Settings
from service.translation.engine import TranslationEngine
from service.translation.options import DecodingOptions, Segmentation, merge_options
from service.translation.results import TranslationResult

BEAM_SIZE = 4
_ROUNDS_TOGETHER = 2


class TextTrial:
    """Asks for the translations of some texts, each as one sequence in a direction of its own."""

    unit = "sentences"

    def __init__(
        self,
        bundle: Bundle,
        settings: Settings,
        texts: Sequence[str],
        directions: Sequence[Direction],
    ) -> None:
        self._engine = TranslationEngine(bundle, settings=settings, metrics=Metrics.create())
        self._texts = texts
        self._directions = directions
        default, limits = self._engine.default_options, self._engine.limits
        self._options = {
            way_name(beam_size): merge_options(
                default, limits, beam_size=beam_size, num_hypotheses=1, return_scores=True
            )
            for beam_size in (1, BEAM_SIZE)
            if beam_size <= limits.max_beam_size
        }
        self.ways = tuple(self._options)
        self.main_way = self.ways[0 if default.beam_size == 1 else -1]
        self.degraded = self._engine.degraded

    def start(self) -> None:
        """Begin to serve, on the running loop."""
        self._engine.start()

    async def stop(self) -> None:
        """End the decode workers."""
        await self._engine.stop()

    async def alone(self, way: str) -> list[TextAnswer]:
        """Every text by itself. Raises the error of one that cannot be translated."""
        return [await self._ask(way, index) for index in range(len(self._texts))]

    async def together(self) -> list[Company[TextAnswer]]:
        """Every text, in every way, twice."""
        asked = list(product(self.ways, range(len(self._texts)))) * _ROUNDS_TOGETHER
        return await in_company(asked, self._ask, self._neighbour)

    async def speed(self, way: str, seconds: float) -> Speed:
        """Throughput over all texts again and again, then the latency of one at a time."""
        options = self._options[way]
        num_tokens = 0

        async def ask(count: int) -> None:
            nonlocal num_tokens
            groups: defaultdict[Direction, list[str]] = defaultdict(list)
            asked = zip(self._texts, self._directions, strict=True)
            for text, direction in islice(cycle(asked), count):
                groups[direction].append(text)
            calls = (
                self._engine.translate(texts, options, Segmentation.NONE, direction=direction)
                for direction, texts in groups.items()
            )
            results = chain.from_iterable(one.results for one in await asyncio.gather(*calls))
            num_tokens = sum(_answer_of(result).num_tokens for result in results)

        async def ask_one(index: int) -> None:
            await self._ask(way, index)

        count, taken = await measure_many(ask, len(self._texts), seconds)
        tokens_per_second = num_tokens / taken
        alone_seconds = await measure_alone(ask_one, len(self._texts), seconds / 2)
        return Speed(count / taken, tokens_per_second, alone_seconds)

    async def _ask(self, way: str, index: int) -> TextAnswer:
        direction = self._directions[index]
        return await self._answer(self._texts[index], direction, self._options[way])

    async def _answer(
        self, text: str, direction: Direction, options: DecodingOptions
    ) -> TextAnswer:
        found = await self._engine.translate(
            [text], options, Segmentation.NONE, direction=direction
        )
        return _answer_of(found.results[0])

    async def _neighbour(self, rng: random.Random) -> TextAnswer:
        """Any text, decoded in any way; cut short at times, so that its rows are free again."""
        options = self._options[rng.choice(self.ways)]
        length = rng.randint(1, options.max_target_tokens)
        shorter = replace(options, max_target_tokens=length, min_target_tokens=0)
        return await self._answer(rng.choice(TEXTS), rng.choice(self._directions), shorter)


def way_name(beam_size: int) -> str:
    """ "greedy" or "beam 4"."""
    return "greedy" if beam_size == 1 else f"beam {beam_size}"


def _answer_of(result: TranslationResult) -> TextAnswer:
    if result.error is not None:
        raise result.error
    best = result.hypotheses[0]
    return TextAnswer(text=best.text, score=best.score or 0.0, num_tokens=best.num_target_tokens)
