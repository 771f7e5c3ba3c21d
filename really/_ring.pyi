"""Types of the compiled ring (csrc/_ring.pyx)."""

from typing import Any, final

import numpy as np
from numpy.typing import NDArray

@final
class Ring:
    bit_generator: np.random.BitGenerator
    names: list[str]
    dtypes: list[np.dtype[Any]]
    shapes: list[tuple[int, ...]]
    def __new__(
        cls,
        capacity: int,
        names: list[str],
        dtypes: list[np.dtype[Any]],
        shapes: list[tuple[int, ...]],
        bit_generator: np.random.BitGenerator,
    ) -> Ring: ...
    def __len__(self) -> int: ...
    @property
    def stride(self) -> int: ...
    def acquire(self) -> None: ...
    def release(self) -> None: ...
    def clear(self) -> None: ...
    def put(self, data: dict[str, Any]) -> bool: ...
    def sample(
        self, num: int, num_batches: int = 0, distinct: bool = False, out: dict[str, NDArray[Any]] | None = None
    ) -> dict[str, NDArray[Any]] | None: ...
    def sample_ages(
        self, num: int, num_batches: int = 0, distinct: bool = False
    ) -> NDArray[np.int64] | None: ...
    def take(
        self,
        ages: NDArray[np.int64],
        num: int,
        num_batches: int = 0,
        out: dict[str, NDArray[Any]] | None = None,
    ) -> dict[str, NDArray[Any]] | None: ...
