"""How a metric is declared: once, beside the attribute that holds its collector.

From the declarations come the collectors, and docs/metrics.md by `make metrics-page`.
"""

from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields
from typing import Any, TypeAlias

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

Collector: TypeAlias = Counter | Gauge | Histogram

_KEY = "declaration"
_UNITS = ("seconds", "bytes", "tokens", "images", "rows", "ratio")


@dataclass(frozen=True, slots=True)
class Label:
    """A label, and all values it may have; where those are not known here, what they are."""

    name: str
    meaning: str
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """All there is to know of one metric."""

    kind: type[Collector]
    name: str
    text: str
    labels: tuple[Label, ...]
    buckets: tuple[float, ...] = ()
    example: str = ""  # PromQL

    @property
    def unit(self) -> str:
        """The base unit, as its name says it; empty for a number of something else."""
        return next((unit for unit in _UNITS if unit in self.name.split("_")), "")

    def make(self, registry: CollectorRegistry) -> Collector:
        """The collector, in this registry."""
        names = [label.name for label in self.labels]
        if self.kind is Histogram:
            return Histogram(self.name, self.text, names, registry=registry, buckets=self.buckets)
        return self.kind(self.name, self.text, names, registry=registry)


def counter(name: str, text: str, *labels: Label, example: str = "") -> Any:
    """A field that holds a counter."""
    return _field(Declaration(kind=Counter, name=name, text=text, labels=labels, example=example))


def gauge(name: str, text: str, *labels: Label, example: str = "") -> Any:
    """A field that holds a gauge."""
    return _field(Declaration(kind=Gauge, name=name, text=text, labels=labels, example=example))


def histogram(
    name: str, text: str, *labels: Label, buckets: tuple[float, ...], example: str = ""
) -> Any:
    """A field that holds a histogram."""
    declaration = Declaration(
        kind=Histogram, name=name, text=text, labels=labels, buckets=buckets, example=example
    )
    return _field(declaration)


def declarations(owner: type[Any]) -> Iterator[tuple[str, Declaration]]:
    """The metrics that a dataclass holds, by the names of its attributes."""
    for one in fields(owner):
        if _KEY in one.metadata:
            yield one.name, one.metadata[_KEY]


def _field(declaration: Declaration) -> Field[Collector]:
    found: Field[Collector] = field(metadata={_KEY: declaration})
    return found
