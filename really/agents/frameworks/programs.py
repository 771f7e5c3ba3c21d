"""Writes programs of array operations (`policies/array_program.py`), whatever framework a model is of.

A model is traced for two numbers of states, and both traces are read side by side: a size that grows with the number
of states is one of the program. Small dense layers become one step each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really.agents.frameworks.protocol import ExportRequest
from really.data.schema import Spec
from really.errors import ModelError
from really.policies.array_program import Program, Step
from really.policies.inference import Exported

# The numbers of states for which a model is traced: sizes that differ as these do grow with the number.
TRACED = (7, 11)
# Weights of a layer up to which it is computed in its own step; a larger one is a product of NumPy.
LARGEST_LAYER = 1 << 16
SINGLE = np.dtype(np.float32)
# Operations that give what they take.
UNCHANGED = ("copy", "stop_gradient")


@dataclass(eq=False)
class Value:
    """A value of a program: an input, a constant or the result of a step.

    Attributes:
        shape: its sizes; -k stands for k times the number of states.
        dtype: of its numbers.
        moves: whether it depends on the observation.
        number: of an input.
        constant: the array of a constant.
        operation, inputs, settings: of a step.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    moves: bool = False
    number: int | None = None
    constant: NDArray[Any] | None = None
    operation: str = ""
    inputs: tuple[Value, ...] = ()
    settings: tuple[Any, ...] = ()


class ProgramWriter:
    """Collects the steps of a program with these leaves and weights."""

    def __init__(self, leaves: Sequence[Any], weights: Sequence[Any]) -> None:
        self._counts = len(leaves), len(weights)
        shapes = [(-1, *leaf.shape) for leaf in leaves] + [tuple(weight.shape) for weight in weights]
        dtypes = [np.dtype(each.dtype) for each in (*leaves, *weights)]
        self.inputs = [
            Value(shape, dtype, moves=at < len(leaves), number=at)
            for at, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=True))
        ]
        self._padded: dict[int, tuple[Value, Value]] = {}

    def constant(self, value: Any, dtype: Any = None) -> Value:
        """An array that never changes."""
        array = np.asarray(value, dtype)
        return Value(array.shape, array.dtype, constant=array)

    def step(
        self, operation: str, inputs: Sequence[Value], settings: tuple[Any, ...], shape: tuple[int, ...], dtype: Any
    ) -> Value:
        """The result of an operation; a bias or a ReLU after a layer is taken into the layer.

        What changes nothing is no step: copies, and a layer's result in its own shape.
        """
        is_same = operation in UNCHANGED or (operation == "reshape" and inputs[0].operation == "dense")
        if is_same and (inputs[0].shape, inputs[0].dtype) == (shape, np.dtype(dtype)):
            return inputs[0]
        if operation in ("add", "max"):
            taken = self._with_bias if operation == "add" else _rectified
            layer = taken(*inputs) or taken(*reversed(inputs))
            if layer is not None and (layer.shape, layer.dtype) == (shape, np.dtype(dtype)):
                return layer
        moves = any(value.moves for value in inputs)
        return Value(shape, np.dtype(dtype), moves, operation=operation, inputs=tuple(inputs), settings=settings)

    def product(self, values: Value, matrix: Value) -> Value:
        """The product of values `[m, k]` and a matrix `[k, n]`."""
        shape = values.shape[0], matrix.shape[1]
        is_layer = values.moves and not matrix.moves and values.dtype == matrix.dtype == SINGLE
        if not is_layer or matrix.shape[0] * matrix.shape[1] > LARGEST_LAYER:
            return self.step("matrix_product", (values, matrix), (), shape, np.result_type(values.dtype, matrix.dtype))
        return self._layer(values, matrix, self.constant(np.zeros(shape[1], np.float32)), shape)

    def program(self, outputs: Sequence[Value]) -> Program:
        """The program with these results, without steps that they do not need."""
        constants: list[Value] = []
        steps: list[Value] = []
        seen: set[int] = set()
        for value in outputs:
            _collect(value, seen, constants, steps)
        first = sum(self._counts)
        numbers = {id(each): at for at, each in enumerate((*constants, *steps), first)}

        def number(value: Value) -> int:
            return numbers[id(value)] if value.number is None else value.number

        return Program(
            *self._counts,
            tuple(np.asarray(each.constant) for each in constants),
            tuple(Step(each.operation, tuple(map(number, each.inputs)), each.settings) for each in steps),
            tuple(map(number, outputs)),
        )

    def _layer(self, values: Value, matrix: Value, bias: Value, shape: tuple[int, ...]) -> Value:
        inputs = (values, self._pad(matrix), self._pad(bias))
        return Value(shape, SINGLE, True, operation="dense", inputs=inputs, settings=(*shape, False))

    def _pad(self, value: Value) -> Value:
        if id(value) not in self._padded:
            padded = Value(value.shape, SINGLE, operation="padded", inputs=(value,))
            self._padded[id(value)] = value, padded  # with the value, so that no other one gets its id
        return self._padded[id(value)][1]

    def _with_bias(self, layer: Value, bias: Value) -> Value | None:
        """The layer with a bias; None if it is none, has one already, or the other value is no vector for it."""
        if layer.operation != "dense" or layer.settings[-1] or layer.inputs[2].inputs[0].constant is None:
            return None
        vector = _vector(bias, layer.shape)
        if vector is None or layer.inputs[2].inputs[0].constant.any():
            return None
        return self._layer(layer.inputs[0], layer.inputs[1].inputs[0], vector, layer.shape)


def exported(request: ExportRequest, leaves: Spec, weights: Sequence[Any], program: Program) -> Exported:
    """The program as runners take it.

    Raises:
        ModelError: runs are to repeat, and the program has products whose last bit depends on the number of states.
    """
    if request.repeatable and not program.repeats:
        raise ModelError("it has products whose last bit depends on the number of states, and a seed repeats all bits")
    names, shapes = tuple(sorted(request.names)), tuple(tuple(each.shape) for each in weights)
    return Exported("numpy", b"", leaves, names, shapes, forms=request.forms, program=program)


def merged(one: Any, other: Any) -> Any:
    """Settings for any number of states, from those for both numbers of `TRACED`.

    Raises:
        ModelError: a size neither stays nor grows with the number of states.
    """
    if isinstance(one, tuple):
        return tuple(map(merged, one, other))
    if one == other:
        return one
    times, rest = divmod(one, TRACED[0])
    if rest or times * TRACED[1] != other:
        raise ModelError(f"it has a size that is {one} for {TRACED[0]} states and {other} for {TRACED[1]}")
    return -times


def _collect(value: Value, seen: set[int], constants: list[Value], steps: list[Value]) -> None:
    """Adds what a value needs, in an order in which it can be computed."""
    waiting = [(value, False)]
    while waiting:
        each, is_ready = waiting.pop()
        if is_ready:
            steps.append(each)
        elif id(each) not in seen and each.number is None:
            seen.add(id(each))
            if each.constant is not None:
                constants.append(each)
                continue
            waiting.append((each, True))
            waiting += [(needed, False) for needed in each.inputs]


def _vector(value: Value, shape: tuple[int, ...]) -> Value | None:
    """The vector that is in every row of a value of this shape; None if there is none."""
    width = shape[1]
    while value.operation in ("broadcast", "reshape") and value.shape in (shape, (1, width)):
        (inner,) = value.inputs
        is_last = value.operation == "reshape" or value.settings[1][-1:] == (1,)
        if not is_last or inner.shape not in (shape, (1, width), (width,)):
            return None
        value = inner
    return value if value.shape == (width,) and value.dtype == SINGLE and not value.moves else None


def _rectified(layer: Value, other: Value) -> Value | None:
    """The layer with a ReLU if the other value is 0; None if the first is no layer."""
    if layer.operation != "dense" or other.constant is None or other.constant.any():
        return None
    return Value(
        layer.shape, SINGLE, True, operation="dense", inputs=layer.inputs, settings=(*layer.settings[:2], True)
    )
