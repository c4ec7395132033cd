"""The logits of a step that lie on a device, for the searches: they come to the host by the row.

A search may do with them what it does with an array of its own: take the arg-max, read and change
some rows, forbid some tokens. It sees no difference; only what it asks for is fetched.
Letters: R rows, V vocabulary, C candidates.
"""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from service.translation.selection import Floats, Ints

# The likeliest token is the one of the largest logit; log-probabilities round, so that a few of
# the largest may change places: it is looked for among so many.
NUM_LIKELIEST = 4


class LogitSource(Protocol):
    """The device that has the logits (R, V) of the last step."""

    def candidates(self, count: int) -> tuple[Floats, Floats, Ints]:
        """Log-probabilities, best first, logits and tokens: three times (R, C >= count)."""

    def fetch(self, rows: Ints) -> Floats:
        """These rows (len(rows), V), as a copy."""

    def edit(self, rows: Ints, tokens: Ints, values: Floats) -> None:
        """Write values (N,) at places of the logits."""


class DeviceLogits:
    """Logits (R, V) of the rows that run."""

    def __init__(self, source: LogitSource, num_rows: int, vocab_size: int) -> None:
        self.shape = (num_rows, vocab_size)
        self._source = source
        self._fetched: dict[int, Floats] = {}  # rows that a search has seen, as it has left them

    def __len__(self) -> int:
        return self.shape[0]

    def argmax(self, axis: int) -> Ints:
        """The token of the largest logit of each row, (R,); of equals the first."""
        return self.likeliest(np.arange(len(self)))

    def __getitem__(self, key: Any) -> Any:
        """One row (V,), some rows, or the logits of one token for each of some rows."""
        if isinstance(key, tuple):
            return self._values(*map(np.asarray, key))
        if isinstance(key, int | np.integer):
            self._ensure(np.array([key]))
            return self._fetched[int(key)]
        return LogitRows(self, np.asarray(key))

    def __setitem__(self, key: tuple[Any, Any], value: Any) -> None:
        rows, tokens, values = np.broadcast_arrays(*map(np.asarray, key), np.float32(value))
        if not rows.size:
            return
        self._source.edit(rows.ravel(), tokens.ravel(), values.ravel())
        for row, token, one in zip(rows.flat, tokens.flat, values.flat, strict=True):
            if row in self._fetched:
                self._fetched[row][token] = one

    def likeliest(self, rows: Ints) -> Ints:
        """The token of the largest logit of each of these rows, (len(rows),)."""
        scores, values, tokens = (each[rows] for each in self._source.candidates(NUM_LIKELIEST))
        broken = np.isnan(scores).any(axis=1)
        if broken.any():  # a NaN is the largest to NumPy, and in no order to a device
            self._ensure(rows[broken])
        best = values == values.max(axis=1, keepdims=True)
        chosen: Ints = np.where(best, tokens, self.shape[1]).min(axis=1)
        for place in self._places_fetched(rows):
            chosen[place] = self._fetched[int(rows[place])].argmax()
        return chosen

    def rows(self, rows: Ints) -> Floats:
        """A copy of these rows, (len(rows), V)."""
        self._ensure(rows)
        return np.stack([self._fetched[row] for row in rows.tolist()])

    def _values(self, rows: Ints, tokens: Ints) -> Floats:
        """The logit of one token for each row, (N,)."""
        _, values, found = self._source.candidates(NUM_LIKELIEST)
        places = found[rows] == tokens[:, None]  # (N, C)
        result: Floats = np.where(places, values[rows], -np.inf).max(axis=1)
        elsewhere = ~places.any(axis=1)
        elsewhere[self._places_fetched(rows)] = True
        if elsewhere.any():
            self._ensure(rows[elsewhere])
            for place in np.flatnonzero(elsewhere).tolist():
                result[place] = self._fetched[int(rows[place])][tokens[place]]
        return result

    def _places_fetched(self, rows: Ints) -> list[int]:
        """Where among these rows are those that a search has seen."""
        if not self._fetched:
            return []
        return [place for place, row in enumerate(rows.tolist()) if row in self._fetched]

    def _ensure(self, rows: Ints) -> None:
        missing = [row for row in dict.fromkeys(rows.tolist()) if row not in self._fetched]
        if missing:
            fetched = self._source.fetch(np.array(missing))
            self._fetched |= zip(missing, fetched, strict=True)


class LogitRows:
    """Some rows of them, fetched only by whoever makes an array of them."""

    def __init__(self, logits: DeviceLogits, rows: Ints) -> None:
        self._logits = logits
        self._rows = rows

    def argmax(self, axis: int) -> Ints:
        """The token of the largest logit of each, (N,)."""
        return self._logits.likeliest(self._rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self._logits.rows(self._rows).astype(dtype or np.float32, copy=False)
