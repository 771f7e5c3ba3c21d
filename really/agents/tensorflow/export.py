"""Export: traces a Keras model with its weights as arguments, converts it, verifies it and chooses the fastest form.

A candidate must agree with the model on random observations, under the model's own weights and under two random sets
of weights that give different outputs. So a candidate that ignores its weight arguments is rejected. The model is not
changed: weights, decorators and random state stay as they are.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from gymnasium import spaces
from numpy.typing import NDArray

from really._utils.quiet import PAGES, without_start_lines
from really.agents.recurrent import called
from really.agents.tensorflow.outputs import as_tensors
from really.agents.tensorflow.switches import in_half_precision, in_single_precision, undecorated, unrolled
from really.agents.verification import CALLS, Timing, disagreement, random_leaves, seconds_per_call
from really.data.schema import Spec
from really.data.spaces import nest
from really.errors import ModelError, summary
from really.policies.inference import Build, Exported, Patch, load
from really.policies.model_inputs import model_leaves
from really.policies.model_state import ModelState
from really.policies.outputs import OutputForms

# Seconds for a call below which packed weights are not tried: a step costs more than that elsewhere.
NOTHING_TO_GAIN = 10e-6
# Seconds for a call below which TensorFlow's own compilers are not tried: they cost a runner 500 MB and a slow start.
GOOD_WITHOUT_TENSORFLOW = 100e-6
# For those 500 MB a candidate that needs TensorFlow must be faster by this factor.
WORTH_TENSORFLOW = 1.25

# Bytes of weights from which packing them once saves more time than setting them takes.
LARGE_MODEL = 1 << 20

# Distance of 1 from the next number.
PRECISION = {"float16": 2.0**-10, "bfloat16": 2.0**-7}

# Outputs that runners compute in float32 where the model computes them in half precision. A learner divides by the
# probabilities of a policy's outputs, which it computes anew in the model's precision.
VALUES = {"q_values", "v_estimate", "value_estimate"}

# Operations that LiteRT does not have for these dtypes.
ARITHMETIC = ("MatMul", "BatchMatMulV2", "Conv2D", "BiasAdd")
NOT_SINGLE = tuple(dtype.as_datatype_enum for dtype in (tf.float16, tf.bfloat16, tf.float64))
# Dtypes of weights that candidates take as arguments.
FLOATS = {"float16", "bfloat16", "float32", "float64"}

Arrays = Sequence[NDArray[Any]]
Outputs = Mapping[str, NDArray[Any]]


class _CannotExportError(Exception):
    """The reason for rejecting a candidate; the report shows it."""


@dataclass(frozen=True)
class _Trial:
    """Weights, observations, and the model's outputs for them.

    `precision` is for each output the distance of 1 from the next number in a half-precision dtype of the model, or 0.
    """

    weights: Arrays
    leaves: Arrays
    expected: Outputs
    precision: Mapping[str, float]


def export(
    model: Any,
    observation_space: spaces.Space[Any],
    batch_size: int,
    build: Build,
    repeatable: bool = False,
    forms: OutputForms | None = None,
    names: Sequence[str] = (),
    calls: int = CALLS,
) -> Exported:
    """Exports `model` in the fastest form that agrees with it, timed for runners with `batch_size` environments.

    The export can be loaded for any other batch size too. A model that must run as Python (side effects, state, dropout
    while acting, weights that are not floats, inputs that cannot be traced) is built by the runner with `build`.

    Args:
        model: a built Keras model; any other callable is called as it is.
        observation_space: candidates are verified with random elements of it.
        batch_size: number of states with which candidates are timed.
        build: builds the model in a runner; picklable.
        repeatable: True takes the first candidate that agrees, in an order that depends on the model's size. The
            fastest candidate may differ from run to run, and the last bit of the outputs with it.
        forms: how the model's outputs become arrays with a batch axis; None exports all outputs as the model gives
            them.
        names: with `forms`, the outputs that are exported.
        calls: how many calls of a runner have the same weights, at the least. A candidate's cost is the time of a
            call plus its share in setting weights, once in so many calls.

    Raises:
        ModelError: the model reads a variable that it does not hold, so that runners could not have it.
    """
    leaves, state = model_leaves(observation_space), ModelState(model)
    shapes = tuple(tuple(variable.shape) for variable in state.variables)
    base = Exported("eager", b"", leaves, tuple(sorted(names)), shapes, forms=forms)
    try:
        _expect_keras(state)
        _expect_batches(forms)
        in_form = _InForm(model, forms, base.output_names)
        function = _trace(in_form, state, observation_space, base.leaves)
        trials = _trials(in_form, state, observation_space, batch_size)
    except _CannotExportError as reason:
        return _as_python(base, build, observation_space, {"eager": f"the model is called as it is: {reason}"})
    base = replace(base, output_names=tuple(trials[0].expected))
    found, report = dict[Exported, float](), dict[str, str]()
    if set(base.output_names) <= VALUES and (layers := in_half_precision(layer for _, layer in state.layers)):
        with contextlib.suppress(_CannotExportError), in_single_precision(layers):
            single = _trace(in_form, state, observation_space, base.leaves)
            found, report = _measure(single, base, trials, batch_size, repeatable, calls)
            report = {kind: f"{told}, in float32" for kind, told in report.items()}
    if not found:
        found, report = _measure(function, base, trials, batch_size, repeatable, calls)
    if not found:
        return _as_python(base, build, observation_space, {**report, "eager": "the model is called as it is"})
    return replace(min(found, key=lambda candidate: found[candidate]), report=report)


def _as_python(base: Exported, build: Build, space: spaces.Space[Any], report: dict[str, str]) -> Exported:
    """The export that makes each runner build the model and call it as Python."""
    return replace(base, build=build, observation_space=space, report=report)


def _measure(
    function: Any,
    base: Exported,
    trials: Sequence[_Trial],
    batch_size: int,
    repeatable: bool = False,
    calls: int = CALLS,
) -> tuple[dict[Exported, float], dict[str, str]]:
    """Returns the cost of each candidate that agrees with the model, and a report on each kind."""
    makers: dict[str, Callable[[], Exported]] = {
        "litert": lambda: replace(base, kind="litert", payload=_convert(function)),
        "litert_static": lambda: _static(function, base, trials[1].weights),
        "xla": lambda: _graph(function, base, "xla"),
        "tf.function": lambda: _graph(function, base, "tf.function"),
    }
    found: dict[Exported, float] = {}
    report: dict[str, str] = {}
    for kind in _order(trials[0].weights, repeatable):
        make = makers[kind]
        if repeatable and found:
            report[kind] = "not tried: with a seed the first kind that agrees is taken, whatever the time"
            continue
        best = min(found.values(), default=np.inf)
        if best < (NOTHING_TO_GAIN if kind == "litert_static" else GOOD_WITHOUT_TENSORFLOW):
            report[kind] = f"not tried: a call takes {best * 1e6:.1f} µs without it"
            continue
        try:
            candidate = make()
            timing = Timing(*_verify_and_time(candidate, trials, batch_size))
        except Exception as error:  # a converter may raise anything; it rejects the candidate
            report[kind] = f"rejected: {summary(error)}"
        else:
            report[kind] = timing.told(batch_size)
            handicap = 1.0 if kind.startswith("litert") else WORTH_TENSORFLOW
            found[candidate] = timing.cost(calls) * handicap
    return found, report


def _order(weights: Arrays, repeatable: bool) -> tuple[str, ...]:
    """The kinds, in the order in which they are tried."""
    large = repeatable and sum(weight.nbytes for weight in weights) > LARGE_MODEL
    first = ("litert_static", "litert") if large else ("litert", "litert_static")
    return (*first, "xla", "tf.function")


def _verify_and_time(candidate: Exported, trials: Sequence[_Trial], batch_size: int) -> tuple[float, float]:
    """Returns the seconds of a call and of setting weights. Raises _CannotExportError if an output differs."""
    forward = load(candidate, batch_size)
    setting = np.inf
    for trial in trials:
        started = time.perf_counter()
        forward.set_weights(trial.weights)
        setting = min(setting, time.perf_counter() - started)
        got = forward(trial.leaves)
        for name, expected in trial.expected.items():
            _expect_close(name, got[name], expected, trial.precision[name])
    return seconds_per_call(forward, trials[0].leaves), setting


def _expect_close(name: str, got: NDArray[Any], expected: NDArray[Any], precision: float) -> None:
    if reason := disagreement(name, got, expected, precision):
        raise _CannotExportError(reason)


# The model as a function of its weights


class _InForm:
    """A model whose call gives the outputs that are exported, with a batch axis; without forms it is the model."""

    def __init__(self, model: Any, forms: OutputForms | None, names: Sequence[str]) -> None:
        self._model, self._forms, self._names = model, forms, names
        layout = None if forms is None else forms.recurrent
        self._called = called(model, layout)
        layers = [layer for _, layer in ModelState(model).layers]
        self._loops = layers if layout else []
        dtypes = {str(getattr(layer, "compute_dtype", None)) for layer in layers}
        self._precision = max((PRECISION.get(dtype, 0.0) for dtype in dtypes), default=0.0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def with_precision(self, inputs: Any) -> tuple[Mapping[str, Any], dict[str, float]]:
        """The outputs, and for each the distance of 1 from the next number in the coarsest dtype that led to it."""
        outputs = self._outputs(inputs)
        dtypes = {name: tf.convert_to_tensor(outputs[name]).dtype.name for name in self._names or outputs}
        own = {name: PRECISION.get(dtype, 0.0) for name, dtype in dtypes.items()}
        return self._in_form(outputs), {name: max(own[name], self._precision) for name in own}

    def __call__(self, inputs: Any) -> Mapping[str, Any]:
        return self._in_form(self._outputs(inputs))

    def _outputs(self, inputs: Any) -> Mapping[str, Any]:
        with unrolled(self._loops):
            outputs: Mapping[str, Any] = self._called(inputs)
        return outputs

    def _in_form(self, outputs: Mapping[str, Any]) -> Mapping[str, Any]:
        return outputs if self._forms is None else as_tensors(self._forms, outputs, self._names, double=True)


def _expect_batches(forms: OutputForms | None) -> None:
    if forms is not None and forms.one_by_one:
        raise _CannotExportError("it takes one state at a time")


def _call_with(model: Any, state: ModelState, weights: Sequence[Any], inputs: Any) -> dict[str, Any]:
    """The model's outputs, sorted by name, with `weights` in place of its own; `__call__` may be overridden."""
    mapping = [pair for pair in zip(state.variables, weights, strict=True) if isinstance(pair[0], keras.Variable)]
    tensors = [keras.ops.convert_to_tensor(weight) for weight in weights[: len(state.variables)]]
    scope = keras.StatelessScope(state_mapping=mapping)
    with undecorated(), scope, state.finalized(), state.replaced(tensors):
        outputs = model(inputs)
    if len(scope.state_mapping) > len(mapping):
        raise _CannotExportError("it changes its state while acting, as dropout and running averages do")
    return {name: tf.convert_to_tensor(outputs[name]) for name in sorted(outputs)}


def _trace(model: Any, state: ModelState, space: spaces.Space[Any], leaves: Spec) -> Any:
    """The concrete function from leaves [None, ...] and weights to the outputs, in the order of their names."""
    specs = [tf.TensorSpec((None, *leaf.shape), leaf.dtype, f"x{at}") for at, leaf in enumerate(leaves.values())]
    specs += [tf.TensorSpec(w.shape, w.dtype, f"w{at}") for at, w in enumerate(state.variables)]

    def function(*arguments: Any) -> list[Any]:
        inputs, weights = arguments[: len(leaves)], arguments[len(leaves) :]
        return list(_call_with(model, state, weights, nest(space, inputs)).values())

    with _as_reason("it cannot be traced"):
        traced = tf.function(function, autograph=False).get_concrete_function(*specs)
    _expect_own_variables(traced.graph.variables, state)
    if traced.captured_inputs:
        raise _CannotExportError("it reads variables or constants that are not among its weights")
    stateful = sorted({op.type for op in traced.graph.get_operations() if op.op_def.is_stateful})
    if stateful:
        raise _CannotExportError(f"its graph has side effects or randomness ({', '.join(stateful)})")
    _expect_float_weights(traced, state, len(leaves))
    return traced


def _expect_own_variables(variables: Sequence[Any], state: ModelState) -> None:
    """Raises ModelError for a variable that is not held by the model, such as a global one."""
    own = {id(each.value if isinstance(each, keras.Variable) else each) for each in state.variables}
    if names := sorted(variable.name for variable in variables if id(variable) not in own):
        raise ModelError(
            f"model: expected every variable that it reads to be held by it or by one of its layers, got "
            f"{', '.join(map(repr, names))}: runners and copies would not have the values; make it an attribute"
        )


@contextlib.contextmanager
def _as_reason(what: str) -> Iterator[None]:
    try:
        yield
    except _CannotExportError:
        raise
    except Exception as error:
        raise _CannotExportError(f"{what}: {summary(error)}") from error


def _convert(function: Any) -> bytes:
    _expect_convertible(function)
    # Without a trackable object the converter keeps argument names and writes no files.
    logger = logging.getLogger("absl")
    logger.addFilter(_not_about_trackable)
    try:
        with without_start_lines(PAGES):
            return bytes(tf.lite.TFLiteConverter.from_concrete_functions([function]).convert())
    finally:
        logger.removeFilter(_not_about_trackable)


def _expect_convertible(function: Any) -> None:
    """Raises _CannotExportError for arithmetic that is not float32, which LiteRT does not have."""
    graph = function.graph.as_graph_def()
    nodes = itertools.chain(graph.node, *(part.node_def for part in graph.library.function))
    if found := sorted({node.op for node in nodes if node.op in ARITHMETIC and node.attr["T"].type in NOT_SINGLE}):
        raise _CannotExportError(f"LiteRT knows neither half nor double precision ({', '.join(found)})")


def _not_about_trackable(record: logging.LogRecord) -> bool:
    return "trackable_obj" not in record.getMessage()


def _graph(function: Any, base: Exported, kind: str) -> Exported:
    payload = function.graph.as_graph_def().SerializeToString()
    return replace(base, kind=kind, payload=payload, fetches=tuple(out.name for out in function.outputs))


# Weights as constants in the flatbuffer


def _static(function: Any, base: Exported, weights: Arrays) -> Exported:
    """A flatbuffer with random weights as constants, and the place of each of them.

    XNNPACK packs constants once: 2 to 5 times faster than weights that are inputs. The converter may transpose a
    weight or fold a constant factor into it. A weight that it changes in another way stays an input.
    """
    payload = _convert_closed(function, len(base.leaves), dict(enumerate(weights)))
    found = {patch.weight: weights[patch.weight] for patch in _patches(payload, weights)}
    if len(found) < len(weights):
        payload = _convert_closed(function, len(base.leaves), found)
    patches = _patches(payload, weights)
    if not patches:
        raise _CannotExportError("no weight stands in the flatbuffer as a constant")
    return replace(base, kind="litert_static", payload=payload, patches=patches)


def _convert_closed(function: Any, leaves: int, constants: Mapping[int, NDArray[Any]]) -> bytes:
    """The flatbuffer of `function`, with the weights in `constants` as constants."""
    specs = function.structured_input_signature[0]
    inputs = [at for at in range(len(specs)) if at - leaves not in constants]

    def closed(*given: Any) -> Any:
        values = dict(zip(inputs, given, strict=True))
        values |= {leaves + at: tf.constant(weight) for at, weight in constants.items()}
        return function(*(values[at] for at in range(len(specs))))

    return _convert(tf.function(closed, autograph=False).get_concrete_function(*(specs[at] for at in inputs)))


def _patches(payload: bytes, weights: Arrays) -> tuple[Patch, ...]:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(payload, 0)
    content = np.frombuffer(payload, np.uint8)
    found = []
    for at in range(model.BuffersLength()):
        data = model.Buffers(at).DataAsNumpy()
        if isinstance(data, np.ndarray) and data.size and data.size % 4 == 0:
            offset = data.__array_interface__["data"][0] - content.__array_interface__["data"][0]
            found += [patch for w, weight in enumerate(weights) for patch in _match(data, offset, w, weight)]
    return tuple(found)


def _match(data: NDArray[np.uint8], offset: int, at: int, weight: NDArray[Any]) -> list[Patch]:
    """The Patch that turns `weight` into `data` by a permutation of axes and a factor; empty if there is none."""
    stored = data.view(np.float32)
    if weight.dtype != np.float32 or weight.size != stored.size or weight.ndim > 4:
        return []
    for permutation in itertools.permutations(range(weight.ndim)):
        flat = np.transpose(weight, permutation).ravel()
        scale = float(stored[0]) / float(flat[0])
        # With few elements a factor can make anything fit.
        scale = 1.0 if abs(scale - 1.0) < 1e-6 or flat.size < 4 else scale
        if np.allclose(stored[:8], flat[:8] * scale, rtol=1e-5) and np.allclose(stored, flat * scale, rtol=1e-5):
            return [Patch(at, offset, permutation, scale)]
    return []


# Observations and weights with which candidates are verified


def _expect_keras(state: ModelState) -> None:
    if not state.is_keras:
        raise _CannotExportError("it is not a Keras model")


def _expect_float_weights(function: Any, state: ModelState, num_leaves: int) -> None:
    """Weights that are no floats, as the count of `Normalization`, may be there if outputs do not depend on them."""
    inputs = function.inputs[num_leaves : num_leaves + len(state.variables)]
    odd = sorted({tensor.dtype.name for tensor in inputs if tensor.consumers()} - FLOATS)
    if odd:
        raise _CannotExportError(f"it has weights of dtype {', '.join(odd)}")


def _trials(model: Any, state: ModelState, space: spaces.Space[Any], batch_size: int) -> list[_Trial]:
    """The model's outputs under its own weights and under two random sets.

    Raises _CannotExportError if these outputs cannot tell a right candidate from a wrong one.
    """
    rng = np.random.default_rng(0)
    leaves = random_leaves(space, batch_size, rng)
    sets = [state.get(), _random_weights(state, rng), _random_weights(state, rng)]
    with _as_reason("it cannot be called with weights as arguments"):
        inputs = nest(space, leaves)
        plain, precision = model.with_precision(inputs)
        trials = [_Trial(weights, leaves, _expected(model, state, weights, inputs), precision) for weights in sets]
    for name, expected in trials[0].expected.items():
        _expect_close(name, np.asarray(plain[name]), expected, precision[name])
    first, second = trials[1].expected, trials[2].expected
    if state.variables and all(np.array_equal(first[name], second[name]) for name in first):
        raise _CannotExportError("its outputs do not depend on its weights, so that an export cannot be checked")
    return trials


def _expected(model: Any, state: ModelState, weights: Arrays, inputs: Any) -> Outputs:
    tensors = [tf.constant(weight) for weight in weights]
    return {name: value.numpy() for name, value in _call_with(model, state, tensors, inputs).items()}


def _random_weights(state: ModelState, rng: np.random.Generator) -> list[NDArray[Any]]:
    """Random weights that keep outputs moderate; a weight that is all positive, such as a variance, stays positive."""
    return [_random_like(np.asarray(weight), rng) for weight in state.get()]


def _random_like(weight: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    if weight.size and (weight > 0).all():
        return np.asarray(weight * rng.uniform(0.5, 1.5, weight.shape), weight.dtype)
    fan_in = max(1, int(np.prod(weight.shape[:-1])))
    return np.asarray(rng.standard_normal(weight.shape) / np.sqrt(fan_in), weight.dtype)
