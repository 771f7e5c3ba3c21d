"""The recurrent state of a model: how it is laid out, and the states with which agents act.

A model is recurrent if its call takes `(observation, recurrent_state)` and its output `recurrent_state` is the state
after the observation: any nest of dicts, tuples and lists of arrays. Here each of its arrays is a leaf `[n, ...]` with
the batch axis first, and has the name of its column: `recurrent_state`, `recurrent_state.h`, `recurrent_state.0`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from really.data.schema import RECURRENT_STATE as RECURRENT_STATE
from really.data.schema import ColumnSpec, Spec
from really.errors import ModelError

Arrays = list[NDArray[Any]]
Forward = Callable[[Sequence[NDArray[Any]]], Mapping[str, NDArray[Any]]]
Move = Callable[[Any, int, int], Any]
"""`moveaxis` of a framework."""


def leaves_of(state: Any, name: str = RECURRENT_STATE) -> dict[str, Any]:
    """The leaves of a nest by name; raises ModelError if two have one name, or if there is none."""
    found: dict[str, Any] = {}
    for key, part in _parts(state):
        inner = {name: part} if key is None else leaves_of(part, f"{name}.{key}")
        if twice := sorted(found.keys() & inner.keys()):
            raise ModelError(f"{RECURRENT_STATE}: expected parts whose names give different columns, got two {twice}")
        found |= inner
    if not found or any(leaf is None for leaf in found.values()):
        raise ModelError(f"{name}: expected arrays, or dicts, tuples and lists of arrays, got {state!r}")
    return found


def skeleton_of(state: Any, name: str = RECURRENT_STATE) -> Any:
    """The nest with the name of each leaf in its place."""
    found = {key: name if key is None else skeleton_of(part, f"{name}.{key}") for key, part in _parts(state)}
    return _like(state, found)


def filled(skeleton: Any, leaves: Mapping[str, Any]) -> Any:
    """The nest of a skeleton with these leaves."""
    if isinstance(skeleton, str):
        return leaves[skeleton]
    return _like(skeleton, {key: filled(part, leaves) for key, part in _parts(skeleton)})


def column_of(batch: Mapping[str, Any], name: str) -> Any:
    """A column of a batch; raises ModelError if it lacks this part of the recurrent state."""
    if name not in batch:
        raise ModelError(
            f"{RECURRENT_STATE}: expected a batch with the column {name!r}, which returns=['{RECURRENT_STATE}'] "
            f"delivers, got {', '.join(map(repr, batch))}"
        )
    return batch[name]


@dataclass(frozen=True, eq=False)
class RecurrentLayout:
    """How the recurrent state of one model is laid out.

    Attributes:
        skeleton: the nest as the model takes it, with the name of each leaf in its place.
        columns: the leaves of one agent by name, without the batch axis. Floats are float32.
        axes: the batch axis of each leaf as the model takes it: 0, or 1 for the states of PyTorch's `nn.LSTM`.
        initial: the state at which an episode begins: leaves of one agent.
    """

    skeleton: Any
    columns: Spec
    axes: tuple[int, ...]
    initial: tuple[NDArray[Any], ...]

    @classmethod
    def of(cls, one: Any, two: Any, begins_at_zero: bool) -> Self:
        """The layout of a model whose state for one observation is the nest `one`, and for two observations `two`.

        Args:
            one, two: nests of NumPy arrays; `two` is None for a model that takes one observation at a time.
            begins_at_zero: whether episodes begin at zeros. If not, they begin at `one`.
        """
        ones = leaves_of(one)
        twos: Mapping[str, Any] = ones if two is None else leaves_of(two)
        axes = [_batch_axis(name, ones[name], twos.get(name), two is None) for name in ones]
        rows = [np.moveaxis(leaf, axis, 0)[0] for leaf, axis in zip(ones.values(), axes, strict=True)]
        initial = [_plain(name, row) * (not begins_at_zero) for name, row in zip(ones, rows, strict=True)]
        columns = {name: ColumnSpec(row.dtype, row.shape) for name, row in zip(ones, initial, strict=True)}
        return cls(skeleton_of(one), columns, tuple(axes), tuple(initial))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the leaves, which are those of their columns."""
        return tuple(self.columns)

    def is_like(self, other: RecurrentLayout | None) -> bool:
        """Whether states of one model can go on with the other."""
        return other is not None and (self.columns, self.axes) == (other.columns, other.axes)

    def begin(self, rows: int) -> Arrays:
        """Leaves `[rows, ...]` at which episodes begin."""
        return [np.repeat(row[None], rows, axis=0) for row in self.initial]

    def nest(self, leaves: Sequence[Any], move: Move | None = np.moveaxis) -> Any:
        """The nest as the model takes it, of leaves with the batch axis first; `move` is None for leaves without it."""
        pairs = zip(leaves, self.axes, strict=True)
        moved = [leaf if move is None or axis == 0 else move(leaf, 0, axis) for leaf, axis in pairs]
        return filled(self.skeleton, dict(zip(self.names, moved, strict=True)))

    def flatten(self, state: Any, move: Move | None = np.moveaxis, where: str = "model output ") -> dict[str, Any]:
        """The leaves of a nest by name, with the batch axis first; `move` is None for leaves without it.

        Raises:
            ModelError: the nest has other parts than before, or a leaf has no batch axis.
        """
        found = leaves_of(state)
        if found.keys() != self.columns.keys():
            raise ModelError(
                f"{where}{RECURRENT_STATE!r}: expected the same nest as before, with {_listed(self.columns)}, "
                f"got one with {_listed(found)}"
            )
        given = {name: (found[name], axis) for name, axis in zip(self.columns, self.axes, strict=True)}
        return {
            name: leaf if move is None or axis == 0 or np.ndim(leaf) <= axis else move(leaf, axis, 0)
            for name, (leaf, axis) in given.items()
        }

    def check(self, leaves: Mapping[str, NDArray[Any]], rows: int, where: str = "model output ") -> None:
        """Raises ModelError unless the leaves are `[rows, ...]` of the shapes and the kinds of numbers as before."""
        for name, (dtype, shape) in self.columns.items():
            leaf = leaves[name]
            if leaf.shape != (rows, *shape) or not np.can_cast(leaf.dtype, dtype, "same_kind"):
                raise ModelError(
                    f"{where}{name!r}: expected {dtype}{[rows, *shape]} as before, got {leaf.dtype}{list(leaf.shape)}"
                )


class RecurrentStates:
    """The recurrent states of a runner's agents, which act together.

    Attributes:
        arrays: the states with which they act next, leaves `[agent, ...]`.
        given: the leaves that the model gets beside observations: `arrays`, if nobody sets others for a while.
        new: the model's outputs after its last call, which hold the next states.
    """

    def __init__(self, layout: RecurrentLayout, size: int) -> None:
        self.layout = layout
        self.arrays = layout.begin(size)
        self.given: Sequence[NDArray[Any]] = self.arrays
        self.new: Mapping[str, NDArray[Any]] = {}

    def before(self, forward: Forward) -> Forward:
        """A recurrent model as a function of observations alone: it gets the agents' states."""

        def recurrent(leaves: Sequence[NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
            self.new = forward([*leaves, *self.given])
            return self.new

        return recurrent

    def reset(self, which: NDArray[np.intp] | None = None) -> None:
        """Begins an episode for all agents, or for those with the given numbers."""
        self.given = self.arrays
        for leaf, row in zip(self.arrays, self.layout.initial, strict=True):
            leaf[slice(None) if which is None else which] = row

    def advance(self, which: NDArray[np.intp] | None = None) -> None:
        """Takes over the model's new states, for all agents or for those with the given numbers.

        Raises:
            ModelError: a new state has another shape or other numbers than before.
        """
        self.layout.check(self.new, len(self.arrays[0]))
        for name, leaf in zip(self.layout.names, self.arrays, strict=True):
            if which is None:
                leaf[...] = self.new[name]
            else:
                leaf[which] = self.new[name][which]


def _parts(state: Any) -> list[tuple[Any, Any]]:
    """The parts of a nest with their keys; a leaf is its own part, with the key None."""
    if isinstance(state, Mapping):
        return list(state.items())
    return list(enumerate(state)) if isinstance(state, tuple | list) else [(None, state)]


def _like(nest: Any, parts: Mapping[Any, Any]) -> Any:
    """A nest of the same type as `nest` with these parts."""
    if isinstance(nest, Mapping):
        return dict(parts) if type(nest) is dict else type(nest)(parts)  # type: ignore[call-arg]
    if not isinstance(nest, tuple | list):
        return parts[None]
    # A named tuple takes its parts one by one.
    return type(nest)(*parts.values()) if hasattr(nest, "_fields") else type(nest)(parts.values())


def _batch_axis(name: str, one: NDArray[Any], two: Any, one_by_one: bool) -> int:
    """The axis whose size is the number of observations: 1 in `one`, 2 in `two`."""
    if one_by_one:
        found = [axis for axis, size in enumerate(one.shape) if size == 1][:1]
    else:
        same_rank = two is not None and one.ndim == two.ndim
        differ = [axis for axis in range(one.ndim) if not same_rank or one.shape[axis] != two.shape[axis]]
        found = [axis for axis in differ if same_rank and (one.shape[axis], two.shape[axis]) == (1, 2)]
        found = found if len(differ) == 1 else []
    if not found:
        got = "none" if two is None else list(two.shape)
        raise ModelError(
            f"{name}: expected an array with a batch axis, such as [n, ...], got shape {list(one.shape)} for one "
            f"observation and {got} for two"
        )
    return found[0]


def _plain(name: str, row: NDArray[Any]) -> NDArray[Any]:
    """A leaf in the dtype in which it is kept: floats of any width as float32."""
    if row.dtype.kind not in "biuf":
        raise ModelError(f"{name}: expected an array of real numbers, got dtype {row.dtype}")
    return row.astype(np.float32) if row.dtype.kind == "f" else row


def _listed(names: Sequence[str] | Mapping[str, Any]) -> str:
    return ", ".join(map(repr, names))
