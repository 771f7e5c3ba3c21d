"""The sample unit of recurrent agents: a row becomes the steps of one agent that begin with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from really._utils.checks import checked_integer, checked_number
from really.data.schema import HAS_STATE, ColumnSpec, Spec
from really.errors import InvalidTypeError, InvalidValueError
from really.replay._ring import Ring
from really.replay.arguments import refuse_big_batch
from really.replay.columns import spec_of
from really.replay.compact import CompactFrames, check_names, checked_compact
from really.replay.trajectories import Trajectories, TrajectoryColumns, agent_columns, check_columns
from really.replay.units import IS_FIRST, MASK, NUMBER, Batch, SampleUnit

ADDED: Spec = {
    MASK: ColumnSpec(np.dtype(np.float32)),
    IS_FIRST: ColumnSpec(np.dtype(np.float32)),
    NUMBER: ColumnSpec(np.dtype(np.int64)),
}
"""Columns that a batch of sequences has besides those of the rows."""
LONGEST = 1 << 31
ETA = 0.9
"""R2D2's share of the largest error in the priority of a sequence."""


class Sequences(SampleUnit):
    """Each row of a batch is a window of `burn_in + length` consecutive steps of one agent: [n, burn_in + length, ...].

    Batches have three columns besides. `mask`, float32, is 1 for steps to learn from; it is 0 for padding, and for the
    first `burn_in` steps, which only bring the recurrent state up to date (Kapturowski et al. 2019). It is 1 there too
    from the first step of an episode on, where the recurrent state is the initial one. `is_first`, float32, is 1 for
    the first step of an episode. `number`, int64, are the numbers of the rows; -1 is padding, whose values are 0.

    Windows follow an agent's rows in whatever chunks they came, and stop where an episode ends. Rows stay stored once,
    however many windows they are in. All starts are equally likely: with `pad=False` the rows from which a whole window
    goes on; with `pad=True` those with at least one step to learn from. `starts_at` restricts them.

    Args:
        length: steps to learn from.
        burn_in: steps before them.
        pad: True draws windows that are cut short, too: behind an episode's end they are padded.
        across_episodes: True lets windows go on in the agent's next episode, whose first step is marked.
        agent: columns that tell agents apart; by default the column "agent", if there is one.
        checks_states: False trusts the order of an agent's rows. True ends a window where a row's state is not, bit for
            bit, the next state of the row before it; observations that are normalised anew in each chunk are never.
        starts_at: name of a column with one number a row. A window may begin where it is not 0. Without a column
            "has_recurrent_state", the default lets windows begin anywhere, as None does.
        compact: True gives columns that share frames as frames [n, length + stack, ...] and indices
            (`really.replay.stacked` makes them whole), each frame of a window once. A window that needs more frames
            makes its batch longer; a number, how many frames there is room for, avoids that. One as large as the number
            of steps makes room for one more, so that the axes differ in length.
    """

    in_ring = False

    def __init__(
        self,
        length: SupportsIndex,
        burn_in: SupportsIndex = 0,
        pad: bool = False,
        across_episodes: bool = False,
        agent: str | Sequence[str] | None = None,
        checks_states: bool = True,
        compact: bool | int = False,
        starts_at: str | None = HAS_STATE,
    ) -> None:
        self.length = checked_integer("length", length, 1, LONGEST)
        self.burn_in = checked_integer("burn_in", burn_in, 0, LONGEST)
        for name, value in (("pad", pad), ("across_episodes", across_episodes), ("checks_states", checks_states)):
            if not isinstance(value, bool):
                raise InvalidTypeError(f"{name}: expected True or False, got {value!r}")
        self.pad, self.across_episodes, self.checks_states = pad, across_episodes, checks_states
        self.agent = agent_columns(agent)
        self.compact = checked_compact(compact)
        if not isinstance(starts_at, str | None):
            raise InvalidTypeError(f"starts_at: expected the name of a column, or None, got {starts_at!r}")
        self.starts_at = starts_at
        self.starts: Trajectories | None = None
        self._frames: CompactFrames | None = None

    def options(self) -> dict[str, Any]:
        """The arguments that make this unit again."""
        names = ("length", "burn_in", "pad", "across_episodes", "checks_states", "compact", "starts_at")
        agent = None if self.agent is None else list(self.agent)
        return {name: getattr(self, name) for name in names} | {"agent": agent}

    @property
    def num_steps(self) -> int:
        """Steps of a window."""
        return self.burn_in + self.length

    def check_keys(self, keys: Sequence[str]) -> None:
        """Raises InvalidValueError if a column is missing that tells episodes, windows or agents apart."""
        check_columns("sequences", keys, self.agent)
        if self.starts_at not in (None, HAS_STATE, *keys):
            raise InvalidValueError(
                f"sequences: expected the key starts_at={self.starts_at!r}, which tells where windows may begin, got "
                f"{list(keys)}"
            )

    def check_spec(self, spec: Spec) -> None:
        """Raises InvalidValueError if a column is missing, of another shape, or named as one that batches add."""
        TrajectoryColumns.of(spec, agent=self.agent)
        self.check_keys(list(spec))
        if (name := self._starting_column(spec)) is not None:
            dtype, shape = spec[name]
            if shape != () or dtype.kind not in "biuf":
                raise InvalidValueError(
                    f"sequences: key {name!r}, which tells where windows may begin: expected a number, got {dtype} of "
                    f"{list(shape)}"
                )
        taken = [key for key in spec if key in ADDED]
        if taken:
            raise InvalidValueError(f"sequences: expected no keys {taken}, which batches add, got {list(spec)}")
        if self.compact:
            check_names(spec)

    def prepare(self, ring: Ring) -> None:
        """Makes the index of the ring's trajectories."""
        self._frames = CompactFrames(ring, self.num_steps, self.compact, has_steps=True) if self.compact else None
        spec = spec_of(ring)
        columns = TrajectoryColumns.of(spec, agent=self.agent, checks_states=self.checks_states)
        least, from_first = (self.burn_in + 1, 1) if self.pad else (self.num_steps, self.num_steps)
        self.starts = Trajectories(
            ring,
            columns,
            least=least,
            least_from_first=from_first,
            joins=self.across_episodes,
            starts_at=self._starting_column(spec),
        )
        if self._frames is None and isinstance(ring, Ring) and type(self).sample is Sequences.sample:
            self.window_draws = self.starts.window_draws(self.num_steps, self.burn_in)

    def batch_spec(self, spec: Spec) -> Spec:
        """The columns with the axis of steps, `mask`, `is_first` and `number`."""
        found = {key: ColumnSpec(dtype, (self.num_steps, *shape)) for key, (dtype, shape) in (spec | ADDED).items()}
        return found if self._frames is None else self._frames.spec(found)

    def take(self, ring: Ring, numbers: NDArray[np.int64]) -> Batch | None:
        """The windows from these rows on, padded where the steps that are held end; None if a row is not held."""
        starts = self._starts(ring, numbers.size)
        if self._frames is None and isinstance(ring, Ring):
            return starts.batch(numbers, self.num_steps, self.burn_in)
        found = starts.windows(numbers, self.num_steps, self.burn_in)
        return None if found is None else filled_windows(ring, found, numbers.shape, self._frames)

    def sample(self, ring: Ring, shape: tuple[int, ...]) -> Batch | None:
        """Windows from starts that are equally likely; None if `take` needs their numbers."""
        starts = self._starts(ring, math.prod(shape))
        if self._frames is not None or not isinstance(ring, Ring):
            return None
        return starts.draw_batch(shape, self.num_steps, self.burn_in)

    def _starting_column(self, spec: Spec) -> str | None:
        """The column that says where windows may begin; None if they may anywhere."""
        return self.starts_at if self.starts_at in spec else None

    def _starts(self, ring: Ring, num: int) -> Trajectories:
        """The index; raises NotEnoughMemoryError if so many windows do not fit in the memory that is left."""
        if num * self.num_steps > ring.max_unchecked_rows:
            refuse_big_batch("a batch of sequences", num, self.batch_spec(spec_of(ring)))
        assert self.starts is not None, "a ring is prepared before it is sampled"
        return self.starts


def filled_windows(
    ring: Ring, windows: tuple[Any, ...], shape: tuple[int, ...], compact: CompactFrames | None = None
) -> Batch | None:
    """The rows of `Trajectories.windows` [prod(shape), length] as columns [*shape, length, ...].

    Returns None if one of them is no longer held.
    """
    numbers, mask, is_first, num_padded = windows
    rows, padding = numbers, None
    if num_padded:
        padding = numbers < 0
        # Each window's last row is copied for the padding behind it.
        rows = np.where(padding, np.maximum.accumulate(numbers, axis=1), numbers)
    flat = None if padding is None else padding.reshape(-1)
    if compact is None:
        batch = ring.take(rows.reshape(-1), rows.size, by_number=True)
    else:
        batch = compact.take(rows.reshape(-1), flat)
    if batch is None:
        return None
    if flat is not None:
        for key in ring.names:
            if key in batch:
                batch[key][flat] = np.zeros((), batch[key].dtype)
    lead = (*shape, numbers.shape[1])
    if compact is not None:
        batch = compact.reshaped(batch, shape, lead[-1:])
    else:
        batch = {key: column.reshape(lead + column.shape[1:]) for key, column in batch.items()}
    added = zip(ADDED, (mask, is_first, numbers), strict=True)
    return batch | {name: part if part.shape == lead else part.reshape(lead) for name, part in added}


def sequence_priorities(errors: ArrayLike, mask: ArrayLike, eta: float = ETA) -> NDArray[np.float64]:
    """Priorities of sequences for `update_priorities`: eta max |error| + (1 - eta) mean |error| over their steps.

    Section 2.3 of Kapturowski et al. 2019 (R2D2), which has eta = 0.9.

    Args:
        errors: of each step, such as TD errors, [..., length].
        mask: of the batch, of the same shape: only steps where it is not 0 count.
        eta: share of the largest error, 0 to 1.

    Returns:
        [...] float64; 0 for a sequence without a step that counts.

    Raises:
        InvalidValueError: shapes differ, or eta is not from 0 to 1.
    """
    share = checked_number("eta", eta, 0, 1)
    sizes, counts = np.abs(np.asarray(errors, np.float64)), np.asarray(mask) != 0
    if sizes.shape != counts.shape or sizes.ndim == 0 or math.prod(sizes.shape[-1:]) == 0:
        raise InvalidValueError(
            f"errors: expected [..., length] of the mask's shape {list(counts.shape)}, got {list(sizes.shape)}"
        )
    sizes = np.where(counts, sizes, 0)
    mean = sizes.sum(axis=-1) / np.maximum(counts.sum(axis=-1), 1)
    mixed: NDArray[np.float64] = share * sizes.max(axis=-1) + (1 - share) * mean
    return mixed
