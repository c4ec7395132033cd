"""Sizes and switches of the networks: what `export` builds their graphs from."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from service.bundle.fields import Activation, CardModel, VisionHead


class TranslationArchitecture(CardModel):
    """Sizes and switches of an encoder-decoder Transformer."""

    encoder_layers: PositiveInt
    decoder_layers: PositiveInt
    d_model: PositiveInt
    num_heads: PositiveInt
    head_size: PositiveInt
    ffn_size: PositiveInt
    vocab_size: PositiveInt
    max_positions: PositiveInt
    norm: Literal["post", "pre"]
    activation: Activation
    positions: Literal["sinusoidal", "tensor2tensor", "learned"]
    position_offset: Annotated[int, Field(ge=0)] = 0  # the place of a sequence's first token
    embedding_norm: bool = False
    scale_embedding: bool = True  # by the square root of d_model
    source_vocab_size: PositiveInt | None = None  # None: source and target share a table
    tied_output: bool = True  # logits are computed with the target's table
    encoder_heads: PositiveInt | None = None  # None: as many as the decoder
    encoder_ffn_size: PositiveInt | None = None

    @model_validator(mode="after")
    def _heads_fill_the_model(self) -> "TranslationArchitecture":
        if self.encoder_heads is not None and self.d_model % self.encoder_heads:
            raise ValueError(
                f"expected encoder_heads that divide d_model {self.d_model}, "
                f"found {self.encoder_heads}"
            )
        if self.num_heads * self.head_size != self.d_model:
            found = f"{self.num_heads} * {self.head_size}"
            raise ValueError(
                f"expected num_heads * head_size = d_model {self.d_model}, not {found}"
            )
        return self


class VisionArchitecture(CardModel):
    """Sizes and switches of a Vision Transformer.

    The head reads the class token; or the class and the distillation token, side by side; or the
    class token and the mean of the patches, side by side.
    """

    layers: PositiveInt
    d_model: PositiveInt
    num_heads: PositiveInt
    ffn_size: PositiveInt
    image_size: PositiveInt
    patch_size: PositiveInt
    stem: Literal["convolution", "patches"]
    activation: Activation = "gelu"
    norm_epsilon: PositiveFloat = 1e-5
    distillation_token: bool = False  # behind the class token
    head: VisionHead = "class_token"

    @model_validator(mode="after")
    def _head_reads_what_there_is(self) -> "VisionArchitecture":
        if self.head == "class_and_distillation_tokens" and not self.distillation_token:
            raise ValueError(f"expected a distillation_token for the head {self.head}, found none")
        return self
