"""Transitions as columns: which columns runners deliver, with which dtypes and shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from really._utils.array_pool import ArrayPool
from really._utils.published import column_name
from really.data.frames import FrameColumn
from really.data.schema import HAS_STATE, RECURRENT_STATE, ColumnSpec, Spec
from really.errors import InvalidTypeError, InvalidValueError, one_of

if TYPE_CHECKING:
    from really.data.masks import ActionMasks

Columns = dict[str, NDArray[Any]]

# Rewards, flags and estimates are float32, as a TensorFlow learner takes them; counters are integers.
REQUESTABLE: dict[str, np.dtype[Any]] = {
    "value_estimate": np.dtype(np.float32),
    "log_prob": np.dtype(np.float32),
    "monte_carlo": np.dtype(np.float32),
    "advantage": np.dtype(np.float32),
    "truncated": np.dtype(np.float32),
    "episode_end": np.dtype(np.float32),
    "policy_version": np.dtype(np.int64),
    "agent": np.dtype(np.int32),
}
# Columns that are valid only for the policy that acted: stale rows are dropped unless `max_staleness` allows them.
ON_POLICY = frozenset({"log_prob", "monte_carlo", "advantage"})


def check_returns(returns: Iterable[str]) -> tuple[str, ...]:
    """The requested extra columns, without repeats, in the given order. Raises InvalidValueError for unknown names."""
    if isinstance(returns, str) or not isinstance(returns, Iterable):
        raise InvalidTypeError(f"returns: expected a list of names, got {returns!r} ({type(returns).__name__})")
    names = tuple(dict.fromkeys(map(column_name, returns)))
    for name in names:
        if name not in (*REQUESTABLE, RECURRENT_STATE):
            raise InvalidValueError(one_of("returns", name, (*REQUESTABLE, RECURRENT_STATE)))
    return names


def schema(
    leaves: Spec,
    action_shape: tuple[int, ...],
    action_dtype: np.dtype[Any],
    returns: Sequence[str] = (),
    masks: ActionMasks | None = None,
    reward_shape: tuple[int, ...] = (),
    recurrent: Mapping[str, ColumnSpec] | None = None,
    recurrent_every: int = 1,
) -> Spec:
    """The columns that runners deliver: the fixed ones, those of action masks, then those that `returns` requests.

    `recurrent` are the columns of a model's recurrent state, which is that of every `recurrent_every`-th step.
    """
    number = ColumnSpec(np.dtype(np.float32))
    state = dict(recurrent or {}) | ({HAS_STATE: number} if recurrent_every > 1 else {})
    requested: Spec = {}
    for name in returns:
        requested |= state if name == RECURRENT_STATE else {name: ColumnSpec(REQUESTABLE[name])}
    return {
        **{"state" + name: leaf for name, leaf in leaves.items()},
        "action": ColumnSpec(np.dtype(action_dtype), action_shape),
        "reward": ColumnSpec(number.dtype, reward_shape),
        **{"state_new" + name: leaf for name, leaf in leaves.items()},
        "not_done": number,
        "terminal": number,
        **({} if masks is None else masks.columns),
        **requested,
    }


def concatenate(spec: Spec, parts: Sequence[Mapping[str, Any]], pool: ArrayPool) -> Columns:
    """The rows of all parts one after the other, in arrays `[row, ...]` of the pool. The caller owns the arrays."""
    first = next(iter(spec))
    num_rows = sum(len(part[first]) for part in parts)
    joined = {name: pool.empty((num_rows, *column.shape), column.dtype) for name, column in spec.items()}
    for name, target in joined.items():
        start = 0
        for part in parts:
            rows = part[name]
            stop = start + len(rows)
            if isinstance(rows, FrameColumn):
                rows.write_to(target[start:stop])
            else:
                target[start:stop] = rows
            start = stop
    return joined
