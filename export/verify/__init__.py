"""Compare a bundle's graphs under ONNX Runtime with the PyTorch model made of its fp32 weights.

stepping.py        the decoder graph, a token at a time, with rows that join and leave
translation.py     caches, logits, ids, text, isolation
classification.py  logits, labels, isolation
report.py          what was measured, and the bounds
"""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from export.verify.classification import check_classification
from export.verify.report import Bounds, Report
from export.verify.translation import check_translation
from service.bundle import Bundle

__all__ = ["Bounds", "Report", "verify_bundle"]

DEFAULT_BOUNDS = Bounds()


def verify_bundle(
    folder: Path,
    *,
    sentences: Sequence[str] | None = None,
    pictures: Tensor | None = None,
    bounds: Bounds = DEFAULT_BOUNDS,
) -> Report:
    """Check every precision of the bundle in `folder`; the report says what was found.

    `sentences` in the source language, or `pictures` (B, 3, height, width) normalised as the model
    takes them, replace the built-in ones. Raises BundleError for a bundle that cannot be opened.
    """
    bundle = Bundle.open(folder)
    if bundle.task == "translation":
        checks = check_translation(bundle, sentences, bounds)
    else:
        checks = check_classification(bundle, pictures, bounds)
    return Report(f"{bundle.name}/{bundle.version}", tuple(checks))
