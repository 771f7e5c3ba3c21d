"""What an agent does with a recurrent model: it takes and gives the recurrent state as the model does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from really._utils.checks import checked_integer
from really.agents.recurrent import moved
from really.data.schema import HAS_STATE, shape_text
from really.data.spaces import flatten, observation_leaves
from really.errors import ModelError
from really.policies.recurrent import RECURRENT_STATE, RecurrentLayout, column_of

if TYPE_CHECKING:
    from really.agents.frameworks.protocol import Network


class RecurrentAgent:
    """What `Agent` inherits: its methods take and give the recurrent state as the model does."""

    recurrent: RecurrentLayout | None
    observation_space: spaces.Space[Any]
    network: Network

    def initial_state(self, rows: int | None = None) -> Any:
        """The recurrent state at which episodes begin, NumPy, as the model takes it: of `rows` agents, or of one.

        Raises:
            ModelError: the model is not recurrent.
        """
        layout = self._layout("initial_state")
        if rows is None:
            return layout.nest(layout.initial, None)
        return layout.nest(layout.begin(checked_integer("rows", rows)))

    def recurrent_state(self, batch: Mapping[str, Any], step: int = 0) -> Any:
        """The recurrent state that rows of a buffer have in their columns, as the model takes it.

        Args:
            batch: with the columns of `returns=["recurrent_state"]`, [n, ...], or [n, time, ...] for sequences.
            step: which step of sequences.

        Raises:
            ModelError: the model is not recurrent, or a column is missing or has another shape than the state; or a row
                repeats the state of an earlier one, as `recurrent_state_every` lets it, which compiled functions and
                tensors on a GPU do not check.
        """
        layout = self._layout("recurrent_state")
        _refuse_repeated(batch, step)
        leaves = []
        for name, column in layout.columns.items():
            values, ndim = column_of(batch, name), len(column.shape)
            given = tuple(values.shape)
            if len(given) not in (ndim + 1, ndim + 2) or given[len(given) - ndim :] != column.shape:
                raise ModelError(
                    f"{name}: expected a column {shape_text(column.shape, 'n')} or "
                    f"{shape_text(column.shape, 'n', 'time')}, got {shape_text(given)}"
                )
            leaves.append(values if len(given) == ndim + 1 else values[:, step])
        return layout.nest(leaves, moved)

    def _layout(self, method: str) -> RecurrentLayout:
        if self.recurrent is None:
            raise ModelError(
                f"agent.{method}: expected a recurrent model, whose call takes {RECURRENT_STATE}, got one without"
            )
        return self.recurrent

    def _inputs(self, method: str, state: Any, recurrent_state: Any) -> Any:
        """What the model is called with."""
        if self.recurrent is None and recurrent_state is None:
            return state
        layout = self._layout(method)
        if recurrent_state is None:
            raise ModelError(
                f"agent.{method}: expected {RECURRENT_STATE}=, as the model is recurrent, got none; "
                f"agent.initial_state(n) is that of a beginning, agent.recurrent_state(batch) that of stored rows"
            )
        move = None if self._rows_of(state) is None else moved
        return state, tuple(layout.flatten(recurrent_state, move, f"agent.{method}: ").values())

    def _acting_inputs(self, state: Any, recurrent_state: Any) -> Any:
        """What the model is called with while the agent acts; an episode begins without a state."""
        if self.recurrent is not None and recurrent_state is None:
            rows = self._rows_of(state)
            return state, self.recurrent.initial if rows is None else tuple(self.recurrent.begin(rows))
        return self._inputs("act", state, recurrent_state)

    def _next_state(self, outputs: Mapping[str, Any], single: bool) -> Any:
        """The recurrent state among outputs in NumPy, in arrays of its own."""
        layout = self._layout("act")
        leaves = [np.array(outputs[name], column.dtype) for name, column in layout.columns.items()]
        return layout.nest([leaf[0] for leaf in leaves], None) if single else layout.nest(leaves)

    def _with_next_state(self, inputs: Any, names: Sequence[str]) -> dict[str, Any]:
        """The outputs of these names, of which `recurrent_state` is the nest as the model returns it."""
        layout = self._layout("outputs")
        asked = [leaf for name in names for leaf in (layout.names if name == RECURRENT_STATE else (name,))]
        found: dict[str, Any] = self.network.outputs(inputs, asked)
        if RECURRENT_STATE not in names:
            return found
        state = layout.nest([found.pop(name) for name in layout.names], moved)
        return {**found, RECURRENT_STATE: state}

    def _rows_of(self, state: Any) -> int | None:
        """The number of states; None for one without a batch axis."""
        first = flatten(self.observation_space, state)[0]
        shape = tuple(first.shape) if hasattr(first, "shape") else np.shape(first)
        leaf = next(iter(observation_leaves(self.observation_space).values()))
        return shape[0] if len(shape) > len(leaf.shape) else None


def _refuse_repeated(batch: Mapping[str, Any], step: int) -> None:
    """Raises ModelError if rows have not the state with which they acted, as far as their flag can be read."""
    try:
        flags = np.asarray(batch[HAS_STATE])
    except Exception:  # none, or a tensor without values, or on another device
        return
    has = flags if flags.ndim < 2 else flags[:, step]
    if not has.all():
        raise ModelError(
            f"{RECURRENT_STATE}: expected rows with a state of their own, got {np.sum(has == 0):,} of {has.size:,} "
            f"whose {HAS_STATE!r} is 0, as recurrent_state_every is not 1: step 0 of sequences has one"
        )
