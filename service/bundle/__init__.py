"""The bundle format: one folder `NAME/VERSION/` that holds everything needed to serve one model.

    bundle.json        a `TranslationCard` or a `ClassificationCard`, with the sha256 of every file
    fp32/ int8/ fp16/  the ONNX graphs of a precision and the weights file they share
    source.spm ...     what the card's tokenizer names
    golden.json        answers to compare with, if the card names it; see `service.golden`
    MODEL_CARD.md      the same for people

This package reads and verifies bundles. It knows nothing of ONNX Runtime: `expected_tensors` says
which tensors a graph must have, and whoever opens a session compares. Every refusal is a
`BundleError` that says what was expected and what was found.
"""

from service.bundle.architecture import TranslationArchitecture, VisionArchitecture
from service.bundle.cards import (
    BundleCard,
    ClassificationCard,
    ImagePreprocessing,
    Provenance,
    TranslationCard,
)
from service.bundle.fields import Activation, GraphName, Precision, VisionHead
from service.bundle.folder import (
    CARD_FILE,
    SCHEMA_VERSION,
    Bundle,
    bundle_files,
    file_sha256,
    is_version_folder,
    precision_bytes,
    read_card,
)
from service.bundle.languages import Direction, Language, LanguagePair, Languages
from service.bundle.tensors import GraphTensors, TensorSpec, expected_tensors
from service.bundle.translation import (
    Decoding,
    JsonTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    Tokens,
    TranslationLimits,
    VocabularyTokenizer,
)

__all__ = [
    "CARD_FILE",
    "SCHEMA_VERSION",
    "Activation",
    "Bundle",
    "BundleCard",
    "ClassificationCard",
    "Decoding",
    "Direction",
    "GraphName",
    "GraphTensors",
    "ImagePreprocessing",
    "JsonTokenizer",
    "Language",
    "LanguagePair",
    "Languages",
    "Precision",
    "Provenance",
    "SentencePieceTokenizer",
    "TensorSpec",
    "Tokenizer",
    "Tokens",
    "TranslationArchitecture",
    "TranslationCard",
    "TranslationLimits",
    "VisionArchitecture",
    "VisionHead",
    "VocabularyTokenizer",
    "bundle_files",
    "expected_tensors",
    "file_sha256",
    "is_version_folder",
    "precision_bytes",
    "read_card",
]
