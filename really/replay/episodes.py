"""The sample unit of whole episodes, and the table of the episodes that a buffer holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from really._utils.checks import checked_integer
from really.data.schema import ColumnSpec, Spec
from really.errors import EmptyBufferError, InvalidTypeError, InvalidValueError, one_of
from really.replay._ring import Ring
from really.replay.arguments import refuse_big_batch
from really.replay.columns import spec_of
from really.replay.sequences import ADDED, LONGEST, filled_windows
from really.replay.trajectories import Segment, Trajectories, TrajectoryColumns, agent_columns, check_columns
from really.replay.units import NUMBER, Batch, SampleUnit

if TYPE_CHECKING:
    import pyarrow as pa

REWARD = "reward"
RULES = ("episodes", "steps")


class Episodes(SampleUnit):
    """Each row of a batch is a whole episode, padded behind its end: [n, length, ...].

    An episode is whole if the buffer holds its first row, its last one and all between them. Batches have the columns
    `mask`, `is_first` and `number` of `Sequences`; `mask` is 1 for all steps of the episode. `unpadded` makes a batch
    a list of episodes.

    Args:
        length: steps of a row of the batch; a longer episode is an error. None takes the longest of the batch, so that
            batches differ in shape: a `dataset` needs a length.
        by: "episodes" draws each whole episode with the same probability, "steps" each step of those, so that an
            episode is drawn in proportion to its length.
        agent: columns that tell agents apart; by default the column "agent", if there is one.
        checks_states: False trusts the order of an agent's rows (`Sequences`).
    """

    in_ring = False

    def __init__(
        self,
        length: SupportsIndex | None = None,
        by: str = "episodes",
        agent: str | Sequence[str] | None = None,
        checks_states: bool = True,
    ) -> None:
        self.length = None if length is None else checked_integer("length", length, 1, LONGEST)
        if by not in RULES:
            raise InvalidValueError(one_of("by", by, RULES))
        if not isinstance(checks_states, bool):
            raise InvalidTypeError(f"checks_states: expected True or False, got {checks_states!r}")
        self.by, self.checks_states = by, checks_states
        self.agent = agent_columns(agent)

    def options(self) -> dict[str, Any]:
        """The arguments that make this unit again."""
        agent = None if self.agent is None else list(self.agent)
        return {"length": self.length, "by": self.by, "agent": agent, "checks_states": self.checks_states}

    def check_keys(self, keys: Sequence[str]) -> None:
        """Raises InvalidValueError if a column is missing that tells where episodes end, or agents apart."""
        check_columns("episodes", keys, self.agent)

    def check_spec(self, spec: Spec) -> None:
        """Raises InvalidValueError if a column is missing, of another shape, or named as one that batches add."""
        TrajectoryColumns.of(spec, what="episodes", agent=self.agent)
        taken = [key for key in spec if key in ADDED]
        if taken:
            raise InvalidValueError(f"episodes: expected no keys {taken}, which batches add, got {list(spec)}")

    def prepare(self, ring: Ring) -> None:
        """Makes the index of the ring's trajectories."""
        columns = TrajectoryColumns.of(
            spec_of(ring), what="episodes", agent=self.agent, checks_states=self.checks_states
        )
        self.starts = Trajectories(ring, columns, rule=self.by)

    def batch_spec(self, spec: Spec) -> Spec:
        """The columns with the axis of steps, `mask`, `is_first` and `number`.

        Raises InvalidValueError without a length.
        """
        if self.length is None:
            raise InvalidValueError("episodes: expected length=, which batches of a fixed shape need, got None")
        return {key: ColumnSpec(dtype, (self.length, *shape)) for key, (dtype, shape) in (spec | ADDED).items()}

    def take(self, ring: Ring, numbers: NDArray[np.int64]) -> Batch | None:
        """The episodes that these rows are in, as far as they are held; None if a row is not held."""
        assert self.starts is not None, "a ring is prepared before it is sampled"
        before, after = self.starts.steps_around(numbers)
        if numbers.size and before.min() < 0:
            return None
        longest = int((before + after).max(initial=-1)) + 1
        if self.length is not None and longest > self.length:
            raise InvalidValueError(f"episodes: expected at most length={self.length} steps, got one of {longest}")
        length = self.length or longest
        if numbers.size * length > ring.max_unchecked_rows:
            refuse_big_batch("a batch of episodes", numbers.size * length, spec_of(ring))
        first = self.starts.step_on(numbers, -before)
        if isinstance(ring, Ring):
            return self.starts.batch(first, length)
        found = self.starts.windows(first, length)
        return None if found is None else filled_windows(ring, found, numbers.shape)


def unpadded(batch: Mapping[str, NDArray[Any]]) -> list[dict[str, NDArray[Any]]]:
    """The episodes, or sequences, of a batch [n, length, ...] as a list of columns [steps, ...] without padding.

    Columns without the axis of steps, such as `index` and `weight`, give each episode its value. The arrays are views.

    Raises InvalidValueError for a batch without the column `number`.
    """
    if NUMBER not in batch or batch[NUMBER].ndim != 2:
        raise InvalidValueError(f"unpadded: expected a batch [n, length, ...] with {NUMBER!r}, got {list(batch)}")
    lengths = (batch[NUMBER] >= 0).sum(axis=1)
    whole = {key for key, column in batch.items() if column.shape[:2] == batch[NUMBER].shape}
    return [
        {key: column[at, :length] if key in whole else column[at] for key, column in batch.items()}
        for at, length in enumerate(lengths.tolist())
    ]


def episode_table(index: Trajectories, ring: Ring, columns: TrajectoryColumns) -> pa.Table:
    """The table of `ReplayBuffer.episodes`."""
    import pyarrow as pa

    spec = spec_of(ring)
    has_reward = REWARD in spec and spec[REWARD].shape == () and spec[REWARD].dtype.kind in "biuf"
    found, returns, values = index.sums(REWARD if has_reward else None)
    table: dict[str, Any] = {"first": found.first, "last": found.last, "length": found.length}
    if has_reward:
        table["return"] = returns
    agents = _agents(values, found, columns, spec)
    return pa.table({**table, **agents, "begins": found.begins, "ends": found.ends, "whole": found.begins & found.ends})


def _agents(values: list[Any], found: Segment, columns: TrajectoryColumns, spec: Spec) -> dict[str, Any]:
    """For each column that names agents, its value in each episode; `values` are those of each stream."""
    names = columns.agent
    if not names:
        return {}
    if len(names) == 1 and spec[names[0]].shape == ():
        return {names[0]: _plain(np.array(values, spec[names[0]].dtype)[found.stream])}
    dtype = np.dtype([(name, *spec[name]) for name in names])
    rows = np.frombuffer(b"".join(map(bytes, values)), dtype)[found.stream]
    return {name: _plain(rows[name]) for name in names}


def _plain(values: NDArray[Any]) -> Any:
    """Values that Arrow takes: lists in place of arrays of more than one axis."""
    return values if values.ndim == 1 and values.dtype.kind not in "Vc" else values.tolist()


def refuse_empty(what: str) -> EmptyBufferError:
    """The error of a buffer that has no schema yet."""
    return EmptyBufferError(f"{what}: expected a buffer that has had rows, got one without a schema; put some first")
