"""A model's forward pass in a runner: LiteRT, ONNX Runtime, NumPy, a TensorFlow graph, or the model itself.

The adapters of `agents/frameworks/` make an `Exported`; `load` turns it into a `Forward` in the runner's process. With
LiteRT the outputs for a state are the same to the bit for any number of other states in the batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really._utils._step import fill
from really._utils.quiet import without_interpreter_line
from really.data.schema import Spec
from really.data.spaces import nest
from really.errors import ModelError
from really.policies.array_program import Evaluator, Program
from really.policies.model_inputs import check_weights
from really.policies.outputs import OutputForms
from really.policies.recurrent import RecurrentLayout

Leaves = Sequence[NDArray[Any]]
Model = Callable[[Any], Mapping[str, Any]]
Build = Callable[[], tuple[Model, Callable[[Sequence[NDArray[Any]]], None]]]
"""Builds a model in the runner's process: returns the model, and the function that sets its weights."""

# XNNPACK computes a single row with another kernel, whose last bit may differ. So one row is computed as two.
MIN_ROWS = 2
ONNX_TYPES: dict[str, np.dtype[Any]] = {
    f"tensor({({'float32': 'float', 'float64': 'double'}).get(name, name)})": np.dtype(name)
    for name in ("float32", "float64", "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
}


@dataclass(frozen=True)
class Patch:
    """Place of a weight in a flatbuffer: at byte `offset` stands `transpose(weight, permutation) * scale`."""

    weight: int
    offset: int
    permutation: tuple[int, ...]
    scale: float


@dataclass(frozen=True, eq=False)
class Exported:
    """A model in the form that runners load; picklable.

    Attributes:
        kind: 'litert' (weights are inputs), 'litert_static' (weights are constants, patched in place), 'xla',
            'tf.function', 'onnx' (weights are inputs), 'onnx_static' (weights are constants of a session), 'numpy' (a
            program), or 'eager', 'torch' and 'jax' (the runner builds the model and calls it as Python).
        payload: the flatbuffer, the serialised GraphDef, or the graph of ONNX; empty for 'eager'.
        leaves: the arrays of an observation, as `Forward` takes them.
        output_names: keys of the outputs that are computed, in the order of `fetches`.
        weight_shapes: shape of each array that `set_weights` takes.
        weight_dtypes: for a graph of ONNX, their dtypes.
        constants: for 'onnx_static', numbers of the weights that the graph reads.
        fetches: names of the output tensors in a GraphDef.
        patches: places of the weights in a 'litert_static' flatbuffer.
        build: for 'eager', builds the model in the runner; picklable.
        observation_space: for 'eager', the structure of the observations that the model takes.
        forms: for 'eager', how these outputs become arrays with a batch axis; None for outputs as the model gives them.
        program: for 'numpy', the operations.
        report: for each kind, how long a call takes, or why the kind was rejected.
    """

    kind: str
    payload: bytes
    leaves: Spec
    output_names: tuple[str, ...]
    weight_shapes: tuple[tuple[int, ...], ...]
    weight_dtypes: tuple[np.dtype[Any], ...] = ()
    constants: tuple[int, ...] = ()
    fetches: tuple[str, ...] = ()
    patches: tuple[Patch, ...] = ()
    build: Build | None = None
    observation_space: Any = None
    forms: OutputForms | None = None
    program: Program | None = None
    report: dict[str, str] = field(default_factory=dict)

    @property
    def recurrent(self) -> RecurrentLayout | None:
        """The layout of the recurrent state, whose leaves follow those of an observation; None for most models."""
        return None if self.forms is None else self.forms.recurrent


class Forward:
    """A batched forward pass. `set_weights` must be called before the first pass."""

    kind: str

    def __call__(self, leaves: Leaves) -> dict[str, NDArray[Any]]:
        """Outputs [env, ...] for observation leaves [env, ...]. They may be views that the next call overwrites."""
        raise NotImplementedError

    def compile(self) -> None:
        """Compiles what the first pass would compile, if that takes long; `set_weights` comes before."""

    def set_weights(self, weights: Sequence[NDArray[Any]]) -> None:
        """Uses these weights, in the order of the model's `get_weights()`, from the next call on.

        Raises:
            ModelError: the number of weights or a shape is not the model's.
        """
        raise NotImplementedError


def load(exported: Exported, batch_size: int) -> Forward:
    """The forward pass for batches of `batch_size` states. Imports TensorFlow only for the kinds that need it."""
    return _LOADERS[exported.kind](exported, batch_size)


class _LiteRT(Forward):
    """A flatbuffer with the weights as inputs: setting the weights copies each array."""

    kind = "litert"

    def __init__(self, exported: Exported, batch_size: int) -> None:
        self._exported, self._batch_size = exported, batch_size
        self._rows = max(batch_size, MIN_ROWS)
        self._shapes = exported.weight_shapes
        self._start(exported.payload)

    def __call__(self, leaves: Leaves) -> dict[str, NDArray[Any]]:
        fill(self._views, leaves)
        self._invoke()
        return self._outputs

    def set_weights(self, weights: Sequence[NDArray[Any]]) -> None:
        check_weights(self._shapes, weights)
        self._fill_weights(weights)

    def _fill_weights(self, weights: Sequence[NDArray[Any]]) -> None:
        """Copies the weights that are inputs of the graph."""
        for at, index in self._weight_inputs:
            if self._shapes[at]:
                self._interpreter.tensor(index)()[...] = weights[at]
            else:  # of a scalar, `tensor` gives a copy
                self._interpreter.set_tensor(index, np.asarray(weights[at]))

    def _start(self, payload: bytes) -> None:
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_content=payload, num_threads=1)
        inputs = {detail["name"]: detail["index"] for detail in interpreter.get_input_details()}
        leaves = list(self._exported.leaves.values())
        self._leaf_inputs = [(at, inputs[f"x{at}"]) for at in range(len(leaves)) if f"x{at}" in inputs]
        for at, index in self._leaf_inputs:
            interpreter.resize_tensor_input(index, (self._rows, *leaves[at].shape))
        with without_interpreter_line():
            interpreter.allocate_tensors()
        self._interpreter = interpreter  # owns the flatbuffer's bytes, to which the compiled part only points
        self._weight_inputs = [(w, inputs[f"w{w}"]) for w in range(len(self._shapes)) if f"w{w}" in inputs]
        self._output_indices = [detail["index"] for detail in interpreter.get_output_details()]
        self._batched = [list(detail["shape_signature"][:1]) == [-1] for detail in interpreter.get_output_details()]
        # The public invoke() raises while views of tensors exist.
        self._invoke_only = interpreter._interpreter.Invoke
        self._views = [np.empty((self._rows, *leaf.shape), leaf.dtype) for leaf in leaves]
        self._view_leaves()
        self._invoke = self._first_invoke

    def _first_invoke(self) -> None:
        """Runs the graph once and finds out whether its tensors keep their addresses.

        If a shape is computed in the graph, as by Flatten for batches of any size, LiteRT plans memory inside
        Invoke(), and its arena may move there. Then views are valid until the next call at most. An output of such
        a graph has no memory before the first call, or moves during it.
        """
        before = self._addresses()
        self._invoke_and_view()
        is_fixed = None not in before and self._addresses() == before
        self._invoke = self._invoke_only if is_fixed else self._invoke_and_view

    def _invoke_and_view(self) -> None:
        self._invoke_only()
        self._view_leaves()
        self._outputs = {}
        tensors = zip(self._exported.output_names, self._output_indices, self._batched, strict=True)
        for name, index, batched in tensors:
            output = self._interpreter.tensor(index)()
            self._outputs[name] = output[: self._batch_size] if batched else output

    def _view_leaves(self) -> None:
        for at, index in self._leaf_inputs:
            self._views[at] = self._interpreter.tensor(index)()

    def _addresses(self) -> list[int | None]:
        """Addresses of inputs and outputs; None for an output whose size is not known yet."""
        return [_address(self._interpreter, index) for _, index in self._leaf_inputs + self._weight_inputs] + [
            _address(self._interpreter, index) for index in self._output_indices
        ]


def _address(interpreter: Any, index: int) -> int | None:
    try:
        return int(interpreter.tensor(index)().ctypes.data)
    except (ValueError, AttributeError):  # it has no memory yet, or is a scalar, which is given as a copy
        return None


class _LiteRTStatic(_LiteRT):
    """A flatbuffer with the weights as constants, which XNNPACK packs once.

    Calls are faster, but `set_weights` makes a new interpreter.
    """

    kind = "litert_static"

    def __init__(self, exported: Exported, batch_size: int) -> None:
        self._content = bytearray(exported.payload)
        super().__init__(exported, batch_size)

    def set_weights(self, weights: Sequence[NDArray[Any]]) -> None:
        check_weights(self._shapes, weights)
        for patch in self._exported.patches:
            stored = np.transpose(np.asarray(weights[patch.weight], np.float32), patch.permutation)
            target = np.frombuffer(self._content, np.float32, stored.size, patch.offset).reshape(stored.shape)
            np.multiply(stored, np.float32(patch.scale), out=target)
        self._start(bytes(self._content))
        self._fill_weights(weights)


class _Onnx(Forward):
    """A graph of ONNX with the weights as inputs, on one thread. Inputs and outputs stay where they are bound."""

    kind = "onnx"

    def __init__(self, exported: Exported, batch_size: int) -> None:
        self._exported, self._batch_size = exported, batch_size
        self._rows = max(batch_size, MIN_ROWS)
        self._views = [np.zeros((self._rows, *leaf.shape), leaf.dtype) for leaf in exported.leaves.values()]
        given = zip(exported.weight_shapes, exported.weight_dtypes, strict=True)
        self._weights = {f"w{at}": np.zeros(shape, dtype) for at, (shape, dtype) in enumerate(given)}
        self._session: Any = None
        self._binding: Any = None
        self._start()

    def __call__(self, leaves: Leaves) -> dict[str, NDArray[Any]]:
        fill(self._views, leaves)
        self._session.run_with_iobinding(self._binding)
        return self._outputs

    def set_weights(self, weights: Sequence[NDArray[Any]]) -> None:
        check_weights(self._exported.weight_shapes, weights)
        for own, weight in zip(self._weights.values(), weights, strict=True):
            own[...] = weight

    def _options(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        return options

    def _start(self) -> None:
        import onnxruntime

        payload, providers = self._exported.payload, ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(payload, self._options(), providers=providers)
        self._binding, self._outputs = self._session.io_binding(), {}
        self._bound = {f"x{at}": view for at, view in enumerate(self._views)} | self._weights
        for each in self._session.get_inputs():
            self._binding.bind_input(*_place(each.name, self._bound[each.name]))
        for name, each in zip(self._exported.output_names, self._session.get_outputs(), strict=True):
            is_batched = not isinstance(each.shape[0], int)
            shape: tuple[int, ...] = (self._rows, *each.shape[1:]) if is_batched else tuple(each.shape)
            self._bound[f"output {name}"] = output = np.zeros(shape, ONNX_TYPES[each.type])
            self._binding.bind_output(*_place(each.name, output))
            self._outputs[name] = output[: self._batch_size] if is_batched else output


class _OnnxStatic(_Onnx):
    """A graph of ONNX with the weights as constants, which ONNX Runtime packs once.

    Calls are faster, but `set_weights` makes a new session.
    """

    kind = "onnx_static"

    def set_weights(self, weights: Sequence[NDArray[Any]]) -> None:
        super().set_weights(weights)
        self._session = self._binding = None  # frees what is packed, before there are two of it
        super()._start()

    def _options(self) -> Any:
        """With the weights, which the session reads where they are."""
        import onnxruntime

        options = super()._options()
        names = [f"w{at}" for at in self._exported.constants]
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(self._weights[name]) for name in names]
        options.add_external_initializers(names, values)
        return options

    def _start(self) -> None:
        """Starts nothing: `set_weights` does."""


def _place(name: str, array: NDArray[Any]) -> tuple[str, str, int, Any, tuple[int, ...], int]:
    """The arguments that bind an array on the CPU to an input or output."""
    return name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data


class _Program(Forward):
    """A program of array operations, which NumPy computes."""

    kind = "numpy"

    def __init__(self, exported: Exported, batch_size: int) -> None:
        if exported.program is None:
            raise ModelError("inference: expected an Exported with `program` for kind 'numpy', got one without")
        self._evaluator, self._shapes = Evaluator(exported.program, batch_size), exported.weight_shapes
        self._names, self._dtypes = exported.output_names, [leaf.dtype for leaf in exported.leaves.values()]

    def __call__(self, leaves: Leaves) -> dict[str, NDArray[Any]]:
        if [leaf.dtype for leaf in leaves] != self._dtypes:
            leaves = [np.asarray(leaf, dtype) for leaf, dtype in zip(leaves, self._dtypes, strict=True)]
        return dict(zip(self._names, self._evaluator(leaves), strict=True))

    def set_weights(self, weights: Sequence[NDArray[Any]]) -> None:
        check_weights(self._shapes, weights)
        self._evaluator.set_weights(weights)


class _Graph(Forward):
    """A GraphDef with the weights as arguments, called through `tf.function`; XLA compiles it for kind 'xla'."""

    def __init__(self, exported: Exported, batch_size: int) -> None:
        tf = _tensorflow()
        definition = tf.compat.v1.GraphDef.FromString(exported.payload)
        wrapped = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(definition, name=""), [])
        feeds = [f"x{at}:0" for at in range(len(exported.leaves))]
        feeds += [f"w{at}:0" for at in range(len(exported.weight_shapes))]
        elements = wrapped.graph.as_graph_element
        pruned = wrapped.prune([elements(name) for name in feeds], [elements(n) for n in exported.fetches])
        self._dtypes = [tensor.dtype for tensor in map(elements, feeds[len(exported.leaves) :])]
        self.kind = exported.kind
        self._call = tf.function(lambda *arguments: pruned(*arguments), jit_compile=self.kind == "xla")
        self._tensor = tf.constant
        self._exported, self._batch_size = exported, batch_size
        self._weights: list[Any] = []

    def __call__(self, leaves: Leaves) -> dict[str, NDArray[Any]]:
        dtypes = [leaf.dtype for leaf in self._exported.leaves.values()]
        tensors = [self._tensor(leaf, dtype) for leaf, dtype in zip(leaves, dtypes, strict=True)]
        outputs = self._call(*tensors, *self._weights)
        return {name: out.numpy() for name, out in zip(self._exported.output_names, outputs, strict=True)}

    def compile(self) -> None:
        if self.kind == "xla":
            self(_zeros(self._exported, self._batch_size))

    def set_weights(self, weights: Sequence[NDArray[Any]]) -> None:
        check_weights(self._exported.weight_shapes, weights)
        self._weights = [
            self._tensor(np.asarray(weight, dtype.as_numpy_dtype))
            for weight, dtype in zip(weights, self._dtypes, strict=True)
        ]


class _Eager(Forward):
    """The model itself, built in this process, for models that must run as Python."""

    def __init__(self, exported: Exported, batch_size: int) -> None:
        self.kind = exported.kind
        if exported.build is None:
            raise ModelError("inference: expected an Exported with `build` for kind 'eager', got one without")
        self._exported, self._space, self._batch_size = exported, exported.observation_space, batch_size
        self._dtypes = [leaf.dtype for leaf in exported.leaves.values()]
        self._names, self._forms = exported.output_names, exported.forms
        self._model, self._set_weights = exported.build()

    def __call__(self, leaves: Leaves) -> dict[str, NDArray[Any]]:
        leaves = [np.asarray(leaf, dtype) for leaf, dtype in zip(leaves, self._dtypes, strict=True)]
        if self._forms is None or not self._forms.one_by_one:
            return self._outputs(leaves, self._batch_size)
        rows = [self._outputs([leaf[at : at + 1] for leaf in leaves], 1) for at in range(self._batch_size)]
        return {name: np.concatenate([row[name] for row in rows]) for name in self._names}

    def compile(self) -> None:
        # A function of JAX is pure. Another model may count its calls, or draw random numbers in them.
        if self.kind == "jax":
            self(_zeros(self._exported, self._batch_size))

    def set_weights(self, weights: Sequence[NDArray[Any]]) -> None:
        self._set_weights(weights)

    def _outputs(self, leaves: Leaves, rows: int) -> dict[str, NDArray[Any]]:
        outputs = self._model(nest(self._space, leaves))
        if self._forms is not None:
            return self._forms.arrays(outputs, rows, self._names)
        return {name: np.asarray(value) for name, value in outputs.items()}


def _zeros(exported: Exported, batch_size: int) -> list[NDArray[Any]]:
    """Leaves `[env, ...]` of zeros, of the shapes and dtypes of those that will come."""
    return [np.zeros((batch_size, *leaf.shape), leaf.dtype) for leaf in exported.leaves.values()]


def _tensorflow() -> Any:
    """Imports TensorFlow, with one thread if it has not run in this process yet, as in a runner's process."""
    import tensorflow as tf

    # On the driver TensorFlow has run a model already: its threads are the learner's and cannot be changed.
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    return tf


_LOADERS: dict[str, Callable[[Exported, int], Forward]] = {
    "litert": _LiteRT,
    "litert_static": _LiteRTStatic,
    "xla": _Graph,
    "tf.function": _Graph,
    "onnx": _Onnx,
    "onnx_static": _OnnxStatic,
    "numpy": _Program,
    "eager": _Eager,
    "torch": _Eager,
    "jax": _Eager,
}
