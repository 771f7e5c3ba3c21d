"""Recurrent models as functions of one argument, so that they are called, exported and verified as others are.

Where another model gets an observation, a recurrent one gets a pair: the observation, and the leaves of its state.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from gymnasium import spaces
from numpy.typing import NDArray

from really.data.schema import ColumnSpec
from really.data.spaces import unbounded_box
from really.errors import ModelError, summary
from really.policies.jax_state import JaxModel, NnxModel
from really.policies.outputs import as_numbers
from really.policies.recurrent import RECURRENT_STATE, RecurrentLayout, filled, leaves_of, skeleton_of


def takes_state(model: Any) -> bool:
    """Whether the model's call has the argument `recurrent_state`."""
    try:
        return RECURRENT_STATE in inspect.signature(_call_of(model)).parameters
    except (TypeError, ValueError):  # a builtin has no signature
        return False


def moved(value: Any, source: int, target: int) -> Any:
    """`moveaxis` for an array or tensor of any framework."""
    if hasattr(value, "movedim"):
        return value.movedim(source, target)
    axes = list(range(len(value.shape)))
    axes.insert(target, axes.pop(source))
    if hasattr(value, "transpose"):
        return value.transpose(axes)
    return importlib.import_module("tensorflow").transpose(value, axes)


class _Wrapped:
    """A model that is called in another way; all else is asked of the model itself."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __getattr__(self, name: str) -> Any:
        if name == "model":
            raise AttributeError(name)
        return getattr(self.model, name)


class FromStart(_Wrapped):
    """A recurrent model as a function of observations at which episodes begin. Outputs have the leaves of its state.

    Attributes:
        skeleton: the nest that the model returned, with the name of each leaf in its place.
    """

    skeleton: Any = None

    def __call__(self, observation: Any, **options: Any) -> Any:
        """The outputs for observations `[n, ...]`; `options` are further arguments of the model's call."""
        state = initial_state(self.model, _rows(observation))
        outputs = self.model(observation, recurrent_state=state, **options)
        if not isinstance(outputs, Mapping):
            return outputs
        new = _new_state(outputs)
        self.skeleton = skeleton_of(new)
        return {**_others(outputs), **leaves_of(new)}


class RecurrentCall(_Wrapped):
    """A recurrent model as a function of the pair of an observation and the leaves of its state."""

    def __init__(self, model: Any, layout: RecurrentLayout) -> None:
        super().__init__(model)
        self._layout = layout

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """The outputs, with the leaves of the new state; `options` are further arguments of the model's call."""
        return self._outputs(functools.partial(self.model, **options), inputs)

    def around(self, model: Any) -> RecurrentCall:
        """Another model that is called in the same way."""
        return RecurrentCall(model, self._layout)

    def apply(self, parameters: Any, inputs: Any) -> Any:
        """The same for a model of JAX, as a function of its parameters."""

        def call(observation: Any, **state: Any) -> Any:
            return self.model.apply(parameters, observation, **state)

        return self._outputs(call, inputs)

    def _outputs(self, call: Callable[..., Any], inputs: Any) -> Any:
        observation, leaves = inputs
        outputs = call(observation, recurrent_state=self._layout.nest(leaves, moved))
        if not isinstance(outputs, Mapping):
            return outputs
        return {**_others(outputs), **self._layout.flatten(_new_state(outputs), moved)}


def called(model: Any, layout: RecurrentLayout | None) -> Any:
    """The model as a function of one argument: itself if it is not recurrent."""
    return model if layout is None else RecurrentCall(model, layout)


def at_start(model: Any) -> Any:
    """The model as a function of observations at which episodes begin: itself if it is not recurrent."""
    return FromStart(model) if takes_state(model) else model


def layout_of(model: FromStart, one: Mapping[str, Any], two: Mapping[str, Any] | None) -> RecurrentLayout:
    """The layout of the state of a recurrent model with outputs `one` for an observation, and `two` for two.

    Raises:
        ModelError: a part of the state is no array of numbers, or has no batch axis, or the state that the model
            returns is another nest than its `initial_state`.
    """
    skeleton, begin = model.skeleton, initial_state(model.model, 1)
    if begin is None:
        return RecurrentLayout.of(_nested(skeleton, one), _nested(skeleton, two), begins_at_zero=True)
    second = None if two is None else initial_state(model.model, 2)
    layout = RecurrentLayout.of(_numbers(begin), _numbers(second), begins_at_zero=False)
    layout.check(layout.flatten(_nested(skeleton, one)), 1)
    return layout


def initial_state(model: Any, rows: int) -> Any:
    """What the model's `initial_state` gives for a batch of this size; None if it has no such method."""
    make = getattr(_own(model), "initial_state", None)
    if not callable(make):
        return None
    try:
        return make(rows)
    except Exception as error:
        raise ModelError(
            f"model.initial_state({rows}): expected the recurrent state at which {rows} episodes begin, got "
            f"{summary(error)}"
        ) from error


def joined_space(space: spaces.Space[Any], layout: RecurrentLayout) -> Any:
    """The space of what a recurrent model is called with: an observation, and the leaves of its state."""
    leaves = zip(layout.columns.values(), layout.initial, strict=True)
    return spaces.Tuple((space, spaces.Tuple([_box(column, row) for column, row in leaves])))


def input_space(space: spaces.Space[Any], layout: RecurrentLayout | None) -> Any:
    """The space of what a model is called with."""
    return space if layout is None else joined_space(space, layout)


def output_names(outputs: Mapping[str, Any], layout: RecurrentLayout | None) -> tuple[str, ...]:
    """Names of a model's outputs, sorted; the recurrent state is one of them.

    Raises:
        ModelError: the model returns a recurrent state, and its call takes none.
    """
    if layout is None and RECURRENT_STATE in outputs:
        raise ModelError(
            f"model output {RECURRENT_STATE!r}: expected a model whose call takes it, call(observation, "
            f"{RECURRENT_STATE}), got one whose call has no such argument"
        )
    names = {RECURRENT_STATE if layout and name in layout.columns else str(name) for name in outputs}
    return tuple(sorted(names))


def _box(column: ColumnSpec, initial: NDArray[Any]) -> spaces.Box:
    """The space of a leaf. Whole numbers may be indices, so that they stay at those of the initial state."""
    if column.dtype.kind == "f":
        return unbounded_box(column.shape, column.dtype)
    return spaces.Box(initial, initial, column.shape, column.dtype.type)


def _call_of(model: Any) -> Any:
    """The function of the user that a call of the model runs."""
    if isinstance(model, JaxModel):
        return _own(model)
    kinds = {base.__module__.split(".")[0] for base in type(model).__mro__}
    name = "call" if kinds & {"keras", "tf_keras"} else "forward" if "torch" in kinds else ""
    function = getattr(model, name, model) if name else model
    return getattr(function, "python_function", function)


def _own(model: Any) -> Any:
    """What the user made: for a model of JAX its function, or its module of flax."""
    if not isinstance(model, JaxModel):
        return model
    return model.module if isinstance(model, NnxModel) else model.apply


def _others(outputs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in outputs.items() if name != RECURRENT_STATE}


def _new_state(outputs: Mapping[str, Any]) -> Any:
    if RECURRENT_STATE not in outputs:
        raise ModelError(
            f"model output: expected {RECURRENT_STATE!r}, the state after the observation, as the model's call takes "
            f"{RECURRENT_STATE}, got {', '.join(map(repr, outputs))}"
        )
    return outputs[RECURRENT_STATE]


def _rows(observation: Any) -> int:
    """The number of observations in a batch."""
    while isinstance(observation, Mapping | tuple | list):
        observation = next(iter(observation.values() if isinstance(observation, Mapping) else observation))
    return int(observation.shape[0])


def _nested(skeleton: Any, outputs: Mapping[str, Any] | None) -> Any:
    """The nest of the leaves among outputs; None for none."""
    if outputs is None:
        return None
    return filled(skeleton, {name: as_numbers(name, outputs[name]) for name in _names_of(skeleton)})


def _numbers(state: Any) -> Any:
    """A nest with NumPy arrays in place of arrays of any framework; None for none."""
    if state is None:
        return None
    leaves = {name: as_numbers(name, _on_cpu(leaf)) for name, leaf in leaves_of(state).items()}
    return filled(skeleton_of(state), leaves)


def _names_of(skeleton: Any) -> list[str]:
    return list(leaves_of(skeleton))


def _on_cpu(leaf: Any) -> Any:
    return leaf.detach().cpu() if hasattr(leaf, "detach") else leaf
