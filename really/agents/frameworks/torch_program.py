"""A module of PyTorch as a program of array operations, which runners compute with NumPy, without PyTorch.

A call of a module takes PyTorch tens of microseconds, whatever is in it: several times what a small network needs.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from really.agents.frameworks.programs import TRACED, ProgramWriter, exported
from really.agents.frameworks.protocol import ExportRequest
from really.agents.frameworks.torch_calls import Call
from really.agents.frameworks.torch_function import TorchFunction, quiet, state_to_trace, states_to_trace
from really.agents.frameworks.torch_operations import SIMPLE, SPECIAL
from really.errors import ModelError
from really.policies.array_program import Program
from really.policies.inference import Exported
from really.policies.model_inputs import model_leaves


def as_program(module: Any, request: ExportRequest) -> Exported:
    """The module, which is in evaluation mode, as a program for any number of states.

    Raises:
        ModelError: it has an operation that is none of a program, or weights that do not travel as they are.
    """
    state = state_to_trace(module, request)
    leaves = model_leaves(request.observation_space)
    weights = [each.tensor.detach().cpu() for each in state.variables]
    function = TorchFunction(module, request, state.names, tuple(sorted(request.names)))
    graphs = [_traced(function, states_to_trace(leaves, rows), weights) for rows in TRACED]
    program = _Reader(ProgramWriter(list(leaves.values()), state.variables)).program(*graphs)
    return exported(request, leaves, state.variables, program)


def _traced(function: Any, states: Sequence[Any], weights: Sequence[Any]) -> Any:
    """The graph of operations, with numbers that nobody can read, as what depends on them is no graph."""
    from torch.fx.experimental.proxy_tensor import make_fx

    trace = make_fx(torch.func.functionalize(function), _decompositions(), tracing_mode="fake")
    with quiet(), torch.no_grad():
        return trace(list(states), list(weights)).graph


@functools.cache
def _decompositions() -> dict[Any, Any]:
    """What operations consist of. To collect it takes longer than to trace a small network."""
    from torch._decomp import core_aten_decompositions

    return dict(core_aten_decompositions())


class _Reader:
    """Reads two graphs of one function side by side.

    Attributes:
        writer: takes the steps.
    """

    def __init__(self, writer: ProgramWriter) -> None:
        self.writer, self._known = writer, dict[Any, Any]()

    def program(self, one: Any, other: Any) -> Program:
        """The program of two graphs."""
        inputs = iter(self.writer.inputs)
        if len(one.nodes) != len(other.nodes):
            raise ModelError("it has other operations for another number of states")
        for node, again in zip(one.nodes, other.nodes, strict=True):
            if node.op == "placeholder":
                self._known[node] = next(inputs)
            elif node.op == "output":
                return self.writer.program([self._known[each] for each in node.args[0]])
            elif node.op != "call_function" or node.target is not again.target:
                raise ModelError(f"it has the operation {node.op} {node.target}")
            else:
                self._known[node] = self._result(Call(self, node, again))
        raise ModelError("it has no outputs")

    def value(self, given: Any, again: Any, dtype: np.dtype[Any] | None) -> Any:
        """The value of an argument: that of a node, or a number, which is a constant."""
        if isinstance(given, torch.fx.Node):
            return self._known[given]
        if given != again:
            raise ModelError("it has a constant that depends on the number of states")
        return self.writer.constant(given, dtype)

    def _result(self, call: Call) -> Any:
        """The value of a node; a tuple where it has several."""
        if call.name == "getitem":
            values = self.value(call.args[0], call.args[0], None)
            return values[call.args[1]] if call.args[1] < len(values) else None
        if call.name in SIMPLE:
            return call.step(SIMPLE[call.name], *call.tensors())
        if call.name not in SPECIAL:
            raise ModelError(f"it has the operation {call.name}")
        return SPECIAL[call.name](call)
