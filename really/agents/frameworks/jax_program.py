"""A function of JAX as a program of array operations, which runners compute with NumPy, without JAX.

A call of a compiled function takes JAX tens of microseconds, whatever is in it: several times what NumPy needs for a
small network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from really.agents.frameworks.protocol import ExportRequest
from really.data.spaces import nest
from really.errors import ModelError
from really.policies.array_program import OPERATIONS, Program, Step
from really.policies.inference import Exported
from really.policies.jax_state import JaxModel, JaxState, is_key
from really.policies.model_inputs import model_leaves

# The function is traced for two numbers of states: sizes that differ as these do grow with the number.
TRACED = (7, 11)
# Operations that call a function once, and the parameters that may have it.
CALLS = {"jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}
CALLS |= {"checkpoint", "remat2"}
CALLED = ("jaxpr", "call_jaxpr", "fun_jaxpr")


def as_program(model: JaxModel, request: ExportRequest) -> Exported:
    """The model as a program for any number of states.

    Raises:
        ModelError: it has an operation that is none of a program, or weights that do not travel as they are.
    """
    forms, state, names = request.forms, JaxState(model), tuple(sorted(request.names))
    if forms is None or forms.one_by_one:
        raise ModelError("it takes one state at a time")
    for leaf in state.variables:
        if is_key(leaf.array) or getattr(leaf.array, "dtype", None) != leaf.dtype:
            raise ModelError(f"its weight {leaf.name} is of {getattr(leaf.array, 'dtype', type(leaf.array).__name__)}")
    structure = jax.tree_util.tree_structure(model.parameters)
    specs = model_leaves(request.observation_space)

    def function(leaves: Sequence[Any], weights: Sequence[Any]) -> list[Any]:
        bound = JaxModel(model.apply, jax.tree_util.tree_unflatten(structure, weights))
        outputs = request.called(bound)(nest(request.observation_space, leaves))
        rows = leaves[0].shape[0]
        return [
            outputs[name].astype(forms.dtype_of(name)).reshape((forms.leading(name, rows), *forms.shapes[name]))
            for name in names
        ]

    weights = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in state.variables]
    traced = [
        jax.make_jaxpr(function)(
            [jax.ShapeDtypeStruct((rows, *leaf.shape), leaf.dtype) for leaf in specs.values()], weights
        )
        for rows in TRACED
    ]
    program = _Reader(len(specs), len(weights)).program(*traced)
    shapes = tuple(leaf.shape for leaf in state.variables)
    return Exported("numpy", b"", specs, names, shapes, forms=forms, program=program)


class _Reader:
    """Reads two traces of one function side by side."""

    def __init__(self, num_leaves: int, num_weights: int) -> None:
        self._counts = num_leaves, num_weights
        self._constants: list[Any] = []
        self._steps: list[tuple[str, list[Any], tuple[Any, ...], Any]] = []

    def program(self, one: Any, other: Any) -> Program:
        """The program of two closed traces."""
        numbers: dict[Any, Any] = {}
        num_inputs = sum(self._counts)
        outputs = self._read(one, other, list(range(num_inputs)))
        first = num_inputs + len(self._constants)
        for at, each in enumerate(self._constants):
            numbers[id(each)] = num_inputs + at
        for at, each in enumerate(self._steps):
            numbers[id(each[3])] = first + at

        def number(value: Any) -> int:
            return value if isinstance(value, int) else int(numbers[id(value)])

        steps = tuple(Step(name, tuple(map(number, inputs)), settings) for name, inputs, settings, _ in self._steps)
        constants = tuple(np.asarray(each.value) for each in self._constants)
        return Program(*self._counts, constants, steps, tuple(map(number, outputs)))

    def _read(self, one: Any, other: Any, inputs: Sequence[Any]) -> list[Any]:
        """Adds the steps of a trace, closed or not; returns its results."""
        constants = [self._constant(each) for each in getattr(one, "consts", ())]
        jaxpr, twin = getattr(one, "jaxpr", one), getattr(other, "jaxpr", other)
        known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *inputs), strict=True))

        def value_of(variable: Any) -> Any:
            return self._constant(variable.val, variable.aval.dtype) if hasattr(variable, "val") else known[variable]

        for equation, again in zip(jaxpr.eqns, twin.eqns, strict=True):
            given = [value_of(variable) for variable in equation.invars]
            called = next((key for key in CALLED if key in equation.params), None)
            if called is not None and equation.primitive.name in CALLS:
                results = self._read(equation.params[called], again.params[called], given)
            else:
                results = [self._step(equation, again, given)]
            known.update(zip(equation.outvars, results, strict=True))
        return [value_of(variable) for variable in jaxpr.outvars]

    def _constant(self, value: Any, dtype: Any = None) -> Any:
        self._constants.append(_Value(np.asarray(value, dtype)))
        return self._constants[-1]

    def _step(self, equation: Any, again: Any, given: list[Any]) -> Any:
        name, made = equation.primitive.name, _Value(None)
        if name in _WITH_SETTINGS:
            operation, read = _WITH_SETTINGS[name]
            settings = _merged(read(equation), read(again))
        elif name in OPERATIONS:
            operation, settings = name, ()
        else:
            raise ModelError(f"it has the operation {name}")
        self._steps.append((operation, given, settings, made))
        return made


class _Value:
    """A constant, or the result of a step."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _merged(one: Any, other: Any) -> Any:
    """Settings for any number of states, from those for both numbers of `TRACED`."""
    if isinstance(one, tuple):
        return tuple(map(_merged, one, other))
    if one == other:
        return one
    times, rest = divmod(one, TRACED[0])
    if rest or times * TRACED[1] != other:
        raise ModelError(f"it has a size that is {one} for {TRACED[0]} states and {other} for {TRACED[1]}")
    return -times


def _product(equation: Any) -> tuple[Any, ...]:
    (own, others), (batch, _) = equation.params["dimension_numbers"]
    if batch:
        raise ModelError("it has a product of batches of matrices")
    sizes = [variable.aval.ndim for variable in equation.invars]
    return tuple(own), tuple(others), sizes == [2, 2] and tuple(own) == (1,) and tuple(others) == (0,)


def _slice(equation: Any) -> tuple[Any, ...]:
    starts, ends = (tuple(equation.params[key]) for key in ("start_indices", "limit_indices"))
    return starts, ends, tuple(equation.params["strides"] or (1,) * len(starts))


def _power(equation: Any) -> tuple[Any, ...]:
    exponent = equation.params["y"]
    return abs(exponent), exponent < 0


def _of(*keys: str) -> Callable[[Any], tuple[Any, ...]]:
    """Reads parameters of these names."""

    def read(equation: Any) -> tuple[Any, ...]:
        found = [equation.params[key] for key in keys]
        return tuple(tuple(each) if isinstance(each, list | tuple) else each for each in found)

    return read


def _counted(equation: Any) -> tuple[Any, ...]:
    params = equation.params
    return str(np.dtype(params["dtype"])), tuple(params["shape"]), params["dimension"]


def _argument(equation: Any) -> tuple[Any, ...]:
    return equation.params["axes"][0], str(np.dtype(equation.params["index_dtype"]))


_WITH_SETTINGS: dict[str, tuple[str, Callable[[Any], tuple[Any, ...]]]] = {
    "dot_general": ("product", _product),
    "integer_pow": ("integer_pow", _power),
    "convert_element_type": ("convert", lambda equation: (str(np.dtype(equation.params["new_dtype"])),)),
    "broadcast_in_dim": ("broadcast", _of("shape", "broadcast_dimensions")),
    "iota": ("iota", _counted),
    "reshape": ("reshape", _of("new_sizes")),
    "squeeze": ("reshape", lambda equation: (tuple(equation.outvars[0].aval.shape),)),
    "expand_dims": ("reshape", lambda equation: (tuple(equation.outvars[0].aval.shape),)),
    "transpose": ("transpose", _of("permutation")),
    "concatenate": ("concatenate", _of("dimension")),
    "slice": ("slice", _slice),
    "reduce_sum": ("sum", _of("axes")),
    "reduce_max": ("reduce_max", _of("axes")),
    "reduce_min": ("reduce_min", _of("axes")),
    "argmax": ("argmax", _argument),
    "argmin": ("argmin", _argument),
}
"""Operation of JAX -> that of a program, and what reads its settings."""
