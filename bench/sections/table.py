"""All sections, in the order in which they are measured."""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass

from bench.comparison import Findings
from bench.peers.environments import how_to_install, is_installed
from bench.sections import (
    alone,
    floor,
    grpc,
    huggingface,
    offline,
    online,
    open_loop,
    service,
    steps,
    vision,
)
from bench.sections.plan import Plan


@dataclass(frozen=True, slots=True)
class Section:
    """A section, and the peers without which it measures nothing."""

    name: str
    measure: Callable[[Plan], Coroutine[None, None, Findings]]
    peers: Sequence[str] = ()


SECTIONS = {
    section.name: section
    for section in (
        Section("service", service.measure),
        Section("offline", offline.measure, ["ctranslate2"]),
        Section("alone", alone.measure, ["ctranslate2"]),
        Section("huggingface", huggingface.measure),
        Section("steps", steps.measure),
        Section("floor", floor.measure),
        Section("grpc", grpc.measure),
        Section("online", online.measure, ["ctranslate2"]),
        Section("mixed", online.measure_mixed, ["ctranslate2"]),
        Section("open-loop", open_loop.measure, ["ctranslate2"]),
        Section("vision", vision.measure),
    )
}


def split_by_peers(
    names: Sequence[str], installed: Callable[[str], bool] = is_installed
) -> tuple[list[Section], list[str]]:
    """The sections of these names, all if there are none, that can run; what the others lack."""
    chosen = [SECTIONS[name] for name in names or SECTIONS]
    missing = {peer for section in chosen for peer in section.peers if not installed(peer)}
    runnable = [section for section in chosen if not missing.intersection(section.peers)]
    sentences = [
        how_to_install(peer)
        + " (sections "
        + ", ".join(section.name for section in chosen if peer in section.peers)
        + ")"
        for peer in sorted(missing)
    ]
    return runnable, sentences
