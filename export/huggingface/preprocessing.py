"""preprocessor_config.json, as transformers' image processor of the checkpoint reads it.

Its class has the defaults and knows the older forms of a size; what a card cannot say is refused.
"""

from typing import Any, Literal, cast, get_args

from PIL import Image

from export.huggingface.checkpoint import Checkpoint
from export.huggingface.errors import CheckpointError
from service.bundle import ImagePreprocessing

PROCESSORS = ("ViTImageProcessor", "DeiTImageProcessor", "BitImageProcessor")
Resample = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]


def open_processor(checkpoint: Checkpoint, default: str) -> Any:
    """The checkpoint's image processor on PIL; where it names none, `default`'s class.

    Raises CheckpointError for one that is not served.
    """
    import transformers

    fields = _read_fields(checkpoint)
    name = _processor_name(checkpoint, fields, default)
    if name not in PROCESSORS:
        raise CheckpointError(f"expected the image processor {' or '.join(PROCESSORS)}, not {name}")
    kind: Any = getattr(transformers, f"{name}Pil")
    try:
        return kind.from_dict(fields)
    except Exception as error:  # whatever its validation raises
        raise CheckpointError(f"preprocessor_config.json: {error}") from error


def read_preprocessing(processor: Any, image_size: int | None) -> ImagePreprocessing:
    """A processor's steps; image_size is the only size the model takes, None if it takes any.

    Raises CheckpointError for steps that are not served.
    """
    crop = _square("crop_size", processor.crop_size) if processor.do_center_crop else None
    size, shortest_edge = _size(processor, image_size, crop)
    _refuse(processor.do_pad, f"do_pad {processor.do_pad}")
    _refuse(
        shortest_edge and crop is None,
        "size with a shortest_edge and do_center_crop False, pictures of different sizes,",
    )
    try:
        preprocessing = ImagePreprocessing(
            size=size,
            resample=_resample(processor.resample) if processor.do_resize else "bilinear",
            mean=_three("image_mean", processor.image_mean if processor.do_normalize else 0.0),
            std=_three("image_std", processor.image_std if processor.do_normalize else 1.0),
            rescale_factor=float(processor.rescale_factor) if processor.do_rescale else 1.0,
            resize=bool(processor.do_resize),
            convert_rgb=bool(processor.do_convert_rgb),
            center_crop=crop,
            shortest_edge=shortest_edge,
            transparency="white" if processor.do_convert_rgb else "dropped",
        )
    except ValueError as error:  # pydantic's
        raise CheckpointError(f"preprocessor_config.json: {error}") from error
    if image_size is not None and preprocessing.output_size != image_size:
        raise CheckpointError(
            f"expected preprocessing to the model's image_size {image_size}, found "
            f"{preprocessing.output_size}, which transformers refuses too"
        )
    return preprocessing


def _read_fields(checkpoint: Checkpoint) -> dict[str, Any]:
    from transformers import ImageProcessingMixin

    mixin: Any = ImageProcessingMixin
    try:
        fields, _ = mixin.get_image_processor_dict(str(checkpoint.folder), local_files_only=True)
    except Exception as error:
        raise CheckpointError(
            f"expected preprocessor_config.json in {checkpoint.folder}, found: {error}"
        ) from error
    if "auto_map" in fields:
        raise CheckpointError(
            f"{checkpoint.folder}: expected an image processor of transformers itself, found code "
            "of its own in auto_map, which is never run"
        )
    return dict(fields)


def _processor_name(checkpoint: Checkpoint, fields: dict[str, Any], default: str) -> str:
    """As AutoImageProcessor finds it, the older names included."""
    older = fields.get("feature_extractor_type")
    name = fields.get("image_processor_type")
    name = name or (older and str(older).replace("FeatureExtractor", "ImageProcessor"))
    name = name or checkpoint.fields.get("image_processor_type") or default
    return str(name).removesuffix("Fast")


def _size(processor: Any, image_size: int | None, crop: int | None) -> tuple[int, bool]:
    """The size to resize to, or the one pictures have; whether it is the shorter edge's."""
    if not processor.do_resize:
        size = crop or image_size
        _refuse(size is None, "do_resize False without do_center_crop, pictures of any size,")
        return cast(int, size), False
    found = dict(processor.size or {})
    if found.keys() == {"shortest_edge"}:
        return int(found["shortest_edge"]), True
    return _square("size", found), False


def _square(name: str, size: Any) -> int:
    found = dict(size or {})
    is_square = found.keys() == {"height", "width"} and found["height"] == found["width"]
    _refuse(not is_square, f"{name} {found}")
    return int(found["height"])


def _resample(value: Any) -> Resample:
    names = {Image.Resampling[name.upper()].value: name for name in get_args(Resample)}
    if value not in names:
        raise CheckpointError(f"expected a resample of {min(names)} to {max(names)}, found {value}")
    return cast(Resample, names[value])


def _three(name: str, value: Any) -> tuple[float, float, float]:
    """A number for each channel."""
    numbers = list(value) if isinstance(value, list | tuple) else [value] * 3
    if len(numbers) != 3 or not all(isinstance(number, int | float) for number in numbers):
        raise CheckpointError(f"expected an {name} of one number or three, found {value}")
    red, green, blue = map(float, numbers)
    return red, green, blue


def _refuse(wrong: Any, what: str) -> None:
    if wrong:
        raise CheckpointError(f"{what} in preprocessor_config.json: not supported by Attendant")
