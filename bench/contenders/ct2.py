"""CTranslate2's `Translator`, in its own environment; a token is the id's decimal number.

Turning ids into these words is not timed: its callers have words.
"""

from typing import Any

import ctranslate2

from bench.contenders.protocol import serve, timed


class Contender:
    """The handlers."""

    def __init__(self) -> None:
        self._translator: ctranslate2.Translator = None
        self._batches: dict[str, Any] = {}

    def load(
        self, model: str, compute_type: str, inter_threads: int, intra_threads: int
    ) -> dict[str, Any]:
        """Open a model in place of the one before."""
        self._translator = None
        self._translator = ctranslate2.Translator(
            model,
            compute_type=compute_type,
            inter_threads=inter_threads,
            intra_threads=intra_threads,
        )
        return {"compute_type": self._translator.compute_type}

    def batch(self, max_batch_size: int, batch_type: str) -> dict[str, Any]:
        """How `translate` cuts its sources into batches from now on."""
        self._batches = {"max_batch_size": max_batch_size, "batch_type": batch_type}
        return {}

    def translate(self, sources: list[list[int]], **options: int) -> dict[str, Any]:
        """All sources at once."""
        words = _words(sources)
        arguments = _arguments(**options) | self._batches
        with timed() as times:
            results = self._translator.translate_batch(words, **arguments)
        return {**times, "ids": list(map(_ids, results))}

    def alone(self, sources: list[list[int]], **options: int) -> dict[str, Any]:
        """One source after the other."""
        arguments = _arguments(**options)
        calls, ids = [], []
        for source in _words(sources):
            with timed() as times:
                (result,) = self._translator.translate_batch([source], **arguments)
            calls.append(times)
            ids.append(_ids(result))
        return {"calls": calls, "ids": ids}


def _words(sources: list[list[int]]) -> list[list[str]]:
    return [list(map(str, source)) for source in sources]


def _arguments(
    *, beam_size: int, num_hypotheses: int, min_tokens: int, max_tokens: int
) -> dict[str, Any]:
    return {
        "beam_size": beam_size,
        "num_hypotheses": num_hypotheses,
        "min_decoding_length": min_tokens,
        "max_decoding_length": max_tokens,
    }


def _ids(result: Any) -> list[list[int]]:
    return [list(map(int, hypothesis)) for hypothesis in result.hypotheses]


if __name__ == "__main__":
    contender = Contender()
    serve(
        load=contender.load,
        batch=contender.batch,
        translate=contender.translate,
        alone=contender.alone,
    )
