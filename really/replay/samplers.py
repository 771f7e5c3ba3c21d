"""Samplers: which rows a batch has. Uniform draws happen inside the ring, prioritized ones in a sum tree.

The ring numbers its rows in the order of puts, and a sampler picks numbers. Puts know nothing of samplers: the
prioritized one gives new rows the largest priority so far when it next draws or updates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from really._utils._locks import Lock
from really._utils.checks import checked_bool, checked_number
from really._utils.forks import ForkGroup, Order
from really._utils.memory_limits import refuse_if_too_big
from really._utils.reprs import one_line
from really.data.schema import ColumnSpec, Spec
from really.errors import EmptyBufferError, InvalidValueError
from really.replay import arguments
from really.replay._ring import Ring
from really.replay.priorities import QUICK, Priorities
from really.replay.trajectories import Trajectories

BETA, EPS = 0.4, 1e-6
TRIES = 1000
INDEX, WEIGHT = "index", "weight"
VALUE = "really.priority"
"""The column of the values (priority + eps)^alpha in files."""
Beta = float | Callable[[int], float]
"""Importance-sampling exponent beta, or a function from the batch number (0, 1, ...) to it."""
Shape = tuple[int] | tuple[int, int]
"""[n] for a batch of n rows, [k, n] for k batches."""
MayBeDrawn = Callable[[NDArray[np.int64]], NDArray[np.bool_]]
"""Which of these rows may be drawn, of the shape of their numbers."""
Drawn = tuple[NDArray[np.int64], dict[str, Any]]
"""Row numbers of a shape, and the columns of that shape that the sampler adds."""


class Sampler:
    """Picks the rows of a batch by their numbers.

    A row's number is how many rows the buffer had taken before it. A subclass is made with its own options, and
    registered under a name in `really.replay.SAMPLERS`; `ReplayBuffer(sampler=)` uses it. It overrides `draw`.
    """

    in_ring = False
    """Whether `Ring.sample` draws the rows. False sends each batch through `draw`."""
    takes_beta = False
    """Whether draws have importance weights, whose exponent is beta; `check` then need not look at beta."""
    nbytes = 0
    """Memory that the sampler takes for a full buffer, in bytes."""

    def options(self) -> dict[str, Any]:
        """The arguments that make this sampler again: numbers, strings and None."""
        return {}

    def __repr__(self) -> str:
        return one_line(self, self.options())

    def start(self, capacity: int, bit_generator: np.random.BitGenerator, overcommit: bool) -> None:
        """Gets ready for a buffer; called once. A random sampler spawns its own generator from `bit_generator`."""

    def restrict(self, starts: Trajectories | None) -> None:
        """Says which rows a draw may choose; None for all. `draw_among` has it as an argument, too."""

    def check_spec(self, spec: Spec) -> None:
        """Raises InvalidValueError if a column has a name that the sampler adds to batches, or if one is missing."""

    def prepare(self, ring: Ring) -> None:
        """Sets up a ring before its first batch; called once for each ring."""

    def batch_spec(self, spec: Spec) -> Spec:
        """The schema of a batch, with the columns that the sampler adds."""
        return spec

    def check(self, replace: bool, beta: Any) -> None:
        """Raises InvalidValueError for an argument of `sample` that this sampler does not use."""
        if not checked_bool("replace", replace):
            raise InvalidValueError(f"replace: expected True with {type(self).__name__}, got {replace!r}")
        if beta is not None:
            refuse_beta(beta)

    def of_batch(self) -> Sampler:
        """What draws for one call of `sample`, again if rows drop out meanwhile; by default the sampler itself."""
        return self

    def draw(self, ring: Ring, shape: Shape, beta: float | None = None) -> Drawn:
        """Row numbers [n] or [k, n] int64, and the columns of that shape that the batch gets besides.

        Raises EmptyBufferError if no row can be drawn.
        """
        raise NotImplementedError

    def draw_among(
        self, ring: Ring, shape: Shape, beta: float | None, starts: Trajectories, replace: bool = True
    ) -> Drawn:
        """`draw` of rows that are starts alone: draws again in place of others, which is exact for independent rows.

        Raises EmptyBufferError if no row is a start, or none is drawn; InvalidValueError for `replace=False`.
        """
        Sampler.check(self, replace, None)
        starts.refuse_none()
        drawn = self._drawn_where(starts.are_starts, ring, shape, beta)
        if drawn is None:
            where = "" if starts.starts_at is None else f", whose {starts.starts_at!r} is not 0"
            raise EmptyBufferError(
                f"sample: expected rows that a sequence can start from{where}, got others too in {TRIES:,} draws: few "
                f"of the rows that the sampler prefers are such rows"
            )
        return drawn

    def draw_left(self, ring: Ring, shape: Shape, beta: float | None = None) -> Drawn:
        """`draw` of rows that are not removed: draws again in place of others, which is exact for independent rows.

        Raises EmptyBufferError if no row is left, or none is drawn.
        """
        if not ring.num_removed:
            return self.draw(ring, shape, beta)
        drawn = self._drawn_where(partial(are_left, ring), ring, shape, beta)
        if drawn is None:
            raise EmptyBufferError(f"sample: expected rows that are not removed, {TRIES} draws gave others too")
        return drawn

    def _drawn_where(self, may_be_drawn: MayBeDrawn, ring: Ring, shape: Shape, beta: Any) -> Drawn | None:
        """`draw` of rows that may be drawn; None if too many tries give others."""
        return drawn_where(may_be_drawn, partial(self.draw, ring, beta=beta), shape)

    def state_dict(self) -> dict[str, Any]:
        """What `ReplayBuffer.state_dict` holds of the sampler's own generators."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes the part of a buffer's `state_dict` that is the sampler's."""

    def priorities_of(self, ring: Ring, first: int, end: int) -> dict[str, Any] | None:
        """What files keep of the rows from number `first` to before `end`; None if the sampler keeps nothing."""
        return None

    def load_priorities(self, state: Mapping[str, Any]) -> None:
        """Takes what `priorities_of` gave."""


class UniformSampler(Sampler):
    """Every row with the same probability, with the buffer's own generator."""

    in_ring = True

    def check(self, replace: bool, beta: Any) -> None:
        """Refuses beta, which only a sampler with importance weights uses."""
        checked_bool("replace", replace)
        if beta is not None:
            refuse_beta(beta)

    def draw(self, ring: Ring, shape: Shape, beta: float | None = None) -> Drawn:
        """Row numbers, uniform over all rows held."""
        return drawn_by_ring(ring, shape), {}

    def draw_among(
        self, ring: Ring, shape: Shape, beta: float | None, starts: Trajectories, replace: bool = True
    ) -> Drawn:
        """Numbers of starts, each equally likely; a subclass draws them as it draws rows."""
        if type(self) is not UniformSampler:
            return super().draw_among(ring, shape, beta, starts, replace)
        return starts.draw(shape, distinct=not replace), {}


class PrioritizedSampler(Sampler):
    """Rows in proportion to (priority + eps)^alpha (Schaul et al. 2016); batches have `index` and `weight` besides.

    Args:
        alpha: exponent of priorities.
        eps: added to every priority.
    """

    takes_beta = True

    def __init__(self, alpha: float = 0.6, eps: float = EPS) -> None:
        self.alpha, self.eps = alpha, eps
        self.starts: Trajectories | None = None
        self._num_changes = 0  # of the ring when the priorities of removed rows were set to 0
        self._caught_up = -1  # number of the row to come when all rows before it had priorities

    def options(self) -> dict[str, Any]:
        """`alpha` and `eps`."""
        return {"alpha": self.alpha, "eps": self.eps}

    def start(self, capacity: int, bit_generator: np.random.BitGenerator, overcommit: bool) -> None:
        """Makes the priorities; raises NotEnoughMemoryError if memory has no room for them, unless `overcommit`."""
        seed = np.random.Generator(bit_generator)
        self.priorities = Priorities(capacity, alpha=self.alpha, eps=self.eps, seed=seed)
        self.nbytes = self.priorities.nbytes
        if not overcommit:
            what = f"priorities of {capacity:,} rows"
            refuse_if_too_big(what, self.nbytes, advice=" (overcommit=True goes on)")
        self._catching_up = Lock()
        _live.add(self)

    def restrict(self, starts: Trajectories | None) -> None:
        """Keeps the priorities of rows that are no starts at 0."""
        self.starts, self._caught_up = starts, -1

    def check_spec(self, spec: Iterable[str]) -> None:
        """Refuses columns named `index` or `weight`."""
        taken = [key for key in spec if key in (INDEX, WEIGHT)]
        if taken:
            raise InvalidValueError(f"keys: expected others than {INDEX!r} and {WEIGHT!r} with alpha, got {taken}")

    def batch_spec(self, spec: Spec) -> Spec:
        """The columns, `index` int64 and `weight` float32."""
        return spec | {INDEX: ColumnSpec(np.dtype(np.int64)), WEIGHT: ColumnSpec(np.dtype(np.float32))}

    def check(self, replace: bool, beta: Any) -> None:
        """Refuses draws without replacement."""
        if not checked_bool("replace", replace):
            raise InvalidValueError("replace: expected True with alpha, which draws by priority, got False")

    def draw(self, ring: Ring, shape: Shape, beta: float | None = None) -> Drawn:
        """Row numbers and their importance weights (`Priorities.sample`)."""
        oldest, newest = ring.held_rows()
        if newest != self._caught_up or ring.num_changes != self._num_changes or self.starts is not None:
            oldest, newest = self._catch_up(ring)
        if self.starts is not None:
            self.starts.refuse_none()
        exponent = BETA if beta is None else beta
        n = shape[0] if len(shape) == 1 else shape
        numbers, weights = self.priorities.sample(n, exponent, oldest=oldest, newest=newest)
        if self.priorities.are_all_zero:  # then the tree draws any row
            may_be_drawn = self._drawable(ring)
            if may_be_drawn is not None and not may_be_drawn(numbers).all():
                numbers = drawn_by_ring(ring, shape) if self.starts is None else self.starts.draw(shape)
        return numbers, {INDEX: numbers, WEIGHT: weights}

    def draw_among(
        self, ring: Ring, shape: Shape, beta: float | None, starts: Trajectories, replace: bool = True
    ) -> Drawn:
        """`draw`, since rows that are no starts have the priority 0."""
        return self.draw(ring, shape, beta)

    def update(self, ring: Ring, index: ArrayLike, priorities: ArrayLike) -> int:
        """Sets the priorities of rows; returns how many of the rows are still held."""
        oldest, newest = self._catch_up(ring)
        may_be_drawn = self._drawable(ring)
        return self.priorities.update(index, priorities, oldest=oldest, newest=newest, may_be_drawn=may_be_drawn)

    def priorities_of(self, ring: Ring, first: int, end: int) -> dict[str, Any]:
        """`Priorities.state_dict`, reduced to the rows from number `first` to before `end`."""
        self._catch_up(ring)
        state = self.priorities.state_dict()
        start = first - (state["newest"] - len(state["values"]))
        return state | {"newest": end, "values": state["values"][start : start + end - first]}

    def state_dict(self) -> dict[str, Any]:
        """`priorities`: the state of the generator that draws by priority."""
        return {"priorities": self.priorities.generator_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Sets that generator, unless the state is of a buffer that draws uniformly."""
        if "priorities" in state:
            self.priorities.set_generator_state(state["priorities"])

    def load_priorities(self, state: Mapping[str, Any]) -> None:
        """Sets all priorities, and the generator that draws by them."""
        self._caught_up = -1
        self.priorities.load_state_dict(state)

    def reset_after_fork(self) -> None:
        """Replaces the lock: the thread that held it runs in the parent process. The tree is as before or after."""
        self._catching_up = Lock()

    def _drawable(self, ring: Ring) -> MayBeDrawn | None:
        """Which rows may be drawn; None for all."""
        if self.starts is not None:
            return self.starts.are_starts
        return partial(are_left, ring) if ring.num_removed else None

    def _catch_up(self, ring: Ring) -> tuple[int, int]:
        """Gives each new row its priority; returns the numbers of the oldest row held and of the row to come."""
        oldest, newest = ring.held_rows()
        changed = ring.num_changes != self._num_changes
        if self.priorities.newest < newest or self.starts is not None or changed:
            with self._catching_up:
                oldest, newest = ring.held_rows()  # puts went on while this thread waited for the lock
                first = max(oldest, self.priorities.newest)
                if first < newest:
                    self.priorities.add(first, newest - first)
                if changed:
                    self._num_changes = ring.num_changes
                    held = np.arange(oldest, newest)
                    self.priorities.set_drawable(held[ring.are_removed(held)], False)
                if self.starts is not None:
                    starts, others = self.starts.changes(first, newest)
                    self.priorities.set_drawable(others, False)
                    self.priorities.set_drawable(starts, True)
                self._caught_up = newest
        return oldest, newest


_live = ForkGroup(Order.SAMPLERS, in_child=PrioritizedSampler.reset_after_fork)


def drawn_by_ring(ring: Ring, shape: Shape, update: int = -1) -> NDArray[np.int64]:
    """Row numbers of `Ring.sample_ages`; raises EmptyBufferError if no row is held."""
    numbers = ring.sample_ages(*arguments.sizes_of(shape), by_number=True, update=update)
    if numbers is None:
        raise EmptyBufferError("sample: expected a buffer that holds rows, got an empty one; put some first")
    return numbers


def drawn_where(may_be_drawn: MayBeDrawn, draw: Callable[[Shape], Drawn], shape: Shape) -> Drawn | None:
    """What `draw` gives, drawn again in place of rows that may not be drawn; None if too many tries give others."""
    numbers, added = draw(shape)
    for _ in range(TRIES):
        others = ~may_be_drawn(numbers)
        if not others.any():
            return numbers, added
        numbers[others], again = draw((int(others.sum()),))
        for key, values in again.items():
            added[key][others] = values
    return None


def are_left(ring: Ring, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each row is not removed, of the shape of `numbers`."""
    return ~ring.are_removed(numbers.reshape(-1)).reshape(numbers.shape)


def refuse_beta(beta: Any) -> NoReturn:
    """Raises the error for importance weights that the sampler does not have."""
    raise InvalidValueError(f"beta: expected none for a buffer that draws uniformly (no alpha), got {beta!r}")


def checked_beta(beta: Beta | None, sampler: Sampler, replace: bool) -> Callable[[int], float | None]:
    """Beta as a function of the batch number; raises InvalidValueError for options that the sampler does not use."""
    sampler.check(replace, beta)
    if callable(beta):
        return beta
    if beta is None:
        return lambda number: None
    exponent = checked_number("beta", beta, 0, 1)
    return lambda number: exponent


def checked_shape(n: Any) -> Shape:
    """[n] or [k, n] of a batch of `n` rows or of (k, n); raises InvalidValueError or InvalidTypeError."""
    if type(n) is int and 0 < n <= QUICK:
        return (n,)
    if type(n) is tuple and len(n) == 2:
        num_batches, num = n
        if type(num) is int and type(num_batches) is int and 0 < num <= QUICK and 0 < num_batches <= QUICK:
            return n
    num, num_batches = arguments.checked_size(n)
    return (num_batches, num) if num_batches else (num,)
