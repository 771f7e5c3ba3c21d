"""A module of PyTorch as a graph of ONNX, which runners compute without PyTorch. Its weights are inputs or constants.

`torch.onnx` needs the package `onnxscript`, and runners need `onnxruntime`: the extra `onnx` has both.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from really.agents.frameworks.protocol import ExportRequest
from really.agents.frameworks.torch_function import TorchFunction, quiet, state_to_trace, states_to_trace
from really.errors import ModelError
from really.policies.inference import MIN_ROWS, Exported
from really.policies.model_inputs import model_leaves

NEEDED = ("onnxscript", "onnxruntime")
EXTRA = "pip install 'really-rl[onnx]'"
MOST_ROWS = 1 << 20


def as_onnx(module: Any, request: ExportRequest) -> Exported:
    """The module as a graph of ONNX for any number of states.

    Raises:
        ModelError: a package is missing, or it is a module for which there is no such graph.
    """
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise ModelError(f"it needs {' and '.join(missing)}: {EXTRA}")
    state = state_to_trace(module, request)
    leaves = model_leaves(request.observation_space)
    names = tuple(sorted(request.names))
    states = states_to_trace(leaves, MIN_ROWS)
    weights = [each.tensor.detach().cpu().clone() for each in state.variables]
    rows = torch.export.Dim("rows", min=MIN_ROWS, max=MOST_ROWS)
    with _silent():
        program = torch.onnx.export(
            TorchFunction(module, request, state.names, names).eval(),
            (states, weights),
            dynamo=True,
            verbose=False,
            input_names=[*(f"x{at}" for at in range(len(states))), *(f"w{at}" for at in range(len(weights)))],
            output_names=list(names),
            dynamic_shapes=([{0: rows} for _ in states], [None for _ in weights]),
        )
    return Exported(
        "onnx",
        program.model_proto.SerializeToString(),
        leaves,
        names,
        tuple(each.shape for each in state.variables),
        tuple(each.numpy().dtype for each in weights),
        forms=request.forms,
    )


def with_constants(exported: Exported) -> Exported:
    """The same graph with its weights as constants, whose numbers a runner gives to each session that it makes."""
    import onnx

    model = onnx.load_from_string(exported.payload)
    weights = {f"w{at}": at for at in range(len(exported.weight_shapes))}
    used = sorted(weights[name] for name in _read(model.graph) & weights.keys())
    inputs = [each for each in model.graph.input if each.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    for at in used:
        shape, dtype = exported.weight_shapes[at], exported.weight_dtypes[at]
        kind = onnx.helper.np_dtype_to_tensor_dtype(dtype)
        constant = model.graph.initializer.add(name=f"w{at}", data_type=kind, dims=shape)
        # ONNX Runtime takes an array in place of a constant only if that is said to be in a file, which it never opens.
        constant.data_location = onnx.TensorProto.EXTERNAL
        size = math.prod(shape) * dtype.itemsize
        for key, value in (("location", "weights"), ("offset", 0), ("length", size)):
            constant.external_data.add(key=key, value=str(value))
    payload = model.SerializeToString()
    return replace(exported, kind="onnx_static", payload=payload, constants=tuple(used))


def _read(graph: Any) -> set[str]:
    """Names of what a graph gives and its nodes read, and those of graphs in them."""
    found = {name for node in graph.node for name in node.input} | {each.name for each in graph.output}
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                found |= _read(inner)
    return found


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """`quiet`, and keeps lines of the converter back."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with quiet():
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
