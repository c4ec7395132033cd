"""Measure a bundle on a test set, through the engines that the server runs.

translation.py     BLEU, chrF, sentences a second
classification.py  accuracy, images a second
figures.py         what was measured, as a table
"""

import random
from collections.abc import Sequence
from pathlib import Path

from export.data.parallel import read_parallel
from export.data.perturb import perturb_all
from export.data.sampling import evenly_spaced
from export.evaluate.classification import evaluate_classification
from export.evaluate.figures import Evaluation, machine
from export.evaluate.translation import TranslationTest, evaluate_translation
from service.bundle import Bundle
from service.settings import Precision

__all__ = ["Evaluation", "evaluate", "machine"]


def evaluate(
    bundle: Bundle,
    data: Sequence[Path],
    *,
    precisions: Sequence[Precision] | None = None,
    beam_size: int | None = None,
    limit: int | None = None,
    perturb: bool = False,
) -> Evaluation:
    """Measure a bundle, in all its precisions by default, on SRC and TGT or on a folder.

    `perturb` measures a changed copy of the sentences as well. Raises ValueError for data that does
    not fit the task.
    """
    precisions = precisions or list(bundle.card.precisions)
    if bundle.task == "classification":
        if len(data) != 1 or perturb or beam_size:
            raise ValueError("a classifier is measured on one folder, without text options")
        return evaluate_classification(bundle, precisions, data[0], limit)
    if len(data) != 2:
        raise ValueError(f"translation is measured on two parallel files, not {len(data)}")
    pairs = evenly_spaced(read_parallel(*data), limit)
    if not pairs:
        raise ValueError(f"{data[0]} and {data[1]} have no sentence pairs")
    sets = {"": pairs}
    if perturb:
        sets["perturbed_"] = perturb_all(pairs, random.Random(0))
    return evaluate_translation(bundle, precisions, TranslationTest(sets, beam_size))
