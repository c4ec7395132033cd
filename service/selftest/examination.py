"""One model, every precision that it ships, through all checks."""

import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from textwrap import shorten
from time import perf_counter

from service.bundle import Bundle, Direction
from service.devices import DEVICES
from service.errors import AttendantError, BundleError
from service.golden import Answer, Golden, GoldenImages, GoldenTexts, read_golden
from service.languages import choose_direction, sample_directions
from service.runtime import Device
from service.selftest.checks import (
    Answers,
    check_agreement,
    check_company,
    check_golden,
    compare_speeds,
)
from service.selftest.images import ImageTrial
from service.selftest.machine import origin_here
from service.selftest.report import Finding, ModelReport
from service.selftest.samples import TEXTS, make_images
from service.selftest.texts import TextTrial
from service.selftest.trial import Speed, Trial
from service.settings import Settings

logger = logging.getLogger(__name__)

# All samples at once, and their neighbours.
_QUEUE = 4096


class Examination:
    """Of one bundle; `run` gives its report."""

    def __init__(self, bundle: Bundle, settings: Settings, *, speed_seconds: float) -> None:
        """Raises BundleError for golden answers that cannot be read, or a missing device."""
        self._bundle = bundle
        self._settings = settings.model_copy(
            update={
                "max_queued_sequences": max(settings.max_queued_sequences, _QUEUE),
                "max_queued_images": max(settings.max_queued_images, _QUEUE),
            }
        )
        self._speed_seconds = speed_seconds
        self._home, self._served = self._place(self._settings)  # of the server's
        self._golden = read_golden(bundle)
        self._samples = _Samples(bundle, self._golden)
        self._answers: dict[str, Answers[Answer]] = {}
        self._speeds: dict[str, Speed] = {}
        title = f"{bundle.name}/{bundle.version}, {bundle.task}"
        self._report = ModelReport(title)

    async def run(self) -> ModelReport:
        """Open and check one precision after the other, fp32 first: the others refer to it."""
        self._remark_on_golden()
        for precision in self._precisions():
            try:
                await self._check(precision)
            except BundleError as error:
                self._cannot_run(precision, str(error))
            except Exception as error:
                logger.exception("%s, %s: the self-test ended early", self._report.title, precision)
                reason = error.reason if isinstance(error, AttendantError) else type(error).__name__
                self._report.failures.append(f"{precision}: {reason}: {error}")
        self._compare_speeds()
        return self._report

    def _place(self, settings: Settings) -> tuple[Device, str]:
        """Where the model would go, and in which precision. Raises BundleError."""
        return DEVICES.place(settings, self._bundle)

    def _precisions(self) -> list[str]:
        if self._settings.precision != "auto":
            return [self._served]
        return sorted(self._bundle.precisions, key=lambda precision: precision != "fp32")

    def _settings_for(self, precision: str) -> Settings:
        """The server's own; a precision that it does not serve may run on another device."""
        update = {"precision": precision}
        if precision != self._served and self._settings.device == "cuda":
            update["device"] = "auto"
        return self._settings.model_copy(update=update)

    async def _check(self, precision: str) -> None:
        begun = perf_counter()
        settings = self._settings_for(precision)
        device, _ = self._place(settings)
        if device != self._home:
            self._report.remarks.append(f"{precision} is examined on the {device.upper()}")
        with _warnings(self._report.notes):
            trial = self._samples.trial(settings)
        self._add(Finding("seconds to open", precision, f"{perf_counter() - begun:.2f}"))
        if trial.degraded is not None:
            self._report.notes.append(f"{precision}: {trial.degraded}")
        async with _serving(trial):
            found = {way: await trial.alone(way) for way in trial.ways}
            self._answers[precision] = found
            self._add(*self._check_golden(precision, device, found))
            together = await trial.together()
            names, is_exact = self._samples.names, device == "cpu"
            self._add(check_company(precision, names, found, together, is_exact=is_exact))
            if "fp32" in self._answers:
                self._add(*check_agreement(precision, self._answers["fp32"], found))
            for way in trial.ways:
                speed = await trial.speed(way, self._speed_seconds)
                suffix = f", {way}" if len(trial.ways) > 1 else ""
                self._add(*_speed_findings(precision, f"{trial.unit}{suffix}", speed))
                if way == trial.main_way:
                    self._speeds[precision] = speed

    def _check_golden(
        self, precision: str, device: Device, found: Answers[Answer]
    ) -> Iterator[Finding]:
        """Beside the answers of the same precision; of fp32 where these are not in the bundle."""
        if self._golden is None:
            return
        known: dict[str, Answers[Answer]] = dict(self._golden.answers.items())
        if (golden := known.get(precision, known.get("fp32"))) is None:
            return
        excuse = None if precision in known else "the golden answers are those of fp32"
        if excuse is None and device != "cpu":
            excuse = "a GPU rounds differently"
        elif excuse is None and precision != "fp32" and not self._is_at_home:
            excuse = "they were given by a CPU that computes int8 otherwise"
        yield from check_golden(precision, self._samples.names, golden, found, excuse=excuse)

    @property
    def _is_at_home(self) -> bool:
        return self._golden is not None and self._golden.origin.computes_like(origin_here())

    def _remark_on_golden(self) -> None:
        if self._golden is None:
            self._report.notes.append(
                "the bundle has no golden answers: whether these are the ones that it gave where "
                "it was exported is not known"
            )
        else:
            num_samples, origin = len(self._samples.names), self._golden.origin
            self._report.remarks.append(f"{num_samples} golden answers, given by {origin}")

    def _cannot_run(self, precision: str, message: str) -> None:
        """A failure if the server would take it, else worth a note."""
        told = self._report.failures if precision == self._served else self._report.notes
        told.append(f"{precision} cannot run here: {message}")

    def _compare_speeds(self) -> None:
        """Say which precision is the fastest, and whether the server would take another."""
        if self._served not in self._speeds or len(self._speeds) < 2:
            return
        rates = {precision: speed.per_second for precision, speed in self._speeds.items()}
        remark, note = compare_speeds(rates, self._served)
        self._report.remarks.append(remark)
        self._report.notes += [note] if note else []

    def _add(self, *findings: Finding) -> None:
        self._report.findings.extend(findings)


class _Samples:
    """What a bundle is asked about: its golden samples, or else ours."""

    def __init__(self, bundle: Bundle, golden: Golden | None) -> None:
        self._bundle = bundle
        self._texts = golden.texts if isinstance(golden, GoldenTexts) else TEXTS
        self._pairs = golden.languages if isinstance(golden, GoldenTexts) else ()
        self._images = golden.images if isinstance(golden, GoldenImages) else make_images()
        self.names: Sequence[str] = [shorten(text, 90, placeholder=" ...") for text in self._texts]
        if bundle.task == "classification":
            self.names = [f"image {number}" for number in range(1, len(self._images) + 1)]

    def trial(self, settings: Settings) -> Trial[Answer]:
        """An engine to ask; loads the model. Raises BundleError."""
        if self._bundle.task == "translation":
            return TextTrial(self._bundle, settings, self._texts, self._directions())
        return ImageTrial(self._bundle, settings, self._images)

    def _directions(self) -> list[Direction]:
        card = self._bundle.translation
        if not self._pairs:
            return sample_directions(card, len(self._texts))
        return [choose_direction(card, pair.source, pair.target) for pair in self._pairs]


def _speed_findings(precision: str, what: str, speed: Speed) -> Iterator[Finding]:
    """`what` is a unit, with the way where there are several: "sentences, greedy"."""
    unit, comma, way = what.partition(",")
    yield Finding(f"{unit}/s together{comma}{way}", precision, f"{speed.per_second:.1f}")
    if speed.tokens_per_second is not None:
        yield Finding(f"tokens/s together{comma}{way}", precision, f"{speed.tokens_per_second:.0f}")
    yield Finding(f"ms for one alone{comma}{way}", precision, f"{speed.alone_seconds * 1000:.1f}")


@asynccontextmanager
async def _serving(trial: Trial[Answer]) -> AsyncIterator[None]:
    trial.start()
    try:
        yield
    finally:
        await trial.stop()


class _Collector(logging.Handler):
    def __init__(self, messages: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        self._messages.append(record.getMessage())


@contextmanager
def _warnings(messages: list[str]) -> Iterator[None]:
    """What the service logs as a warning within the block is added to the messages."""
    collector, service = _Collector(messages), logging.getLogger("service")
    service.addHandler(collector)
    try:
        yield
    finally:
        service.removeHandler(collector)
