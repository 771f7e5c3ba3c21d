"""Shares: how many rows of a batch each buffer of a mixture gives."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really._utils._locks import Lock
from really._utils.checks import checked_number
from really._utils.forks import ForkGroup, Order
from really.errors import InvalidValueError, one_of
from really.replay import arguments
from really.replay._ring import MixedCounts

Weight = float | Callable[[int], float]
"""A weight, or a function from the number of the batch (0, 1, ...) to it."""
COUNTS = ("exact", "binomial")
WHOLE = 1e-9
"""A number of rows that is so near to an integer is meant to be one."""
PAIRED = 8
"""From so many numbers on NumPy adds in pairs, so that its sum is another than that of one number after the other."""


class Shares:
    """Draws how many rows of each batch come from each part; any number of threads may draw.

    Args:
        weights: of the parts; a function of the batch's number anneals one.
        counts: "exact" rounds n w / (sum of w) up or down, at random so that each is right on average (systematic
            sampling: Madow 1949); "binomial" draws the part of each row by itself.
        seed: seeds the rounding, or the drawing.

    Attributes:
        compiled: the number of the next batch, and the parts of batches whose shares are constant and counts exact.

    Raises InvalidValueError or InvalidTypeError if an argument cannot be used.
    """

    def __init__(self, weights: Sequence[Weight], counts: str, seed: arguments.Seed) -> None:
        if counts not in COUNTS:
            raise InvalidValueError(one_of("counts", counts, COUNTS))
        self.weights, self.counts = tuple(weights), counts
        bits = arguments.bit_generator(seed)
        self._bits, self._generator = bits, np.random.Generator(bits)
        self.compiled = MixedCounts(bits, 0)
        first = self._of(0)
        self._constant = None if any(map(callable, self.weights)) else first
        self.reset_after_fork()

    def of(self, number: int) -> NDArray[np.float64]:
        """The share of each part in batch `number`, [part] float64, of sum 1.

        Raises InvalidValueError if a weight is negative or not finite, if their sum is not finite, or if all are 0.
        """
        return np.array(self._of(number))

    def next_counts(self, n: int, num_batches: int = 1) -> list[int]:
        """Rows of each part in the next batches of `n` rows, batch after batch."""
        with self._lock:
            if num_batches == 1:
                return self._next(n)
            return [count for _ in range(num_batches) for count in self._next(n)]

    def state_dict(self) -> dict[str, Any]:
        """The number of the next batch, and the state of the generator."""
        with self._lock:
            while True:
                number, state = self.compiled.number, dict(self._bits.state)
                if self.compiled.number == number:  # no other thread has drawn in between
                    return {"number": number, "generator": state}

    def load_state_dict(self, state: Any) -> None:
        """Continues from what `state_dict` gave; raises TypeError, ValueError or KeyError for anything else."""
        with self._lock:
            self.compiled.restore(int(state["number"]), dict(state["generator"]))

    def reset_after_fork(self) -> None:
        """Replaces the lock, which another thread may have held."""
        self._lock = Lock()
        _live.add(self)

    def __getstate__(self) -> dict[str, Any]:
        left_out = ("_lock", "_generator", "compiled")
        return {name: value for name, value in self.__dict__.items() if name not in left_out} | {
            "number": self.compiled.number
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        number = state.pop("number")
        self.__dict__.update(state)
        self._generator, self.compiled = np.random.Generator(self._bits), MixedCounts(self._bits, number)
        self.reset_after_fork()

    def _of(self, number: int) -> list[float]:
        given = [weight(number) if callable(weight) else weight for weight in self.weights]
        weights = [
            w if type(w) is float and 0.0 <= w < math.inf else checked_number(f"weight of buffer {at}", w, 0, math.inf)
            for at, w in enumerate(given)
        ]
        if not any(weights):
            raise InvalidValueError(f"Mixture: expected a weight above 0, got {given} for batch {number}")
        total = float(np.sum(weights)) if len(weights) >= PAIRED else list(itertools.accumulate(weights))[-1]
        if total == math.inf:
            raise InvalidValueError(f"Mixture: expected weights of a finite sum, got {given} for batch {number}")
        return [weight / total for weight in weights]

    def _next(self, n: int) -> list[int]:
        if (counts := self.compiled.next_counts(n)) is not None:
            return counts
        number = self.compiled.next_number()
        shares = self._of(number) if self._constant is None else self._constant
        if self.counts == "binomial":
            return list(map(int, self._generator.multinomial(n, shares)))
        ends = _ends(shares, n)
        whole = _whole(ends, n)
        if self._constant is not None and whole is not None:
            self.compiled.whole[n] = whole
        elif self._constant is not None:
            self.compiled.ends[n] = ends
        return whole or self.compiled.rounded(ends, n)


_live = ForkGroup(Order.SAMPLERS, in_child=Shares.reset_after_fork)


def _ends(shares: list[float], n: int) -> list[float]:
    """Where each part but the last one ends in a batch of `n` rows."""
    return [end * n for end in itertools.accumulate(shares[:-1])]


def _whole(ends: list[float], n: int) -> list[int] | None:
    """Rows of each part, if they are whole numbers."""
    stops = [0, *map(round, ends), n]
    if any(abs(end - stop) >= WHOLE for end, stop in zip(ends, stops[1:], strict=False)):
        return None
    return [stop - start for start, stop in itertools.pairwise(stops)]
