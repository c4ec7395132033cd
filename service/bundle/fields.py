"""What the fields of every card are made of."""

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Precision = Literal["fp32", "int8", "fp16"]
GraphName = Literal["encoder", "decoder", "classifier"]
Activation = Literal["relu", "gelu", "swish"]
VisionHead = Literal["class_token", "class_and_distillation_tokens", "class_token_and_patch_mean"]
TokenId = Annotated[int, Field(ge=0)]


def _inside_the_folder(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or ":" in path:
        raise ValueError("expected a relative path that stays inside the bundle")
    return path


RelativePath = Annotated[str, AfterValidator(_inside_the_folder)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class CardModel(BaseModel):
    """Immutable, no unknown fields, no silent conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
