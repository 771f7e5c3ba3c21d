"""Types of the compiled layers (csrc/_layers.pyx)."""

from typing import Any, final

import numpy as np
from numpy.typing import NDArray

CPU_LEVELS: tuple[str, ...]

def use_level(level: int) -> None: ...
def padded(values: Any) -> NDArray[np.float32]: ...
@final
class Dense:
    def __new__(cls, rows: int, outputs: int, rectified: bool) -> Dense: ...
    def __call__(
        self, states: Any, weights: NDArray[np.float32], bias: NDArray[np.float32]
    ) -> NDArray[np.float32]: ...
