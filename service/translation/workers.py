"""How many decode workers a model has where it runs, and what each of them may use."""

from dataclasses import dataclass
from typing import Self

from service.cores import num_cores
from service.runtime import Device
from service.settings import Settings

DEFAULT_CACHE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Workers:
    """Those of one model."""

    count: int
    max_rows: int  # of each
    cache_bytes: int = DEFAULT_CACHE_BYTES  # of all together
    threads_alone: int = 1  # of one while the others have nothing to do
    fixed_bucket: bool = False  # on a GPU: the same number of rows at any load

    @classmethod
    def of(cls, settings: Settings, device: Device) -> Self:
        """Those of every model that a server has on a device; a GPU has one, for all rows."""
        return cls(
            count=num_decode_workers(settings) if device == "cpu" else 1,
            max_rows=settings.max_rows,
            cache_bytes=settings.cache_memory,
            threads_alone=settings.threads_alone or num_cores(),
            fixed_bucket=settings.deterministic,
        )

    @property
    def cache_bytes_each(self) -> int:
        """Of the attention caches of one."""
        return self.cache_bytes // self.count


def num_decode_workers(settings: Settings) -> int:
    """Decoding threads of every model on a CPU."""
    return settings.decode_workers or num_cores()
