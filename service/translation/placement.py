"""Where a translation model runs, and what that means for those who call it."""

from dataclasses import dataclass
from typing import Self

from service.bundle import Bundle, TranslationCard
from service.devices import Devices
from service.errors import BundleError
from service.runtime import Device
from service.settings import Settings
from service.translation.caches import CacheSizes
from service.translation.options import DecodingOptions, Limits, default_options, limits_of
from service.translation.workers import Workers


@dataclass(frozen=True, slots=True)
class Placement:
    """A device, a precision, and what a model takes there."""

    device: Device
    precision: str
    workers: Workers
    limits: Limits
    default_options: DecodingOptions
    narrowed: str | None  # what to say where this server decodes with fewer beams than the model's
    max_queued: int  # sequences

    @classmethod
    def choose(cls, bundle: Bundle, settings: Settings, devices: Devices) -> Self:
        """Where the model goes now. Raises BundleError."""
        card = bundle.translation
        device, precision = devices.place(settings, bundle)
        workers = Workers.of(settings, device)
        limits = limits_of(card, precision, workers)
        if not limits.max_beam_size:
            raise BundleError(_too_little_memory(card, precision, workers))
        return cls(
            device,
            precision,
            workers,
            limits,
            default_options(card, max_beam_size=limits.max_beam_size),
            _narrowed(card, limits.max_beam_size),
            devices.max_queued(settings, bundle, settings.max_queued_sequences),
        )


def _too_little_memory(card: TranslationCard, precision: str, workers: Workers) -> str:
    num_bytes = CacheSizes.of(card, precision).longest_row_bytes
    return (
        f"the longest sequence needs {num_bytes:,} bytes of attention caches; {workers.count} "
        f"decode workers share a cache_memory of {workers.cache_bytes:,}"
    )


def _narrowed(card: TranslationCard, max_beam_size: int) -> str | None:
    """What to say of a model whose own beam is wider than what this server decodes with."""
    if card.decoding.beam_size <= max_beam_size:
        return None
    return (
        f"the bundle's beam_size of {card.decoding.beam_size} is over the limit of "
        f"{max_beam_size}, which is the default instead"
    )
