"""What one run is asked for, and what makes two runs the same."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batch.images import digest
from batch.inputs import Input
from batch.ledger import Ledger
from batch.outputs import FORMATS, Format
from service.settings import Settings

SUFFIXES = {f".{name}": name for name in FORMATS}


@dataclass(frozen=True, slots=True)
class Plan:
    """An input, what is done to it, and where to. It is what the machines of a cluster are told."""

    input: Input
    options: dict[str, Any]  # of the request: see `attendant.requests`
    output: Path
    format_name: str

    @classmethod
    def make(
        cls, input: Input, options: dict[str, Any], output: Path, format_name: str | None
    ) -> "Plan":
        """The format is that of the output's name, or the input's. Raises FileExistsError."""
        usual = "txt" if input.kind == "text" else "jsonl"
        plan = cls(input, options, output, format_name or SUFFIXES.get(output.suffix, usual))
        if not plan.ledger.folder.exists():
            plan.check_place()
        return plan

    def check_place(self) -> None:
        """Raises FileExistsError where something is that only a run which has all parts wrote."""
        for path in (self.output, self.set_aside):
            if path.is_file():
                raise FileExistsError(f"{path} is there already")

    @property
    def is_folder(self) -> bool:
        """Whether the parts stay what they are."""
        return self.output.is_dir()

    @property
    def ledger(self) -> Ledger:
        """Where its parts are."""
        name = f"{self.output.name}.parts"
        folder = self.output if self.is_folder else self.output.with_name(name)
        output_format: Format = FORMATS[self.format_name]()
        return Ledger(folder, output_format)

    @property
    def set_aside(self) -> Path:
        """The file of records without an answer."""
        return self.output.with_name(f"{self.output.name}.set-aside.jsonl")

    def identity(self, settings: Settings) -> dict[str, Any]:
        """As JSON values: parts of runs that differ in this must not be mixed. Raises OSError."""
        return {
            "input": [_identity(path) for path in self.input.paths],
            "kind": self.input.kind,
            "task": self.input.task,
            "field": self.input.field,
            "shard_records": self.input.shard_records,
            "options": self.options,
            "format": self.format_name,
            "limits": [settings.max_text_bytes, settings.max_image_pixels],
        }


def _identity(path: Path) -> list[str | int]:
    if path.is_dir():
        return [str(path), digest(path)]
    found = path.stat()
    return [path.name, found.st_size, found.st_mtime_ns]
