"""A module of PyTorch as a function of leaves of observations and of its weights, which tracers follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from really.agents.frameworks.protocol import ExportRequest
from really.data.spaces import nest

NOT_SINGLE = (torch.float64, torch.float16, torch.bfloat16)


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
