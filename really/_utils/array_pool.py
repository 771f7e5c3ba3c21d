"""Large arrays whose memory is used again once nobody holds them: fresh pages cost more than the writing."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

# Below this malloc has warm memory of its own.
SMALLEST = 1 << 20
# A block that so many requests have passed by is given back: a few calls' worth of columns.
PATIENCE = 64
# References to a block that only the pool holds: its entry's, the loop's, and the argument of getrefcount.
UNUSED = 3


class ArrayPool:
    """Gives arrays like `np.empty`; a view of one, or whatever else refers to it, keeps its memory out of the pool."""

    def __init__(self) -> None:
        self._blocks: list[tuple[int, NDArray[np.uint8]]] = []  # with the request that took each last, oldest first
        self._requests = 0

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array of that shape and dtype with arbitrary contents."""
        kind = np.dtype(dtype)
        nbytes = math.prod(shape) * kind.itemsize
        if nbytes < SMALLEST:
            return np.empty(shape, kind)
        return self._block(nbytes)[:nbytes].view(kind).reshape(shape)

    def _block(self, nbytes: int) -> NDArray[np.uint8]:
        """A block that is free and neither too small nor twice as large as need be, else a new one."""
        self._requests += 1
        found, kept = None, []
        for last, block in self._blocks:
            free = sys.getrefcount(block) <= UNUSED
            if free and found is None and nbytes <= block.nbytes <= 2 * nbytes:
                found = block
            elif not free or self._requests - last < PATIENCE:
                kept.append((last, block))
        if found is None:
            found = np.empty(nbytes, np.uint8)
        self._blocks = [*kept, (self._requests, found)]
        return found
