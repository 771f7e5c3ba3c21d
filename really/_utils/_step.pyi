"""Types of the compiled parts of a step (csrc/_step.pyx)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

def is_finite(values: Any) -> bool: ...
def convert(array: NDArray[Any], values: Any) -> None: ...
def fill(views: list[NDArray[Any]], leaves: Sequence[NDArray[Any]]) -> None: ...
@final
class Columns:
    def __new__(cls, views: list[NDArray[Any]]) -> Columns: ...
    def write(self, step: int, values: tuple[NDArray[Any], ...]) -> None: ...

@final
class DiscreteSampler:
    def __new__(
        cls,
        name: str,
        start: int,
        noise: NDArray[np.float64],
        scale: float,
        explores: bool,
        num_actions: int,
        otherwise: Callable[[Mapping[str, NDArray[Any]], int], NDArray[Any]],
    ) -> DiscreteSampler: ...
    def __call__(self, outputs: Mapping[str, NDArray[Any]], step: int) -> NDArray[Any]: ...
    def explored(self, step: int) -> NDArray[np.int64] | None: ...

@final
class PlainLoop:
    steps: list[Callable[[Any], Any]]
    elapsed: NDArray[np.int64]
    at: int
    def __new__(
        cls,
        num_envs: int,
        limit: int,
        takes_ints: bool,
        received: Any,
        outcome: tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]],
        number: Callable[[Any], float],
        flag: Callable[[str, Any], bool],
    ) -> PlainLoop: ...
    def run(self, actions: NDArray[Any], active: NDArray[np.intp] | None) -> list[int]: ...
    def write(self, i: int, observation: Any) -> None: ...

@final
class Stepper:
    forward: Callable[[Sequence[NDArray[Any]]], Mapping[str, NDArray[Any]]]
    sample: Callable[[Mapping[str, NDArray[Any]], int], NDArray[Any]]
    step: int
    drawn_at: int
    def __new__(
        cls,
        envs: Any,
        required: tuple[str, ...],
        check: Callable[[Mapping[str, NDArray[Any]]], None],
        to_environment: Callable[[NDArray[Any]], NDArray[Any]],
        masked: Callable[..., Mapping[str, NDArray[Any]]] | None,
        estimate: Callable[..., None] | None,
        is_recurrent: bool,
    ) -> Stepper: ...
    def advance(self, rollout: Any, start: int, stop: int, active: NDArray[np.intp]) -> None: ...
