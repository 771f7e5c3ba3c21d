"""A module of PyTorch as a graph of ONNX with its weights as inputs, which runners compute without PyTorch.

`torch.onnx` needs the package `onnxscript`, and runners need `onnxruntime`: the extra `onnx` has both.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Iterator
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
    payload = program.model_proto.SerializeToString()
    return Exported("onnx", payload, leaves, names, tuple(each.shape for each in state.variables), forms=request.forms)


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
