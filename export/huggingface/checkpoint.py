"""A checkpoint folder: its configuration, its generation defaults, its tensors.

transformers' own configuration classes read the files, so that a default or a precedence is theirs.
Nothing is looked for outside the folder, and no code of it is run: a config.json that names some
(auto_map) is refused, for what such a model computes is not known here.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from export.huggingface.errors import CheckpointError
from export.huggingface.tensors import Tensors

CONFIG, GENERATION = "config.json", "generation_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"


@dataclass(frozen=True)
class Checkpoint:
    """What a folder holds; every part is read when it is first asked for."""

    folder: Path

    @cached_property
    def fields(self) -> dict[str, Any]:
        """config.json as it is. Raises CheckpointError."""
        fields = read_json(self.folder / CONFIG)
        if "auto_map" in fields:
            found = ", ".join(map(str, fields["auto_map"]))
            raise CheckpointError(
                f"{self.folder / CONFIG}: expected a model of transformers itself, found code of "
                f"its own in auto_map ({found}), which is never run"
            )
        if fields.get("quantization_config"):
            method = fields["quantization_config"].get("quant_method", "unknown")
            raise CheckpointError(
                f"{self.folder / CONFIG}: expected plain weights, found quantization_config "
                f"({method}); export the checkpoint it was made from with --precision int8"
            )
        return fields

    @property
    def model_type(self) -> str:
        """Which of transformers' models it is. Raises CheckpointError."""
        found = self.fields.get("model_type")
        if not isinstance(found, str):
            raise CheckpointError(f"{self.folder / CONFIG}: expected a model_type, found {found!r}")
        return found

    @cached_property
    def config(self) -> Any:
        """The configuration, with its class's defaults. Raises CheckpointError."""
        from transformers import CONFIG_MAPPING

        kind = CONFIG_MAPPING[self.model_type]
        try:
            return kind.from_pretrained(str(self.folder), local_files_only=True)
        except Exception as error:  # whatever its validation raises
            reason = str(error).strip().replace("\n", " ")
            raise CheckpointError(f"{self.folder / CONFIG}: {reason}") from error

    @cached_property
    def generation(self) -> Any:
        """generation_config.json, or config.json as its older place, as `from_pretrained` does."""
        from transformers import GenerationConfig

        old = not (self.folder / GENERATION).is_file()
        place = CONFIG if old else GENERATION
        try:
            return GenerationConfig.from_pretrained(
                str(self.folder), place, local_files_only=True, _from_model_config=old
            )
        except Exception as error:
            reason = str(error).strip().replace("\n", " ")
            raise CheckpointError(f"{self.folder / place}: {reason}") from error

    @cached_property
    def tokenizer_fields(self) -> dict[str, Any]:
        """tokenizer_config.json as it is; empty where there is none. Raises CheckpointError."""
        path = self.folder / TOKENIZER_CONFIG
        return read_json(path) if path.is_file() else {}

    @cached_property
    def tensors(self) -> Tensors:
        """The weights. Raises CheckpointError."""
        return Tensors(self.folder)

    def file(self, *names: str) -> Path:
        """The first of these that is there. Raises CheckpointError."""
        for name in names:
            if (self.folder / name).is_file():
                return self.folder / name
        raise CheckpointError(f"expected {' or '.join(names)} in {self.folder}, found no such file")

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self.folder / name).is_file()


def read_json(path: Path) -> dict[str, Any]:
    """An object of a JSON file. Raises CheckpointError."""
    try:
        fields = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"expected {path}, found no such file") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"expected JSON in {path}, found: {error}") from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"expected an object in {path}, found {type(fields).__name__}")
    return fields
