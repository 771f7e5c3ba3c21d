"""A pool of memory for large arrays: the system needs more time for new pages than a copy needs to fill them."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

# Bytes. Smaller arrays come from malloc, which reuses its own memory.
SMALLEST = 1 << 20
# A free block that this many requests did not use is freed. A call makes a request per column, so this is a few calls.
PATIENCE = 64
# References to a block that nobody but the pool holds: from its entry, the loop, and the argument of getrefcount.
UNUSED = 3


class ArrayPool:
    """Makes arrays like `np.empty`. It reuses the memory of an array once nothing refers to it, not even a view."""

    def __init__(self) -> None:
        # Each block with the number of the last request that used it, oldest first.
        self._blocks: list[tuple[int, NDArray[np.uint8]]] = []
        self._requests = 0

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array of this shape and dtype with arbitrary contents."""
        kind = np.dtype(dtype)
        nbytes = math.prod(shape) * kind.itemsize
        if nbytes < SMALLEST:
            return np.empty(shape, kind)
        return self._block(nbytes)[:nbytes].view(kind).reshape(shape)

    def _block(self, nbytes: int) -> NDArray[np.uint8]:
        """A free block of at least `nbytes` and at most twice as many; a new block if there is none."""
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
