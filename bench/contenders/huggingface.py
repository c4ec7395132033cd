"""Hugging Face `generate` of the same weights, as a MarianMTModel; in our own environment."""

from pathlib import Path
from typing import Any

import torch

from bench.contenders.protocol import serve, timed
from export.marian import to_marian
from export.seq2seq import Transformer
from export.weights import load_bundle_model


class Contender:
    """The handlers."""

    def __init__(self) -> None:
        self._batch_size = 1

    def load(self, bundle: str) -> dict[str, Any]:
        """Build the model of a bundle."""
        model = load_bundle_model(Path(bundle), Transformer)
        self._pad = model.config.pad_token_id
        self._eos = model.config.eos_token_id
        # Its own types do not fit together: `generate` is not for the model that it is of.
        self._model: Any = to_marian(model.state_dict(), model.config)
        return {}

    def use(self, batch_size: int, num_threads: int) -> dict[str, Any]:
        """How many sources `translate` decodes together from now on, and on how many threads."""
        self._batch_size = batch_size
        torch.set_num_threads(num_threads)
        return {}

    def translate(self, sources: list[list[int]], **options: int) -> dict[str, Any]:
        """All sources, those of like lengths together."""
        ids: list[list[list[int]]] = [[] for _ in sources]
        with timed() as times, torch.inference_mode():
            order = sorted(range(len(sources)), key=lambda index: -len(sources[index]))
            for at in range(0, len(order), self._batch_size):
                members = order[at : at + self._batch_size]
                found = self._generate([sources[index] for index in members], **options)
                for index, hypotheses in zip(members, found, strict=True):
                    ids[index] = hypotheses
        return {**times, "ids": ids}

    def _generate(
        self,
        sources: list[list[int]],
        *,
        beam_size: int,
        num_hypotheses: int,
        min_tokens: int,
        max_tokens: int,
    ) -> list[list[list[int]]]:
        longest = max(map(len, sources))
        padded = [[*source, *[self._pad] * (longest - len(source))] for source in sources]
        input_ids = torch.tensor(padded)  # (B, S)
        found = self._model.generate(
            input_ids,
            attention_mask=(input_ids != self._pad).long(),
            num_beams=beam_size,
            num_return_sequences=num_hypotheses,
            early_stopping=beam_size > 1,
            min_new_tokens=min_tokens,
            max_new_tokens=max_tokens,
            do_sample=False,
        )
        rows = [self._without_ends(row) for row in found[:, 1:].tolist()]
        return [rows[at : at + num_hypotheses] for at in range(0, len(rows), num_hypotheses)]

    def _without_ends(self, row: list[int]) -> list[int]:
        return row[: row.index(self._eos)] if self._eos in row else row


if __name__ == "__main__":
    contender = Contender()
    serve(load=contender.load, use=contender.use, translate=contender.translate)
