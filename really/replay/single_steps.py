"""The default sample unit: each row of a batch is one transition, as it was put."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from really.data.schema import Spec
from really.replay._ring import Ring
from really.replay.compact import CompactFrames, check_names, checked_compact
from really.replay.units import Batch, SampleUnit


class Transitions(SampleUnit):
    """Each row of a batch is one transition.

    Args:
        compact: True gives columns that share frames as frames [n, 1 + stack, ...] and indices
            (`really.replay.stacked` makes them whole), each frame of a row once. A row that needs more frames makes its
            batch longer; a number, how many frames there is room for, avoids that.
    """

    def __init__(self, compact: bool | int = False) -> None:
        self.compact = checked_compact(compact)
        self._frames: CompactFrames | None = None
        self.in_ring = not self.compact

    def options(self) -> dict[str, Any]:
        """`compact`, if it is not False."""
        return {"compact": self.compact} if self.compact else {}

    def check_spec(self, spec: Spec) -> None:
        """Raises InvalidValueError if a column is named as one that a compact batch may have."""
        if self.compact:
            check_names(spec)

    def prepare(self, ring: Ring) -> None:
        """Finds the columns that share frames."""
        self._frames = CompactFrames(ring, 1, self.compact, has_steps=False) if self.compact else None

    def batch_spec(self, spec: Spec) -> Spec:
        """The columns; with `compact`, frames and indices in place of those that share frames."""
        return spec if self._frames is None else self._frames.spec(spec)

    def take(self, ring: Ring, numbers: NDArray[np.int64]) -> Batch | None:
        """The batch of these row numbers, [n] or [k, n]; None if a row is no longer held."""
        if self._frames is None:
            return super().take(ring, numbers)
        batch = self._frames.take(np.ascontiguousarray(numbers).reshape(-1))
        return None if batch is None else self._frames.reshaped(batch, numbers.shape, ())
