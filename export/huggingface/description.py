"""What every imported bundle's card says of itself."""

import re
from pathlib import Path

from export.huggingface.checkpoint import Checkpoint
from export.huggingface.errors import CheckpointError
from service.bundle import Provenance


def bundle_name(output: Path) -> str:
    """The model's name in .../NAME/VERSION. Raises CheckpointError for another form, or a bundle
    that is there already."""
    if output.exists():
        raise CheckpointError(f"expected no {output} yet, found one")
    name = output.resolve().parent.name
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name) or not output.name.isdigit():
        raise CheckpointError(f"expected --output .../NAME/VERSION, such as opus/1, found {output}")
    return name


def provenance_of(checkpoint: Checkpoint, licence: str) -> Provenance:
    """Where the weights come from."""
    return Provenance(
        data="not stated by the checkpoint",
        licence=licence,
        recipe=f"attendant-export huggingface, from the {checkpoint.model_type} checkpoint "
        f"{checkpoint.folder.resolve().name}",
    )
