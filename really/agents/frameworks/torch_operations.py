"""Operations of PyTorch as steps of a program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from really.agents.frameworks.programs import TRACED, Value, merged
from really.agents.frameworks.torch_calls import Call, Part
from really.errors import ModelError


def _product(call: Call) -> Value:
    return call.writer.product(call.tensor(0), call.tensor(1))


def _with_bias(call: Call) -> Value:
    if any(call.kwargs.get(name, 1) != 1 for name in ("alpha", "beta")):
        raise ModelError("it has the operation addmm with factors")
    return call.step("add", call.writer.product(call.tensor(1), call.tensor(2)), call.tensor(0))


def _sum_of_two(call: Call) -> Value:
    if call.kwargs.get("alpha", 1) != 1:
        raise ModelError(f"it has the operation {call.name} with a factor")
    return call.step(call.name, *call.tensors())


def _clamped(call: Call) -> Value:
    value = call.tensors()[0]
    for at, (name, operation) in enumerate((("min", "max"), ("max", "min")), 1):
        bound = call.argument(at, name)
        if bound is not None:
            value = call.step(operation, value, call.constant(bound))
    return value


def _rectified(call: Call) -> Value:
    return call.step("max", call.tensor(0), call.constant(0))


def _leaky(call: Call) -> Value:
    value, slope = call.tensor(0), call.constant(call.argument(1, "negative_slope", 0.01))
    return _where(call, call.step("gt", value, call.constant(0)), value, call.step("mul", value, slope))


def _elu(call: Call) -> Value:
    alpha, scale, inner = (call.argument(at, name, 1) for at, name in enumerate(("alpha", "scale", "input_scale"), 1))
    value = call.tensor(0)
    below = call.step("expm1", call.step("mul", value, call.constant(inner)))
    below = call.step("mul", below, call.constant(alpha * scale))
    above = call.step("mul", value, call.constant(scale))
    return _where(call, call.step("gt", value, call.constant(0)), above, below)


def _where(call: Call, which: Value, yes: Value, no: Value) -> Value:
    return call.step("select_n", which, no, yes)


def _gelu(call: Call) -> Value:
    if call.kwargs.get("approximate", "none") != "tanh":
        raise ModelError("it has the operation gelu: GELU(approximate='tanh') has a program")
    x = call.tensor(0)
    cube = call.step("mul", call.step("mul", x, x), x)
    inner = call.step("add", x, call.step("mul", cube, call.constant(0.044715)))
    bent = call.step("tanh", call.step("mul", inner, call.constant(np.sqrt(2 / np.pi))))
    return call.step("mul", call.step("mul", x, call.constant(0.5)), call.step("add", bent, call.constant(1)))


def _kept(call: Call, operation: str, value: Value, axes: tuple[int, ...]) -> Value:
    """A reduction that keeps the axes, with size 1."""
    shape = tuple(1 if at in axes else size for at, size in enumerate(value.shape))
    return call.step("reshape", call.step(operation, value, settings=(axes,)), settings=(shape,), shape=shape)


def _reduction(operation: str) -> Callable[[Call], Value]:
    return lambda call: call.reshaped(call.step(operation, call.tensor(0), settings=(call.axes(),)))


def _deviations(call: Call, value: Value, axes: tuple[int, ...]) -> Value:
    return call.step("sub", value, _kept(call, "mean", value, axes), shape=value.shape)


def _variance(call: Call) -> Value:
    value, axes = call.tensor(0), call.axes()
    count = np.prod([value.shape[axis] for axis in axes])
    if any(value.shape[axis] < 0 for axis in axes):
        raise ModelError("it has a variance over states")
    total = call.step("sum", call.step("square", _deviations(call, value, axes), shape=value.shape), settings=(axes,))
    return call.reshaped(call.step("div", total, call.constant(count - call.kwargs.get("correction", 1))))


def _softmax(call: Call, log: bool = False) -> Value:
    value, axes = call.tensor(0), call.axes()
    less = call.step("sub", value, _kept(call, "reduce_max", value, axes))
    powers = call.step("exp", less)
    total = _kept(call, "sum", powers, axes)
    return call.step("sub", less, call.step("log", total)) if log else call.step("div", powers, total)


def _norm(call: Call) -> Value:
    if call.argument(1, "ord", 2) != 2:
        raise ModelError("it has a norm that is not the Euclidean one")
    squares = call.step("square", call.tensor(0), shape=call.tensor(0).shape)
    return call.reshaped(call.step("sqrt", call.step("sum", squares, settings=(call.axes(2),))))


def _layer_norm(call: Call) -> tuple[Value, ...]:
    _, shape, weight, bias, eps = call.args
    x = call.tensor(0)
    part = Part(call)
    axes = tuple(range(len(x.shape) - len(shape), len(x.shape)))
    less = part.step("sub", x, _kept(part, "mean", x, axes))
    variance = _kept(part, "mean", part.step("square", less), axes)
    scale = part.step("sqrt", part.step("add", variance, part.constant(eps)))
    made = part.step("div", less, scale)
    for at, (given, operation) in enumerate(((weight, "mul"), (bias, "add")), 2):
        made = made if given is None else part.step(operation, made, call.tensor(at))
    return (made,)


def _batch_norm(call: Call) -> tuple[Value, ...]:
    *_, eps = call.args
    training = call.args[5] if "no_training" not in call.name else False
    if training or call.args[3] is None:
        raise ModelError("it has the operation batch_norm with statistics of the batch")
    part = Part(call)
    mean, variance = call.tensor(3), call.tensor(4)
    scale = part.step("rsqrt", part.step("add", variance, part.constant(eps), shape=mean.shape), shape=mean.shape)
    if call.args[1] is not None:
        scale = part.step("mul", scale, call.tensor(1), shape=mean.shape)
    shift = part.step("neg", part.step("mul", mean, scale, shape=mean.shape), shape=mean.shape)
    if call.args[2] is not None:
        shift = part.step("add", shift, call.tensor(2), shape=mean.shape)
    x = call.tensor(0)
    wide = (1, *mean.shape, *(1 for _ in x.shape[2:]))
    scale, shift = (part.step("reshape", each, settings=(wide,), shape=wide) for each in (scale, shift))
    return (part.step("add", part.step("mul", x, scale), shift),)


def _extremum(call: Call) -> tuple[Value, Value]:
    part, axes = Part(call), call.axes()
    largest = part.reshaped(part.step(f"reduce_{call.name}", call.tensor(0), settings=(axes,)))
    places = part.step(f"arg{call.name}", call.tensor(0), settings=(axes[0], "int64"))
    return largest, part.reshaped(places)


def _argument(call: Call) -> Value:
    if call.argument(1, "dim") is None:
        raise ModelError(f"it has the operation {call.name} over states")
    return call.reshaped(call.step(call.name, call.tensor(0), settings=(call.axes()[0], "int64")))


def _joined(call: Call) -> Value:
    values = [call.reader.value(*pair, None) for pair in zip(call.args[0], call.again.args[0], strict=True)]
    return call.step("concatenate", *values, settings=(call.argument(1, "dim", 0) % len(call.shape),))


def _part_of(call: Call, axis: int, start: int, end: int, stride: int, shape: tuple[int, ...]) -> Value:
    """A slice of the first argument along an axis that does not grow with the number of states."""
    value = call.tensor(0)
    axis, size = axis % len(value.shape), value.shape[axis]
    if size < 0:
        if start == 0 and end >= TRACED[0] * -size and stride == 1:
            return value
        raise ModelError("it takes some of the states")
    start, end, _ = slice(start, end).indices(size)
    starts = tuple(start if at == axis else 0 for at in range(len(value.shape)))
    ends = tuple(end if at == axis else full for at, full in enumerate(value.shape))
    strides = tuple(stride if at == axis else 1 for at in range(len(value.shape)))
    return call.writer.step("slice", (value,), (starts, ends, strides), shape, value.dtype)


def _sliced(call: Call) -> Value:
    axis, start, end, stride = (
        call.argument(at, name, default)
        for at, (name, default) in enumerate((("dim", 0), ("start", 0), ("end", None), ("step", 1)), 1)
    )
    return _part_of(call, axis, start or 0, 1 << 62 if end is None else end, stride, call.shape)


def _selected(call: Call) -> Value:
    axis, at = call.args[1], call.args[2]
    size = call.tensor(0).shape[axis]
    if size < 0:
        raise ModelError("it takes some of the states")
    return call.reshaped(_part_of(call, axis, at % size, at % size + 1, 1, call.shape))


def _split(call: Call) -> tuple[Value, ...]:
    axis, found, start = call.argument(2, "dim", 0), [], 0
    shapes = [
        merged(tuple(one.shape), tuple(other.shape))
        for one, other in zip(call.node.meta["val"], call.again.meta["val"], strict=True)
    ]
    for shape, size in zip(shapes, call.args[1], strict=True):
        found.append(_part_of(call, axis, start, start + size, 1, shape))
        start += size
    return tuple(found)


def _filled(call: Call) -> Value:
    number = call.args[0] if call.name == "scalar_tensor" else call.args[1]
    return _expanded(call, call.constant(number))


def _expanded(call: Call, value: Value | None = None) -> Value:
    value = call.tensor(0) if value is None else value
    places = tuple(range(len(call.shape) - len(value.shape), len(call.shape)))
    return call.step("broadcast", value, settings=(call.shape, places))


def _counted(call: Call) -> Value:
    if call.args != call.again.args:
        raise ModelError("it counts the states")
    return call.writer.constant(np.arange(*call.args), call.dtype)


SIMPLE: dict[str, str] = {
    name: name for name in ("tanh", "exp", "log", "log1p", "expm1", "sqrt", "rsqrt", "sin", "cos", "sign")
}
SIMPLE |= {name: name for name in ("floor", "ceil", "neg", "abs", "mul", "div", "eq", "ne", "lt", "le", "gt", "ge")}
SIMPLE |= {"sigmoid": "logistic", "maximum": "max", "minimum": "min", "pow": "pow", "square": "square"}
SIMPLE |= {"remainder": "mod", "round": "round", "bmm": "matrix_product"}
SIMPLE |= {"logical_and": "and", "logical_or": "or", "logical_not": "not", "bitwise_not": "not"}
SIMPLE |= {"bitwise_and": "and", "bitwise_or": "or"}
SIMPLE |= dict.fromkeys(("clone", "detach", "alias", "lift_fresh_copy"), "copy")
"""Operation of PyTorch -> that of a program with the same inputs."""

SPECIAL: dict[str, Callable[[Call], Any]] = {
    "mm": _product,
    "addmm": _with_bias,
    "add": _sum_of_two,
    "sub": _sum_of_two,
    "relu": _rectified,
    "clamp": _clamped,
    "hardtanh": _clamped,
    "leaky_relu": _leaky,
    "elu": _elu,
    "gelu": _gelu,
    "where": lambda call: _where(call, *call.tensors()),
    "mean": _reduction("mean"),
    "sum": _reduction("sum"),
    "amax": _reduction("reduce_max"),
    "amin": _reduction("reduce_min"),
    "max": _extremum,
    "min": _extremum,
    "argmax": _argument,
    "argmin": _argument,
    "var": _variance,
    "_softmax": _softmax,
    "_log_softmax": lambda call: _softmax(call, True),
    "linalg_vector_norm": _norm,
    "native_layer_norm": _layer_norm,
    "native_batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "_to_copy": lambda call: call.step("convert", call.tensor(0), settings=(str(call.dtype),)),
    "permute": lambda call: call.step("transpose", call.tensor(0), settings=(call.axes(),)),
    **{name: lambda call: call.reshaped(call.tensor(0)) for name in ("view", "_unsafe_view", "unsqueeze", "squeeze")},
    "expand": _expanded,
    "cat": _joined,
    "slice": _sliced,
    "select": _selected,
    "split_with_sizes": _split,
    "full": _filled,
    "full_like": _filled,
    "scalar_tensor": _filled,
    "arange": _counted,
    "empty": lambda call: call.constant(0),
}
"""Operation of PyTorch -> what writes its steps."""
