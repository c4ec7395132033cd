"""What Attendant imports, a family a file, and what it does not, with what that would need."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from export.huggingface.errors import CheckpointError
from export.seq2seq import Seq2SeqConfig
from export.vit import ViTConfig
from service.bundle import Activation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from export.huggingface.checkpoint import Checkpoint
    from export.huggingface.generation import Generation
    from export.huggingface.texts import Texts
    from export.huggingface.vision_weights import Recipe, VisionNames

# Of transformers' names; what they are called here.
ACTIVATIONS: dict[str, Activation] = {
    "relu": "relu",
    "gelu": "gelu",
    "swish": "swish",
    "silu": "swish",
}


class TranslationFamily(Protocol):
    """What a file of this folder says of its models."""

    ARCHITECTURES: tuple[str, ...]  # classes of transformers that generate, and those they hold

    def architecture(self, config: Any) -> Seq2SeqConfig:
        """Sizes and switches; the tables are looked at later, for what is stored decides."""

    def shares_sides(self, config: Any) -> bool:
        """Whether source and target have one embedding."""

    def texts(
        self, checkpoint: "Checkpoint", generation: "Generation", languages: "Pair | None"
    ) -> "Texts":
        """Tokenizer, languages and templates."""


class VisionFamily(Protocol):
    """What a file of this folder says of its classifiers."""

    ARCHITECTURES: tuple[str, ...]  # classes of transformers that classify, the usual one first
    PROCESSOR: str  # the class of transformers that reads pictures where none is named
    NAMES: "VisionNames"

    def image_size(self, config: Any) -> int | None:
        """The only size of pictures it takes; None: it takes any."""

    def architecture(self, config: Any, class_name: str, size: int) -> ViTConfig:
        """Sizes and switches of a class of ARCHITECTURES, for pictures of a size."""

    def computed(self, config: Any, ours: ViTConfig) -> "Mapping[str, Recipe]":
        """Recipes of our tensors that are no copies of theirs."""


@dataclass(frozen=True, slots=True)
class Pair:
    """--languages, as somebody wrote them."""

    source: str
    target: str


VISION = ("vit", "deit", "dinov2")

# model_type -> what serving it would need.
NEEDED = {
    "t5": "relative position biases, RMSNorm and attention without scaling",
    "mt5": "relative position biases, RMSNorm and attention without scaling",
    "umt5": "relative position biases in every layer, RMSNorm and attention without scaling",
    "longt5": "local attention, relative position biases and RMSNorm",
    "switch_transformers": "a mixture of experts, relative position biases and RMSNorm",
    "nllb-moe": "a mixture of experts",
    "pegasus": "final norms without layernorm_embedding over Marian's sinusoids",
    "bigbird_pegasus": "block sparse attention",
    "led": "local attention with global tokens",
    "fsmt": "padding-aware sinusoids over two vocabularies, and the tokenizer of Moses",
    "blenderbot": "learned positions without an offset",
    "blenderbot-small": "learned positions without an offset",
    "prophetnet": "n-gram attention",
    "encoder-decoder": "an encoder and a decoder of different families",
    "plbart": "BART with another tokenizer",
    "mvp": "prompts in front of keys and values",
    "whisper": "audio",
    "speech_to_text": "audio",
    "beit": "relative position biases in every layer",
    "data2vec-vision": "relative position biases in every layer",
    "dinov2_with_registers": "register tokens behind the class token",
    "dinov3_vit": "rotary positions and register tokens",
    "vit_hybrid": "a convolutional backbone",
    "swin": "shifted windows",
    "swinv2": "shifted windows",
    "convnext": "convolutions",
    "resnet": "convolutions",
    "timm_wrapper": "the architectures of timm",
}


def is_classifier(checkpoint: "Checkpoint") -> bool:
    """Whether it is of a family of vision."""
    return checkpoint.model_type in VISION


def translation_family(checkpoint: "Checkpoint") -> TranslationFamily:
    """The family of a checkpoint. Raises CheckpointError for one that is not served."""
    from export.huggingface.families import bart, m2m100, marian, mbart

    families: dict[str, Any] = {
        "marian": marian,
        "m2m_100": m2m100,
        "bart": bart,
        "mbart": mbart,
    }
    kind = checkpoint.model_type
    if kind not in families:
        needed = NEEDED.get(kind)
        would = f", which would need {needed}" if needed else ""
        served = ", ".join([*families, *VISION])
        raise CheckpointError(f"expected a model of {served}, found {kind}{would}")
    family: TranslationFamily = families[kind]
    _check_architecture(checkpoint, family.ARCHITECTURES)
    return family


def vision_family(checkpoint: "Checkpoint") -> VisionFamily:
    """The family of a classifier. Raises CheckpointError for another architecture of its type."""
    from export.huggingface.families import deit, dinov2, vit

    families: dict[str, Any] = {"vit": vit, "deit": deit, "dinov2": dinov2}
    family: VisionFamily = families[checkpoint.model_type]
    _check_architecture(checkpoint, family.ARCHITECTURES)
    return family


def _check_architecture(checkpoint: "Checkpoint", architectures: tuple[str, ...]) -> None:
    found = checkpoint.fields.get("architectures") or []
    if unknown := [name for name in found if name not in architectures]:
        expected = " or ".join(architectures)
        raise CheckpointError(f"expected the architecture {expected}, found {unknown[0]}")


def common_architecture(config: Any) -> dict[str, Any]:
    """What the configurations of all families say alike. Raises CheckpointError."""
    activation = config.activation_function
    if activation not in ACTIVATIONS:
        expected = ", ".join(ACTIVATIONS)
        raise CheckpointError(f"expected activation_function {expected}, found {activation}")
    for heads in (config.encoder_attention_heads, config.decoder_attention_heads):
        if config.d_model % heads:
            raise CheckpointError(
                f"expected heads that divide d_model {config.d_model}, not {heads}"
            )
    return {
        "vocab_size": config.vocab_size,
        "source_vocab_size": config.vocab_size,
        "d_model": config.d_model,
        "encoder_layers": config.encoder_layers,
        "decoder_layers": config.decoder_layers,
        "num_heads": config.decoder_attention_heads,
        "encoder_heads": _unless_same(
            config.encoder_attention_heads, config.decoder_attention_heads
        ),
        "ffn_size": config.decoder_ffn_dim,
        "encoder_ffn_size": _unless_same(config.encoder_ffn_dim, config.decoder_ffn_dim),
        "dropout": 0.0,
        "activation": ACTIVATIONS[activation],
        "max_positions": config.max_position_embeddings,
        "scale_embedding": bool(config.scale_embedding),
        "pad_token_id": config.pad_token_id,
        "eos_token_id": config.eos_token_id,
    }


def _unless_same(size: int, other: int) -> int | None:
    return None if size == other else size
