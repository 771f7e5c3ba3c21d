"""Programs of array operations: what a model computes, as a list of steps that NumPy runs without its framework.

The values of a program are numbered: the leaves of an observation, then the weights, then constants, then the result of
each step. A size in the settings of a step is negative if it grows with the number of states: -k stands for k * rows.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really.policies._layers import Dense, Layers, padded

Function = Callable[..., Any]
Made = tuple[Function, tuple[int, ...], int]
"""A step for batches of one size: its function, the numbers of its inputs, the number of its result."""
# Operations that tell nothing of overflow and NaN.
SILENT = {"dense", "padded", "reshape", "transpose", "broadcast", "copy", "concatenate", "slice"}
NOTHING = contextlib.nullcontext()


@dataclass(frozen=True)
class Step:
    """One operation.

    Attributes:
        operation: its name, a key of `OPERATIONS`.
        inputs: numbers of the values that it takes.
        settings: what else it takes, such as axes and sizes.
    """

    operation: str
    inputs: tuple[int, ...]
    settings: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Program:
    """A function of the leaves of observations `[rows, ...]` and of weights.

    Attributes:
        num_leaves, num_weights: how many there are.
        constants: other arrays, which never change.
        steps: the operations, in order.
        outputs: numbers of the values that are results.
    """

    num_leaves: int
    num_weights: int
    constants: tuple[NDArray[Any], ...]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]

    @property
    def repeats(self) -> bool:
        """Whether the results for a state have the same bits for any number of other states.

        Products of NumPy have not: its library chooses a kernel by the sizes.
        """
        moving = set(range(self.num_leaves))
        first = self.num_leaves + self.num_weights + len(self.constants)
        for at, step in enumerate(self.steps, first):
            if not moving.isdisjoint(step.inputs):
                if step.operation in PRODUCTS:
                    return False
                moving.add(at)
        return True


class Evaluator:
    """A program for batches of one size. What depends on the weights alone is computed once for new weights."""

    def __init__(self, program: Program, rows: int) -> None:
        self._program = program
        first = program.num_leaves + program.num_weights + len(program.constants)
        moving = set(range(program.num_leaves))
        self._once: list[Made] = []
        each: list[Made] = []
        for at, step in enumerate(program.steps, first):
            settings = tuple(_for_rows(value, rows) for value in step.settings)
            made = OPERATIONS[step.operation](*settings), step.inputs, at
            if moving.isdisjoint(step.inputs):
                self._once.append(made)
            else:
                moving.add(at)
                each.append(made)
        self._each, self._layers = _with_layers_joined(each, program.outputs)
        self._warns = any(step.operation not in SILENT for step in program.steps)
        self._values: list[Any] = [None] * (first + len(program.steps))
        self._values[first - len(program.constants) : first] = program.constants

    def set_weights(self, weights: Sequence[NDArray[Any]]) -> None:
        """Uses copies of these weights."""
        first, values = self._program.num_leaves, self._values
        values[first : first + len(weights)] = [np.array(weight) for weight in weights]
        self._run(self._once)
        for layers, numbers in self._layers:
            layers.use(*[values[number] for number in numbers])

    def __call__(self, leaves: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """The results for these leaves. Overflow and NaN are results, as in the frameworks, and no warnings."""
        values = self._values
        values[: len(leaves)] = leaves
        self._run(self._each)
        return [values[at] for at in self._program.outputs]

    def _run(self, steps: Sequence[Made]) -> None:
        values = self._values
        with np.errstate(all="ignore") if self._warns else NOTHING:
            for function, inputs, at in steps:
                values[at] = function(*[values[number] for number in inputs])


def _with_layers_joined(
    steps: Sequence[Made], outputs: Sequence[int]
) -> tuple[list[Made], list[tuple[Layers, tuple[int, ...]]]]:
    """The steps, where layers that follow each other are one step of one input; and these with their weights."""
    uses = Counter([*outputs, *(number for _, inputs, _ in steps for number in inputs)])
    chains: dict[int, tuple[int, tuple[Dense, ...], tuple[int, ...]]] = {}
    for function, (given, *weights), at in steps:
        if isinstance(function, Dense):
            before = chains.pop(given, None) if uses[given] == 1 else None
            start, layers, numbers = before or (given, (), ())
            chains[at] = start, (*layers, function), (*numbers, *weights)
    joined = {at: Layers(*layers) for at, (_, layers, _) in chains.items()}
    found: list[Made] = []
    for function, inputs, at in steps:
        if at in chains:
            found.append((joined[at], (chains[at][0],), at))
        elif not isinstance(function, Dense):
            found.append((function, inputs, at))
    return found, [(joined[at], numbers) for at, (_, _, numbers) in chains.items()]


def _for_rows(value: Any, rows: int) -> Any:
    """Settings with sizes for this number of states."""
    if isinstance(value, tuple):
        return tuple(_for_rows(part, rows) for part in value)
    return -value * rows if isinstance(value, int) and not isinstance(value, bool) and value < 0 else value


def _plain(function: Function) -> Callable[[], Function]:
    return lambda: function


def _reduced(function: Any) -> Callable[[tuple[int, ...]], Function]:
    return lambda axes: functools.partial(function, axis=axes)


def _product(axes: tuple[int, ...], other_axes: tuple[int, ...]) -> Function:
    return lambda a, b: np.tensordot(a, b, (axes, other_axes))


def _broadcast(shape: tuple[int, ...], places: tuple[int, ...]) -> Function:
    def broadcast(value: Any) -> Any:
        sizes = [1] * len(shape)
        for place, size in zip(places, np.shape(value), strict=True):
            sizes[place] = size
        return np.broadcast_to(np.reshape(value, sizes), shape)

    return broadcast


def _counted(dtype: str, shape: tuple[int, ...], axis: int) -> Function:
    numbers = np.indices(shape)[axis].astype(dtype)
    return lambda: numbers


def _reshaped(shape: tuple[int, ...]) -> Function:
    return lambda value: value.reshape(shape)


def _sliced(starts: tuple[int, ...], ends: tuple[int, ...], strides: tuple[int, ...]) -> Function:
    parts = tuple(map(slice, starts, ends, strides))
    return lambda value: value[parts]


def _selected(which: Any, *cases: Any) -> Any:
    return np.where(which, cases[1], cases[0]) if which.dtype == bool else np.choose(which, cases)


def _argument(function: Any) -> Callable[..., Function]:
    return lambda axis, dtype: lambda value: function(value, axis).astype(dtype)


PRODUCTS = ("product", "matrix_product")

OPERATIONS: Mapping[str, Callable[..., Function]] = {
    **{name: _plain(getattr(np, name)) for name in ("tanh", "exp", "log", "log1p", "expm1", "sqrt", "sin", "cos")},
    **{name: _plain(getattr(np, name)) for name in ("sign", "floor", "ceil", "square", "isfinite")},
    "add": _plain(np.add),
    "sub": _plain(np.subtract),
    "mul": _plain(np.multiply),
    "div": _plain(np.divide),
    "max": _plain(np.maximum),
    "min": _plain(np.minimum),
    "pow": _plain(np.power),
    "neg": _plain(np.negative),
    "abs": _plain(np.abs),
    "eq": _plain(np.equal),
    "ne": _plain(np.not_equal),
    "lt": _plain(np.less),
    "le": _plain(np.less_equal),
    "gt": _plain(np.greater),
    "ge": _plain(np.greater_equal),
    "and": _plain(np.bitwise_and),
    "or": _plain(np.bitwise_or),
    "not": _plain(np.invert),
    **{name: _plain(lambda value: value) for name in ("copy", "stop_gradient")},
    "rem": _plain(np.fmod),
    "mod": _plain(np.mod),
    "round": _plain(np.rint),
    "logistic": _plain(lambda value: 1 / (1 + np.exp(-value))),
    "rsqrt": _plain(lambda value: 1 / np.sqrt(value)),
    "clamp": _plain(lambda low, value, high: np.minimum(np.maximum(value, low), high)),
    "select_n": _plain(_selected),
    "integer_pow": lambda exponent, negative: lambda value: value ** (-exponent if negative else exponent),
    "convert": lambda dtype: lambda value: value.astype(dtype),
    "product": _product,
    "matrix_product": _plain(np.matmul),
    "dense": Dense,
    "padded": _plain(padded),
    "iota": _counted,
    "broadcast": _broadcast,
    "reshape": _reshaped,
    "transpose": lambda axes: lambda value: value.transpose(axes),
    "concatenate": lambda axis: lambda *values: np.concatenate(values, axis),
    "slice": _sliced,
    "sum": _reduced(np.sum),
    "mean": _reduced(np.mean),
    "reduce_max": _reduced(np.max),
    "reduce_min": _reduced(np.min),
    "argmax": _argument(np.argmax),
    "argmin": _argument(np.argmin),
}
"""Name of an operation -> a function of its settings that makes a function of its inputs."""
