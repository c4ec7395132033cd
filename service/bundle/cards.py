"""bundle.json: the card of a model, by its task."""

from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue, PositiveFloat, PositiveInt, model_validator

from service.bundle.architecture import TranslationArchitecture, VisionArchitecture
from service.bundle.fields import CardModel, GraphName, Precision, RelativePath, Sha256
from service.bundle.languages import Direction, Language, LanguagePair, Languages
from service.bundle.translation import (
    Decoding,
    Side,
    SourcePart,
    TargetPart,
    Tokenizer,
    Tokens,
    TranslationLimits,
    tokenizer_files,
)


class ImagePreprocessing(CardModel):
    """The steps of a Hugging Face PIL image processor; `resample` as in PIL.Image.Resampling.

    Without rescaling the factor is 1; without normalising the mean is 0 and the deviation 1.
    `size` is that of a square, or of the shorter edge; where nothing is resized or cropped, that of
    the pictures taken.
    """

    size: PositiveInt
    resample: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
    mean: tuple[float, float, float]
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    rescale_factor: float = 1 / 255
    resize: bool = True
    convert_rgb: bool = True
    center_crop: PositiveInt | None = None
    shortest_edge: bool = False
    transparency: Literal["dropped", "white"] = "dropped"  # what lies behind it

    @property
    def output_size(self) -> int:
        """The height, and the width, of what the model is given."""
        return self.center_crop or self.size


class Provenance(CardModel):
    """Where the weights come from, and what was measured about them."""

    data: str
    licence: str
    recipe: str
    trained_hours: float | None = None
    metrics: dict[str, dict[str, float]] = Field(default_factory=dict)
    measured_with: dict[str, str] = Field(
        default_factory=dict
    )  # the command that gives these figures, the machine, ...
    parity: dict[str, JsonValue] = Field(default_factory=dict)


class BundleCard(CardModel):
    """What the cards of all tasks have."""

    GRAPHS: ClassVar[tuple[GraphName, ...]] = ()

    schema_version: Literal[1] = 1
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    task: Literal["translation", "classification"]
    precisions: dict[Precision, dict[GraphName, RelativePath]]
    golden: RelativePath | None = None  # what `service.golden` reads
    files: dict[RelativePath, Sha256] = Field(default_factory=dict)
    provenance: Provenance

    def required_files(self) -> Iterator[str]:
        """Files that the card names and `files` must list."""
        for graphs in self.precisions.values():
            yield from graphs.values()
        if self.golden is not None:
            yield self.golden

    @model_validator(mode="after")
    def _precisions_are_complete(self) -> "BundleCard":
        if not self.precisions:
            raise ValueError("expected at least one precision, found none")
        for precision, graphs in self.precisions.items():
            if set(graphs) != set(self.GRAPHS):
                expected, found = ", ".join(self.GRAPHS), ", ".join(graphs) or "none"
                raise ValueError(
                    f"precision {precision}: expected graphs {expected}, found {found}"
                )
        return self


class TranslationCard(BundleCard):
    """A model that translates, in fixed pairs or between any of its languages."""

    GRAPHS: ClassVar[tuple[GraphName, ...]] = ("encoder", "decoder")

    task: Literal["translation"] = "translation"
    architecture: TranslationArchitecture
    tokens: Tokens
    decoding: Decoding
    language_pairs: tuple[LanguagePair, ...] = ()
    languages: Languages | None = None
    segmentation: Literal["sentences", "none"]
    tokenizer: Tokenizer
    limits: TranslationLimits
    quantized_caches: tuple[Precision, ...] = ()  # precisions whose attention caches are int8

    def cache_type(self, precision: str) -> str:
        """What the attention caches of a precision hold, as NumPy names it."""
        if precision in self.quantized_caches:
            return "int8"
        return "float16" if precision == "fp16" else "float32"

    @cached_property
    def fixed_directions(self) -> tuple[Direction, ...]:
        """Those of the pairs: every request looks here."""
        return tuple(map(Direction.of, self.language_pairs))

    @property
    def first_direction(self) -> Direction:
        """Its only direction, or one of them: the first source into the first other target."""
        if self.languages is None:
            return self.fixed_directions[0]
        sources, targets = self.languages.sources, self.languages.targets
        return next(
            Direction(source, target)
            for source in sources
            for target in targets
            if source.code != target.code
        )

    def required_files(self) -> Iterator[str]:
        """The graphs, the tokenizer's files, the golden answers if there are any."""
        yield from super().required_files()
        yield from sorted(tokenizer_files(self.tokenizer))

    @model_validator(mode="after")
    def _numbers_agree(self) -> "TranslationCard":
        longest = max(self.limits.max_source_tokens, self.limits.max_target_tokens)
        if longest > self.architecture.max_positions:
            positions = self.architecture.max_positions
            raise ValueError(f"expected limits of at most {positions} positions, found {longest}")
        if self.decoding.max_target_tokens > self.limits.max_target_tokens:
            limit, found = self.limits.max_target_tokens, self.decoding.max_target_tokens
            raise ValueError(
                f"expected decoding.max_target_tokens of at most {limit}, found {found}"
            )
        if self.decoding.num_hypotheses > self.decoding.beam_size:
            raise ValueError(
                f"expected decoding.num_hypotheses of at most beam_size {self.decoding.beam_size}, "
                f"found {self.decoding.num_hypotheses}"
            )
        return self

    @model_validator(mode="after")
    def _languages_are_told(self) -> "TranslationCard":
        if (self.languages is None) is (not self.language_pairs):
            found = "neither" if self.languages is None else "both"
            raise ValueError(f"expected language_pairs or languages, found {found}")
        for side, languages in self._sides.items():
            if not self.tokens.needs(side):
                continue
            if not languages:
                raise ValueError(f"expected languages, for tokens name a {side}")
            if silent := [one.code for one in languages if one.token is None]:
                raise ValueError(f"expected a token for each {side}, found none for {silent[0]}")
        return self

    @model_validator(mode="after")
    def _tokens_are_in_the_vocabularies(self) -> "TranslationCard":
        sizes = self.architecture
        tokens, decoding = self.tokens, self.decoding
        read = self._ids(tokens.template)
        written = self._ids((tokens.decoder_start, tokens.forced_bos))
        written |= {tokens.pad, tokens.eos, tokens.unk, *decoding.suppressed_tokens}
        written |= set() if decoding.forced_eos is None else {decoding.forced_eos}
        if max(written) >= sizes.vocab_size:
            raise ValueError(f"token {max(written)} is outside vocab_size {sizes.vocab_size}")
        source_size = sizes.source_vocab_size or sizes.vocab_size
        if max(read, default=0) >= source_size:
            raise ValueError(f"token {max(read)} is outside the source's {source_size}")
        return self

    def _ids(self, parts: tuple[SourcePart | TargetPart | None, ...]) -> set[int]:
        """The ids of a template in any language."""
        ids = {part for part in parts if isinstance(part, int)}
        for side, languages in self._sides.items():
            if side in parts:
                ids |= {one.token for one in languages if one.token is not None}
        return ids

    @property
    def _sides(self) -> dict[Side, tuple[Language, ...]]:
        """The languages of a multilingual model, as templates name them."""
        sources = self.languages.sources if self.languages else ()
        targets = self.languages.targets if self.languages else ()
        return {"source_language": sources, "target_language": targets}


class ClassificationCard(BundleCard):
    """A model that labels images."""

    GRAPHS: ClassVar[tuple[GraphName, ...]] = ("classifier",)

    task: Literal["classification"] = "classification"
    architecture: VisionArchitecture
    labels: Annotated[tuple[str, ...], Field(min_length=1)]
    image: ImagePreprocessing
    multi_label: bool = False

    @model_validator(mode="after")
    def _pictures_fit(self) -> "ClassificationCard":
        expected, found = self.architecture.image_size, self.image.output_size
        if expected != found:
            raise ValueError(f"expected pictures of image_size {expected}, found {found}")
        return self
