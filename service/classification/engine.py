"""Image files in, labels out: admission, preprocessing, batching, ranking.

Knows no protobuf and no ONNX Runtime. Lives on the event loop; decoding an image and running the
model happen in threads.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.admission import Admission, Admitted, Demand
from service.bundle import Bundle
from service.classification.batcher import Answer, Batcher
from service.classification.classifier import BatchRunner, Classifier, Placement
from service.classification.image import Preprocessor
from service.classification.pixels import PixelBudget
from service.classification.runner import Batching, ClassifierRunner
from service.classification.turns import Turns
from service.cores import num_cores
from service.devices import DEVICES, Devices
from service.errors import (
    AttendantError,
    Draining,
    InternalError,
    InvalidImage,
    InvalidOption,
    ModelUnavailable,
    NoMemory,
    ResourceExhausted,
)
from service.faults import DeviceLost
from service.metrics import IMAGE_FAILURES, Metrics
from service.rate import WorkRate
from service.runtime import Device
from service.settings import Settings
from service.timeline import Timeline, current_timeline
from service.waiting import Backlog, Place

logger = logging.getLogger(__name__)

DEFAULT_TOP_K = 5

WEIGHT = 0.05  # of the newest image in the moving average of seconds


@dataclass(frozen=True, slots=True)
class LabelScore:
    """One label of an image."""

    label: str
    index: int
    probability: float


@dataclass(frozen=True, slots=True)
class ClassificationResult:
    """One image's labels, most probable first, or why there are none."""

    error: AttendantError | None
    labels: tuple[LabelScore, ...] = ()


@dataclass(frozen=True, slots=True)
class ClassificationTiming:
    """Seconds; of the images of a call, the longest in each stage."""

    queue_seconds: float
    preprocess_seconds: float
    inference_seconds: float
    total_seconds: float


@dataclass(frozen=True, slots=True)
class Classification:
    """The results of a call, in the order of its images."""

    results: list[ClassificationResult]
    timing: ClassificationTiming


@dataclass(frozen=True, slots=True)
class _Classified:
    result: ClassificationResult
    preprocess_seconds: float = 0.0
    inference_seconds: float = 0.0
    total_seconds: float = 0.0
    ready_at: float = 0.0  # to be run in a batch; time.monotonic()
    ended_at: float = 0.0
    batch_size: int = 0


class OpenRunner(Protocol):
    """Makes what batches run on; see `ClassifierRunner`."""

    def __call__(
        self,
        bundle: Bundle,
        *,
        size: tuple[int, int],
        device: Device,
        precision: str,
        batching: Batching,
    ) -> BatchRunner:
        """Raises BundleError."""


class ClassificationEngine:
    """Serves one bundle. Constructing it opens and warms up the model: do that in a thread.

    Engines that share a budget unpack no more than its pixels at a time.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        settings: Settings,
        metrics: Metrics,
        devices: Devices = DEVICES,
        open_runner: OpenRunner = ClassifierRunner,
        budget: PixelBudget | None = None,
    ) -> None:
        self.model_name = f"{bundle.name}/{bundle.version}"
        self.failed: str | None = None
        self.on_change: Callable[[], None] = lambda: None
        card = bundle.classification
        self.labels = card.labels
        self._multi_label = card.multi_label
        self._settings = settings
        self._metrics = metrics
        self._failed = {
            kind: metrics.images_failed.labels(self.model_name, reason)
            for kind, reason in zip(
                (InvalidImage, InternalError, NoMemory), IMAGE_FAILURES, strict=True
            )
        }
        self._num_threads = settings.image_threads or num_cores()
        self._preprocess = Preprocessor(
            card.image, max_pixels=settings.max_image_pixels, budget=budget
        )
        self._trouble = partial(devices.trouble, settings, bundle)
        self._max_queued = partial(devices.max_queued, settings, bundle, settings.max_queued_images)
        self._devices = devices
        self._choose_placement = partial(devices.place, settings, bundle)
        self._open_runner = partial(open_runner, bundle, size=self._preprocess.size)
        self._classifier = Classifier(self._open, self._choose_placement())
        self._moving: asyncio.Task[None] | None = None
        self._backlog = Backlog()  # and those that are being classified
        self._admission = Admission(
            self._backlog,
            unit="images",
            max_queued=self._max_queued(),
            caller_share=settings.caller_queue_share,
            on_ended=self._count_deadline,
        )
        self._image_seconds = self._fastest_image_seconds = 0.0

    @property
    def device(self) -> Device:
        """ "cpu" or "cuda"."""
        return self._classifier.placement[0]

    @property
    def precision(self) -> str:
        """ "fp32", "int8" or "fp16"."""
        return self._classifier.placement[1]

    @property
    def degraded(self) -> str | None:
        """Why it does not serve as it was meant to; None while it does."""
        return self._trouble()

    def start(self, on_change: Callable[[], None] = lambda: None) -> None:
        """Begin to serve, on the running loop; `on_change` is called there when a GPU is lost."""
        self._loop = asyncio.get_running_loop()
        self.on_change = on_change
        self._batcher: Batcher[NDArray[np.float32], NDArray[np.float32]] = Batcher(
            self._run,
            max_size=self._classifier.max_batch,
            delay_seconds=self._settings.image_batch_delay_seconds,
            num_runs=self._classifier.num_runs,
        )
        self._batcher.start()
        self._threads = ThreadPoolExecutor(self._num_threads, thread_name_prefix="preprocess")
        self._turns = Turns(self._num_threads)
        predicted_wait = self._metrics.predicted_wait_seconds.labels(self.model_name)
        predicted_wait.set_function(self._admission.watch_wait())
        if self.device != "cpu":
            self._devices.watch(self._hear_of_loss)

    async def stop(self) -> None:
        """Refuse what still waits and end the threads."""
        self._devices.unwatch(self._hear_of_loss)
        if self._moving is not None:
            await self._moving
        await self._batcher.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def classify(
        self,
        images: Sequence[bytes],
        top_k: int | None = None,
        *,
        deadline_seconds: float | None = None,
    ) -> Classification:
        """Classify every image; one that cannot be decoded has an error of its own.

        Raises InvalidOption; Overloaded, CallerQueueFull and DeadlineUnreachable before any work is
        done.
        """
        started = monotonic()
        top_k = self._check_top_k(top_k)
        current_timeline().facts |= {"model": self.model_name, "images": len(images)}
        admitted = self._admit(len(images), deadline_seconds)
        place = admitted.place
        tasks = [asyncio.create_task(self._classify(image, top_k, place)) for image in images]
        for task in tasks:  # runs even if it is cancelled before it began
            task.add_done_callback(lambda _: self._change_backlog(place, -1))
        is_answered = False
        try:
            classified = await asyncio.gather(*tasks)
            is_answered = True
            _tell(current_timeline(), classified, started)
        finally:
            for task in tasks:
                task.cancel()  # where one fails the call, nobody waits for the others
            if self._admission.ended(admitted, is_answered=is_answered):
                num_classified = sum(one.result.error is None for one in classified)
                self._metrics.goodput_images.labels(self.model_name).inc(num_classified)
        return Classification(
            [one.result for one in classified], _timing(classified, monotonic() - started)
        )

    def _check_top_k(self, top_k: int | None) -> int:
        if top_k is None:
            return min(DEFAULT_TOP_K, len(self.labels))
        if not 1 <= top_k <= len(self.labels):
            raise InvalidOption(
                f"top_k is {top_k}, expected 1 to {len(self.labels)}, the number of labels",
                field="top_k",
            )
        return top_k

    def _admit(self, num_images: int, deadline_seconds: float | None) -> Admitted:
        """Take a call whole or refuse it whole."""
        if self.failed is not None:
            raise ModelUnavailable(f"{self.model_name} cannot serve: {self.failed}")
        slower = self._image_seconds - self._fastest_image_seconds
        self._image_seconds = self._fastest_image_seconds + slower * self._admission.forget()
        demand = Demand(num_images, num_images, self._image_seconds, self._fastest_image_seconds)
        try:
            admitted = self._admission.admit(demand, deadline_seconds)
        except ResourceExhausted as error:
            self._metrics.requests_rejected.labels(self.model_name, error.reason).inc()
            raise
        self._change_backlog(admitted.place, num_images)
        return admitted

    def _change_backlog(self, place: Place, num_images: int) -> None:
        """So many images more, or fewer, wait or are being classified."""
        self._backlog.change(place, num_images, num_images)
        self._metrics.requests_waiting.labels(self.model_name).set(self._backlog.total_units)

    def _count_deadline(self, is_met: bool) -> None:
        outcome = "met" if is_met else "missed"
        self._metrics.deadlines.labels(self.model_name, outcome).inc()

    async def _classify(self, content: bytes, top_k: int, place: Place) -> _Classified:
        """One image from admission to its labels."""
        admitted = monotonic()
        try:
            answer, preprocess_seconds, ready_at = await self._logits(content, place)
        except (InvalidImage, InternalError, NoMemory) as error:
            next(count for kind, count in self._failed.items() if isinstance(error, kind)).inc()
            return _Classified(ClassificationResult(error))
        ended = monotonic()
        seconds = ended - admitted
        self._learn(preprocess_seconds + answer.run_seconds)
        self._metrics.images.labels(self.model_name).inc()
        self._metrics.queue_seconds.labels(self.model_name).observe(
            max(seconds - preprocess_seconds - answer.run_seconds, 0.0)
        )
        labels = rank(answer.result, self.labels, top_k, multi_label=self._multi_label)
        return _Classified(
            ClassificationResult(None, labels),
            preprocess_seconds,
            answer.run_seconds,
            seconds,
            ready_at,
            ended,
            answer.batch_size,
        )

    def _learn(self, seconds: float) -> None:
        """An image is done that took so long, waiting aside."""
        self._admission.rate.finished(1, others_wait=self._backlog.total_units > 1)  # but itself
        if not self._image_seconds:
            self._image_seconds = self._fastest_image_seconds = seconds
        self._admission.rate.suppose(1 / self._image_seconds)
        self._image_seconds += WEIGHT * (seconds - self._image_seconds)
        self._fastest_image_seconds = min(self._fastest_image_seconds, seconds)

    async def _logits(
        self, content: bytes, place: Place
    ) -> tuple[Answer[NDArray[np.float32]], float, float]:
        self._batcher.announce()
        try:
            async with self._turns.turn(place):
                pixels, preprocess_seconds = await asyncio.get_running_loop().run_in_executor(
                    self._threads, self._timed_preprocess, content
                )
        finally:
            self._batcher.retract()
        ready_at = monotonic()
        return await self._batcher.submit(pixels, place), preprocess_seconds, ready_at

    def _timed_preprocess(self, content: bytes) -> tuple[NDArray[np.float32], float]:
        started = monotonic()
        try:
            pixels = self._preprocess(content)
        except MemoryError as error:
            raise NoMemory("the server has no memory to decode this image now") from error
        seconds = monotonic() - started
        self._metrics.preprocess_seconds.labels(self.model_name).observe(seconds)
        return pixels, seconds

    def _open(self, placement: Placement) -> BatchRunner:
        device, precision = placement
        batching = Batching(
            threads=self._num_threads,
            max_batch=self._settings.max_batch_images,
            fixed=self._settings.deterministic and device == "cuda",
        )
        return self._open_runner(device=device, precision=precision, batching=batching)

    def _run(
        self, images: Sequence[NDArray[np.float32]], alone: bool
    ) -> Sequence[NDArray[np.float32] | AttendantError]:
        """On the batcher's threads. Raises ModelUnavailable and Draining after a GPU's loss."""
        try:
            return self._run_here(images, alone)
        except DeviceLost as error:
            self._devices.lose(str(error))
        if self._settings.exit_on_device_loss:
            raise Draining("the GPU was lost, and the server is shutting down")
        self._move()
        if self.failed is not None:
            raise ModelUnavailable(f"{self.model_name} cannot serve: {self.failed}")
        return self._run_here(images, alone)

    def _run_here(
        self, images: Sequence[NDArray[np.float32]], alone: bool
    ) -> Sequence[NDArray[np.float32] | AttendantError]:
        started = monotonic()
        results = self._classifier.run(images, alone)
        self._batcher.max_size = self._classifier.max_batch
        self._metrics.inference_seconds.labels(self.model_name).observe(monotonic() - started)
        self._metrics.classification_batch_size.labels(self.model_name).observe(len(images))
        return results

    def _hear_of_loss(self) -> None:
        """On any thread: a model that nobody calls moves, too."""
        self._loop.call_soon_threadsafe(self._begin_moving)

    def _begin_moving(self) -> None:
        self._admission.max_queued = self._max_queued()
        self.on_change()
        if not self._settings.exit_on_device_loss:
            self._moving = asyncio.create_task(asyncio.to_thread(self._move))

    def _move(self) -> None:
        """Go on on the CPU; off the event loop."""
        started = monotonic()
        try:
            former = self._classifier.move(self._choose_placement())
        except Exception:  # whatever it is, calls have to be answered
            self.failed = "it cannot be opened on the CPU; the server's log has it"
            logger.exception("%s cannot go on on the CPU", self.model_name)
        else:
            if former is None:
                return
            self._devices.keep(former)
            logger.warning(
                "%s goes on on the CPU: %s, opened in %.2f s",
                *(self.model_name, self.precision, monotonic() - started),
            )
        self._loop.call_soon_threadsafe(self._have_moved)

    def _have_moved(self) -> None:
        self._admission.rate = WorkRate()  # what was measured was the GPU's
        self._image_seconds = 0.0
        self._batcher.resize(
            max_size=self._classifier.max_batch, num_runs=self._classifier.num_runs
        )
        self.on_change()


def probabilities(logits: NDArray[np.float32], *, multi_label: bool) -> NDArray[np.float64]:
    """(N,) -> (N,): each label's own probability if several may hold, else a distribution."""
    wide = logits.astype(np.float64)
    if multi_label:
        # exp of a negative number only: no overflow on either side
        small = np.exp(-np.abs(wide))
        return np.where(wide >= 0, 1.0, small) / (1.0 + small)
    powers = np.exp(wide - wide.max())
    return np.asarray(powers / powers.sum())


def rank(
    logits: NDArray[np.float32], labels: Sequence[str], top_k: int, *, multi_label: bool
) -> tuple[LabelScore, ...]:
    """The `top_k` most probable labels; of equal ones the first."""
    chances = probabilities(logits, multi_label=multi_label)
    best = np.argsort(-chances, kind="stable")[:top_k]
    return tuple(LabelScore(labels[i], i, float(chances[i])) for i in best.tolist())


def _tell(timeline: Timeline, classified: Sequence[_Classified], started: float) -> None:
    done = [one for one in classified if one.result.error is None]
    if not done:
        return
    prepared = [one.ready_at - one.preprocess_seconds for one in done]
    run = [one.ended_at - one.inference_seconds for one in done]
    timeline.add("queue", started, max(prepared))
    timeline.add("preprocess", min(prepared), max(one.ready_at for one in done))
    timeline.add("batch", min(one.ready_at for one in done), max(run))
    timeline.add("inference", min(run), max(one.ended_at for one in done))
    timeline.facts["batch_images"] = max(one.batch_size for one in done)


def _timing(classified: Sequence[_Classified], total_seconds: float) -> ClassificationTiming:
    def waited(one: _Classified) -> float:
        return max(one.total_seconds - one.preprocess_seconds - one.inference_seconds, 0.0)

    return ClassificationTiming(
        queue_seconds=max(map(waited, classified), default=0.0),
        preprocess_seconds=max((one.preprocess_seconds for one in classified), default=0.0),
        inference_seconds=max((one.inference_seconds for one in classified), default=0.0),
        total_seconds=total_seconds,
    )
