"""A classification engine under test."""

from collections.abc import Sequence
from itertools import cycle, islice

from service.bundle import Bundle
from service.classification.engine import ClassificationEngine, ClassificationResult
from service.golden import ImageAnswer, LabelProbability
from service.metrics import Metrics
from service.selftest.samples import make_images
from service.selftest.trial import Company, Speed, in_company, measure_alone, measure_many
from service.settings import Settings

WAY = "labels"
_ROUNDS_TOGETHER = 4


class ImageTrial:
    """Asks for all labels of some images, which are files."""

    unit = "images"
    ways = (WAY,)
    main_way = WAY

    def __init__(self, bundle: Bundle, settings: Settings, images: Sequence[bytes]) -> None:
        self._engine = ClassificationEngine(bundle, settings=settings, metrics=Metrics.create())
        self._images = images
        self.degraded = self._engine.degraded

    def start(self) -> None:
        """Begin to serve, on the running loop."""
        self._engine.start()

    async def stop(self) -> None:
        """End the engine's threads."""
        await self._engine.stop()

    async def alone(self, way: str) -> list[ImageAnswer]:
        """Every image by itself. Raises the error of one that cannot be read."""
        return [await self._ask(way, index) for index in range(len(self._images))]

    async def together(self) -> list[Company[ImageAnswer]]:
        """Every image four times, with strangers between them."""
        asked = [(WAY, index) for index in range(len(self._images))] * _ROUNDS_TOGETHER
        strangers = make_images()
        return await in_company(asked, self._ask, lambda rng: self._answer(rng.choice(strangers)))

    async def speed(self, way: str, seconds: float) -> Speed:
        """Throughput over all images again and again, then the latency of one at a time."""

        async def ask(count: int) -> None:
            await self._engine.classify(list(islice(cycle(self._images), count)), 1)

        async def ask_one(index: int) -> None:
            await self._engine.classify([self._images[index]], 1)

        count, taken = await measure_many(ask, len(self._images), seconds)
        alone_seconds = await measure_alone(ask_one, len(self._images), seconds / 2)
        return Speed(count / taken, None, alone_seconds)

    async def _ask(self, way: str, index: int) -> ImageAnswer:
        return await self._answer(self._images[index])

    async def _answer(self, image: bytes) -> ImageAnswer:
        found = await self._engine.classify([image], len(self._engine.labels))
        return _answer_of(found.results[0])


def _answer_of(result: ClassificationResult) -> ImageAnswer:
    if result.error is not None:
        raise result.error
    labels = (
        LabelProbability(index=one.index, label=one.label, probability=one.probability)
        for one in result.labels
    )
    return ImageAnswer(labels=tuple(labels))
