"""A module of PyTorch as a function of leaves of observations and of its weights, which tracers follow."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from really.agents.frameworks.protocol import ExportRequest
from really.data.schema import Spec
from really.data.spaces import nest
from really.errors import ModelError
from really.policies.torch_state import TorchState

NOT_SINGLE = (torch.float64, torch.float16, torch.bfloat16)


def state_to_trace(module: Any, request: ExportRequest) -> TorchState:
    """The state of a module that takes any number of states, and has weights that travel as they are.

    Raises:
        ModelError: it takes one state at a time, or has weights of another precision.
    """
    if request.forms is None or request.forms.one_by_one:
        raise ModelError("it takes one state at a time")
    state = TorchState(module)
    if odd := sorted({str(each.tensor.dtype) for each in state.variables if each.tensor.dtype in NOT_SINGLE}):
        raise ModelError(f"it has weights of {', '.join(odd)}")
    return state


def states_to_trace(leaves: Spec, rows: int) -> list[torch.Tensor]:
    """So many states of zeros, for a tracer to follow."""
    return [torch.from_numpy(np.zeros((rows, *leaf.shape), leaf.dtype)) for leaf in leaves.values()]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps warnings of a tracer back, and the random state of PyTorch as it is."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        yield


class TorchFunction(torch.nn.Module):  # type: ignore[misc]
    """A module as a function of leaves of observations and of weights, with outputs `[n, *shape]` in order."""

    def __init__(self, module: Any, request: ExportRequest, keys: Sequence[str], names: Sequence[str]) -> None:
        super().__init__()
        self._held = (module,)  # in a tuple, so that its parameters are none of this module
        self._request, self._keys, self._names = request, keys, names

    def forward(self, leaves: Sequence[Any], weights: Sequence[Any]) -> tuple[Any, ...]:
        """The outputs of the module with these weights."""
        (module,), forms = self._held, self._request.forms
        given, rows = dict(zip(self._keys, weights, strict=True)), leaves[0].shape[0]

        def call(observation: Any, **recurrent: Any) -> Any:
            return torch.func.functional_call(module, given, (observation,), recurrent)

        outputs = self._request.called(call)(nest(self._request.observation_space, leaves))
        if forms is None:
            return tuple(outputs[name] for name in self._names)
        return tuple(outputs[name].reshape((forms.leading(name, rows), *forms.shapes[name])) for name in self._names)
