"""Prioritized replay in a buffer: draws its rows by priority, and takes new priorities for them.

The ring numbers its rows, and so do the priorities. Puts know nothing of them: whoever draws or updates first lets the
priorities catch up with the rows that have been put since, each with the largest priority so far.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from really._utils.checks import check_number
from really._utils.memory_limits import refuse_if_too_big
from really.errors import EmptyBufferError, InvalidValueError
from really.replay._ring import Ring
from really.replay.priorities import Priorities

BETA, EPS = 0.4, 1e-6
INDEX, WEIGHT = "index", "weight"
Beta = float | Callable[[int], float]
"""How much the weights make good, or a function that tells it of a batch's number, from 0 on."""
TRIES = 100
"""How often a batch is drawn again because other threads drop one of its rows meanwhile."""


class PrioritizedRows:
    """The priorities of a buffer's rows.

    Args:
        capacity: of the buffer.
        alpha: exponent of priorities.
        eps: added to every priority; None: 1e-6.
        bit_generator: the buffer's; rows are drawn from a child of its seed.
        overcommit: True to reserve even what does not fit in the memory that is left.
    """

    def __init__(
        self,
        capacity: int,
        alpha: float,
        eps: float | None,
        bit_generator: np.random.BitGenerator,
        overcommit: bool = False,
    ) -> None:
        seed = np.random.Generator(bit_generator)
        self.priorities = Priorities(capacity, alpha=alpha, eps=EPS if eps is None else eps, seed=seed)
        if not overcommit:
            needed = self.priorities.nbytes
            refuse_if_too_big(f"priorities of {capacity:,} rows", needed, advice=" (overcommit=True goes on)")
        self._catching_up = threading.Lock()
        _live.add(self)

    def sample(self, ring: Ring, n: Any, beta: float | None) -> dict[str, NDArray[Any]]:
        """A batch with `index`, the rows' numbers, int64, and `weight`, float32 (`Priorities.sample`)."""
        for _ in range(TRIES):
            oldest, newest = self._catch_up(ring)
            exponent = BETA if beta is None else beta
            numbers, weights = self.priorities.sample(n, exponent, oldest=oldest, newest=newest)
            num, num_batches = numbers.shape[-1], len(numbers) if numbers.ndim == 2 else 0
            batch = ring.take(numbers.reshape(-1), num, num_batches, by_number=True, steps=True)
            if batch is not None:
                return batch | {INDEX: numbers, WEIGHT: weights}
        raise EmptyBufferError(
            "sample: expected rows that stay while a batch is copied, but puts dropped some each time"
        )

    def update(self, ring: Ring, index: ArrayLike, priorities: ArrayLike) -> int:
        """Sets priorities of rows; how many are still held."""
        oldest, newest = self._catch_up(ring)
        return self.priorities.update(index, priorities, oldest=oldest, newest=newest)

    def state(self, ring: Ring, first: int, end: int) -> dict[str, Any]:
        """`Priorities.state_dict` of the rows from `first` to before `end` alone."""
        self._catch_up(ring)
        state = self.priorities.state_dict()
        start = first - (state["newest"] - len(state["values"]))
        return state | {"newest": end, "values": state["values"][start : start + end - first]}

    def start_anew(self) -> None:
        """In a forked process: the thread that was catching up is another process's; the tree is as before or after."""
        self._catching_up = threading.Lock()

    def _catch_up(self, ring: Ring) -> tuple[int, int]:
        """The numbers of the oldest row held and of the row to come; all between them have a priority."""
        oldest, newest = ring.held_rows()
        if self.priorities.newest < newest:
            with self._catching_up:
                first = max(oldest, self.priorities.newest)
                if first < newest:
                    self.priorities.add(first, newest - first)
        return oldest, newest


def _after_fork() -> None:
    for rows in _live:
        rows.start_anew()


_live: weakref.WeakSet[PrioritizedRows] = weakref.WeakSet()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def with_generator_of(rows: PrioritizedRows | None, state: dict[str, Any]) -> dict[str, Any]:
    """The state of a buffer's generator, and of the one that draws by priority where there is one."""
    return state if rows is None else state | {"priorities": rows.priorities.generator_state()}


def set_generator_of(rows: PrioritizedRows | None, state: Mapping[str, Any]) -> None:
    """Sets the second of the two, unless the state is that of a uniform buffer."""
    if rows is not None and "priorities" in state:
        rows.priorities.set_generator_state(state["priorities"])


def refuse_beta(beta: Any) -> NoReturn:
    """Says that a buffer that draws uniformly has no weights."""
    raise InvalidValueError(f"beta: expected none for a buffer that draws uniformly (no alpha), got {beta!r}")


def checked_beta(beta: Beta | None, is_prioritized: bool, replace: bool) -> Callable[[int], float | None]:
    """What tells beta of the number of a batch; refuses options that the buffer's way of drawing would not use."""
    if is_prioritized and replace is not True:
        raise InvalidValueError("replace: expected True with alpha, which draws by priority, got False")
    if callable(beta) and is_prioritized:
        return beta
    if beta is None:
        return lambda number: None
    if not is_prioritized:
        refuse_beta(beta)
    exponent = check_number("beta", beta, 0, 1)
    return lambda number: exponent


def check_keys(keys: Iterable[str]) -> None:
    """Refuses columns whose names a prioritized batch needs."""
    taken = [key for key in keys if key in (INDEX, WEIGHT)]
    if taken:
        raise InvalidValueError(f"keys: expected others than {INDEX!r} and {WEIGHT!r} with alpha, got {taken}")
