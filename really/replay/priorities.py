"""Priorities of rows in a sum tree (prioritized replay, Schaul et al. 2016): drawing rows and weighing them."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, Self, SupportsFloat, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from really._utils.checks import checked_integer, checked_number
from really._utils.forks import LockedGroup, Order
from really._utils.memory_limits import refuse_if_too_big
from really.errors import EmptyBufferError, InvalidTypeError, InvalidValueError, NotEnoughMemoryError
from really.replay import arguments
from really.replay._sum_tree import SumTree

NO_END = 1 << 62
"""Number of a row that will never come."""
MOST_ADDED = NO_END // 2 - 1
QUICK = 1 << 20
"""A batch of at most so many rows is drawn without a check of the memory that is left."""
LARGEST = 2.0**960
"""Limit of (priority + eps) ** alpha: the sum over the largest buffer is still finite."""

_trees: LockedGroup[SumTree] = LockedGroup(Order.SUM_TREES)


class Priorities:
    """Priorities of the newest `capacity` rows, in a sum tree; any number of threads may add, sample and update.

    A row is known by its number: how many rows its buffer had taken before it. It is in slot number % capacity; a
    later row takes its place, so an update that comes too late is recognised.

    Row i is drawn with probability P(i) = (p_i + eps)^alpha / sum_k (p_k + eps)^alpha (equation 1). New rows get the
    largest priority that was ever given, at first 1. A priority of 0 with eps = 0 is never drawn, unless all are 0;
    then all rows are equally likely, as in Reverb. Each call is atomic for other threads. A forked process continues
    with a copy of its own, generator included.

    Args:
        capacity: how many rows are kept.
        alpha: exponent of priorities: 0 draws uniformly, 1 in proportion.
        eps: added to every priority, so that a row of error 0 is drawn again.
        seed: seeds the draws; a generator is not used itself, a child of its seed is.

    Raises:
        InvalidValueError, InvalidTypeError: an argument cannot be used.
        NotEnoughMemoryError: the system has no address space for so many.
    """

    def __init__(
        self,
        capacity: SupportsIndex,
        *,
        alpha: SupportsFloat = 0.6,
        eps: SupportsFloat = 1e-6,
        seed: arguments.Seed = None,
    ) -> None:
        self._capacity = checked_integer("capacity", capacity, 1, arguments.MOST_ROWS)
        self._alpha, self._eps = (checked_number(*given, 0, math.inf) for given in (("alpha", alpha), ("eps", eps)))
        self._bit_generator = arguments.bit_generator(seed)
        try:
            self._tree = SumTree(self._capacity, self._alpha, self._eps, self._bit_generator)
        except MemoryError as error:
            raise NotEnoughMemoryError(str(error)) from error
        _trees.add(self._tree)

    @property
    def capacity(self) -> int:
        """How many rows are kept."""
        return self._capacity

    @property
    def alpha(self) -> float:
        """The exponent of priorities."""
        return self._alpha

    @property
    def eps(self) -> float:
        """The number added to every priority."""
        return self._eps

    @property
    def oldest(self) -> int:
        """Number of the oldest row that is held."""
        return self._tree.oldest

    @property
    def newest(self) -> int:
        """Number of the next row to be added."""
        return self._tree.newest

    @property
    def are_all_zero(self) -> bool:
        """Whether no row has a priority above 0, so that `sample` draws any."""
        return self._tree.total == 0

    @property
    def nbytes(self) -> int:
        """Bytes that the tree takes when `capacity` rows are held."""
        return self._tree.nbytes

    def __len__(self) -> int:
        return len(self._tree)

    def __repr__(self) -> str:
        return f"Priorities({len(self)} of {self._capacity} rows, alpha={self._alpha}, eps={self._eps})"

    def add(self, first_number: SupportsIndex, num_rows: SupportsIndex) -> None:
        """Adds the rows from `first_number` on, with the largest priority so far; the oldest drop out.

        Threads may add rows in any order. Rows that are skipped are not drawn until they are added.

        Raises:
            InvalidValueError, InvalidTypeError: an argument is no integer >= 0.
        """
        first = checked_integer("first_number", first_number, 0, MOST_ADDED)
        num = checked_integer("num_rows", num_rows, 0, MOST_ADDED)
        if num > 0:
            self._tree.add(first, num)

    def sample(
        self, n: Any, beta: SupportsFloat = 0.4, *, oldest: int = 0, newest: int | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Draws rows in proportion to (priority + eps)^alpha: one from each of n equal parts of the sum.

        Row i comes n P(i) times on average, and may come twice in a batch (appendix B.2.1). A batch is in the order of
        the rows' slots: shuffle it if a row's place in the batch matters.

        The weights are w_i = (N P(i))^-beta / max_j w_j. The maximum is over all rows that can be drawn, as in cpprb
        and OpenAI's baselines. Divide them by their own maximum for weights that are normalised by batch.

        Args:
            n: how many rows, or (k, n) for k batches.
            beta: importance-sampling exponent, 0 to 1: 0 corrects no bias (all weights are 1), 1 corrects all.
            oldest: rows before this number are not drawn, and drop out.
            newest: rows from this number on are not drawn this time.

        Returns:
            Row numbers int64 and weights float32, both [n] or [k, n].

        Raises:
            EmptyBufferError: no row can be drawn.
            InvalidValueError, InvalidTypeError: an argument cannot be used.
        """
        num, num_batches = (n, 0) if type(n) is int and 0 < n <= QUICK else _checked_size(n)
        exponent = beta if type(beta) is float and 0.0 <= beta <= 1.0 else checked_number("beta", beta, 0, 1)
        drawn = self._tree.sample(num, num_batches, exponent, oldest, NO_END if newest is None else newest)
        if drawn is None:
            raise EmptyBufferError(
                f"sample: expected rows from {oldest} to before {self.newest if newest is None else newest}, "
                f"held are those from {self.oldest} to before {self.newest}"
            )
        return drawn

    def update(
        self,
        row_numbers: ArrayLike,
        priorities: ArrayLike,
        *,
        oldest: int = 0,
        newest: int | None = None,
        may_be_drawn: Callable[[NDArray[np.int64]], NDArray[np.bool_]] | None = None,
    ) -> int:
        """Sets priorities, such as absolute TD errors; the last one counts for a row that comes twice. All or nothing.

        Args:
            row_numbers: as `sample` gave them, [n] or [k, n] integers.
            priorities: of the same shape, finite and >= 0.
            oldest: rows before this number have dropped out of the buffer; their priorities are ignored, as are those
                of rows that this object has dropped.
            newest: rows from this number on have not been put yet.
            may_be_drawn: which of the rows keep their priorities; those of others are ignored, too.

        Returns:
            How many priorities are set.

        Raises:
            InvalidValueError: shapes differ, a priority is negative, NaN or infinite, a row has not been put yet.
            InvalidTypeError: row numbers are no integers, priorities no real numbers.
        """
        numbers = _checked_numbers(row_numbers)
        given = _checked_priorities(priorities, numbers.shape)
        if may_be_drawn is not None:
            end = min(self.newest, NO_END if newest is None else newest)
            kept = may_be_drawn(numbers) | (numbers < 0) | (numbers >= end)
            numbers, given = numbers[kept], given[kept]
        num_set = self._tree.update(numbers, given, oldest, NO_END if newest is None else newest)
        if num_set < 0:
            self._refuse(numbers, given, ~num_set, newest)
        return num_set

    def set_drawable(self, numbers: NDArray[np.int64], drawable: bool) -> None:
        """Makes these rows drawable, with the largest priority so far unless they have one, or never drawn."""
        self._tree.set_drawable(np.ascontiguousarray(numbers), drawable)

    def clear(self) -> None:
        """Drops all rows and the largest priority so far. Numbers continue, and the generator stays."""
        self._tree.clear()

    def state_dict(self) -> dict[str, Any]:
        """The whole state at one moment, values bit for bit: numbers, strings and arrays.

        `values` are (priority + eps)^alpha [n] float64, oldest row first; the last one is of row `newest` - 1.
        """
        newest, values, highest, generator = self._tree.state()
        settings = {"alpha": self._alpha, "eps": self._eps}
        return {**settings, "newest": newest, "values": values, "highest": highest, "generator": generator}

    def generator_state(self) -> dict[str, Any]:
        """The state of the generator."""
        return self._tree.generator_state()

    def set_generator_state(self, state: Mapping[str, Any]) -> None:
        """Sets the state of the generator."""
        self._tree.set_generator_state(dict(state))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from the state that a `state_dict` gave; of more rows than `capacity`, the newest stay.

        Raises:
            InvalidValueError: it is no such state, or one of another alpha or eps.
        """
        newest, values, highest = self._checked_state(state)
        try:
            self._tree.set_generator_state(dict(state["generator"]))
        except (TypeError, ValueError, KeyError) as error:
            raise InvalidValueError(f"state['generator']: {error!r}, got {state['generator']!r}") from error
        self._tree.load(newest, values[-self._capacity :], highest)

    @classmethod
    def restore(cls, capacity: int, alpha: float, eps: float, state: Mapping[str, Any]) -> Self:
        """The priorities that `__reduce__` took apart; pickles name this method."""
        priorities = cls(capacity, alpha=alpha, eps=eps)
        priorities.load_state_dict(state)
        return priorities

    def __reduce__(self) -> tuple[Any, ...]:
        """Options and state: values bit for bit, and the generator."""
        return type(self).restore, (self._capacity, self._alpha, self._eps, self.state_dict())

    def _checked_state(self, state: Mapping[str, Any]) -> tuple[int, NDArray[np.float64], float]:
        expected = "state: expected what a Priorities' state_dict gave"
        try:
            values = np.ascontiguousarray(state["values"], dtype=np.float64)
            newest, highest = operator.index(state["newest"]), float(state["highest"])
            settings, _ = (state["alpha"], state["eps"]), state["generator"]
        except (TypeError, ValueError, KeyError) as error:
            raise InvalidValueError(f"{expected}, got one of which {error!r}") from error
        if settings != (self._alpha, self._eps):
            raise InvalidValueError(f"state: expected (alpha, eps) {(self._alpha, self._eps)}, got {settings}")
        # A NaN is both minimum and maximum of its array, and lies in no range.
        all_sound = len(values) == 0 or (values.min() >= 0.0 and values.max() <= LARGEST)
        sound = values.ndim == 1 and all_sound and 0.0 <= highest <= LARGEST
        if not sound or not len(values) <= newest < NO_END:
            raise InvalidValueError(f"{expected}, got values of shape {list(values.shape)} before row {newest}")
        return newest, values, highest

    def _refuse(self, numbers: NDArray[Any], given: NDArray[Any], at: int, newest: int | None) -> NoReturn:
        number, priority = int(numbers.flat[at]), float(given.flat[at])
        if not 0.0 <= priority < math.inf:
            raise InvalidValueError(f"priorities: expected finite numbers >= 0, got {priority} at {at}")
        end = min(self.newest, NO_END if newest is None else newest)
        if not 0 <= number < end:
            raise InvalidValueError(
                f"row_numbers: expected rows that have been put, from 0 to {end - 1}, got {number} at {at}"
            )
        raise InvalidValueError(f"priorities: expected (priority + eps)**alpha up to 2**960, got {priority} at {at}")


def _checked_size(n: Any) -> tuple[int, int]:
    num, num_batches = arguments.checked_size(n)
    refuse_if_too_big(f"a batch of {n} rows", num * max(num_batches, 1) * (8 + 4 + 8))
    return num, num_batches


def _checked_numbers(row_numbers: ArrayLike) -> NDArray[np.int64]:
    numbers = _array("row_numbers", row_numbers)
    if numbers.size and numbers.dtype.kind not in "iu":
        raise InvalidTypeError(f"row_numbers: expected integers [n] or [k, n], got {numbers.dtype}")
    if numbers.dtype == np.uint64:
        numbers = np.minimum(numbers, NO_END)
    return np.ascontiguousarray(numbers, dtype=np.int64)


def _checked_priorities(priorities: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64]:
    given = _array("priorities", priorities)
    if given.size and given.dtype.kind not in "fiu":
        raise InvalidTypeError(f"priorities: expected real numbers, got {given.dtype}")
    if given.shape != shape:
        raise InvalidValueError(f"priorities: expected shape {list(shape)} as row_numbers has, got {list(given.shape)}")
    return np.ascontiguousarray(given, dtype=np.float64)


def _array(name: str, got: ArrayLike) -> NDArray[Any]:
    try:
        return np.asarray(got)
    except (TypeError, ValueError) as error:
        raise InvalidValueError(f"{name}: expected an array [n] or [k, n] of numbers: {error}") from error
