"""A module of PyTorch as a graph of ONNX with its weights as inputs, which runners compute without PyTorch.

`torch.onnx` needs the package `onnxscript`, and runners need `onnxruntime`: the extra `onnx` has both.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from really.agents.frameworks.protocol import ExportRequest
from really.agents.frameworks.torch_function import NOT_SINGLE, TorchFunction
from really.errors import ModelError
from really.policies.inference import MIN_ROWS, Exported
from really.policies.model_inputs import model_leaves
from really.policies.torch_state import TorchState

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
    forms, state = request.forms, TorchState(module)
    if forms is None or forms.one_by_one:
        raise ModelError("it takes one state at a time")
    if odd := sorted({str(each.tensor.dtype) for each in state.variables if each.tensor.dtype in NOT_SINGLE}):
        raise ModelError(f"it has weights of {', '.join(odd)}")
    leaves = model_leaves(request.observation_space)
    names = tuple(sorted(request.names))
    states = [torch.from_numpy(np.zeros((MIN_ROWS, *leaf.shape), leaf.dtype)) for leaf in leaves.values()]
    weights = [each.tensor.detach().cpu().clone() for each in state.variables]
    rows = torch.export.Dim("rows", min=MIN_ROWS, max=MOST_ROWS)
    with _quiet():
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
    return Exported("onnx", payload, leaves, names, tuple(each.shape for each in state.variables), forms=forms)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps lines and warnings of the converter back, and the random state of PyTorch as it is."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
