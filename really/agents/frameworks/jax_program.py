"""A function of JAX as a program of array operations, which runners compute with NumPy, without JAX.

A call of a compiled function takes JAX tens of microseconds, whatever is in it: several times what NumPy needs for a
small network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from really.agents.frameworks.programs import TRACED, ProgramWriter, Value, exported, merged
from really.agents.frameworks.protocol import ExportRequest
from really.data.spaces import nest
from really.errors import ModelError
from really.policies.array_program import OPERATIONS, Program
from really.policies.inference import Exported
from really.policies.jax_state import JaxModel, JaxState, is_key
from really.policies.model_inputs import model_leaves

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
    program = _Reader(ProgramWriter(list(specs.values()), weights)).program(*traced)
    return exported(request, specs, weights, program)


class _Reader:
    """Reads two traces of one function side by side."""

    def __init__(self, writer: ProgramWriter) -> None:
        self._writer = writer

    def program(self, one: Any, other: Any) -> Program:
        """The program of two closed traces."""
        return self._writer.program(self._read(one, other, self._writer.inputs))

    def _read(self, one: Any, other: Any, inputs: Sequence[Value]) -> list[Value]:
        """Adds the steps of a trace, closed or not; returns its results."""
        pairs = zip(getattr(one, "consts", ()), getattr(other, "consts", ()), strict=True)
        constants = [self._constant(*pair) for pair in pairs]
        jaxpr, twin = getattr(one, "jaxpr", one), getattr(other, "jaxpr", other)
        known: dict[Any, Value] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *inputs), strict=True))

        def value_of(variable: Any, again: Any) -> Value:
            if hasattr(variable, "val"):
                return self._constant(variable.val, again.val, variable.aval.dtype)
            return known[variable]

        for equation, again in zip(jaxpr.eqns, twin.eqns, strict=True):
            given = list(map(value_of, equation.invars, again.invars))
            called = next((key for key in CALLED if key in equation.params), None)
            if called is not None and equation.primitive.name in CALLS:
                results = self._read(equation.params[called], again.params[called], given)
            else:
                results = [self._step(equation, again, given)]
            known.update(zip(equation.outvars, results, strict=True))
        return list(map(value_of, jaxpr.outvars, twin.outvars))

    def _constant(self, value: Any, again: Any, dtype: Any = None) -> Value:
        """A constant; raises ModelError if it depends on the number of states."""
        if not np.array_equal(np.asarray(value), np.asarray(again), equal_nan=np.asarray(value).dtype.kind == "f"):
            raise ModelError("it has a constant that depends on the number of states")
        return self._writer.constant(value, dtype)

    def _step(self, equation: Any, again: Any, given: list[Value]) -> Value:
        name = equation.primitive.name
        if name == "dot_general" and _is_matrix_product(equation):
            return self._writer.product(*given)
        if name in _WITH_SETTINGS:
            operation, read = _WITH_SETTINGS[name]
            settings = merged(read(equation), read(again))
        elif name in OPERATIONS:
            operation, settings = name, ()
        else:
            raise ModelError(f"it has the operation {name}")
        made, twin = equation.outvars[0].aval, again.outvars[0].aval
        return self._writer.step(operation, given, settings, merged(made.shape, twin.shape), made.dtype)


def _product(equation: Any) -> tuple[Any, ...]:
    (own, others), (batch, _) = equation.params["dimension_numbers"]
    if batch:
        raise ModelError("it has a product of batches of matrices")
    return tuple(own), tuple(others)


def _is_matrix_product(equation: Any) -> bool:
    """Whether this is a product `[m, k]` x `[k, n]`."""
    (own, others), _ = equation.params["dimension_numbers"]
    sizes = [variable.aval.ndim for variable in equation.invars]
    return sizes == [2, 2] and tuple(own) == (1,) and tuple(others) == (0,)


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
