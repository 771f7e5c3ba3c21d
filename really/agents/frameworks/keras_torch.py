"""Keras 3 on PyTorch: models are called in evaluation mode, and gradients are those of autograd."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch

from really.agents.frameworks.eager import EagerNetwork, Library
from really.agents.frameworks.exporting import Candidate, Trial
from really.agents.frameworks.keras_copies import KerasPickler, copy_model, pickled_model
from really.agents.frameworks.keras_models import Bound, Evaluated, KerasChoosesDevice
from really.agents.frameworks.protocol import ExportRequest, Framework, Interface
from really.agents.frameworks.torch import RunnerModel, Torch, TorchLibrary


class KerasTorchLibrary(TorchLibrary):
    """Tensors of PyTorch for a model of Keras, which takes them to the device of Keras."""

    def forward(self, model: Any, observation: Any) -> Mapping[str, Any]:
        """The model's outputs in evaluation mode."""
        return super().forward(Evaluated.of(model), observation)

    def bound(self, model: Any, parameters: Any) -> Bound:
        """The model with other values of its variables."""
        return Bound(model, parameters)

    def infer(self, model: Any, observation: Any) -> Mapping[str, Any]:
        """The model's outputs, NumPy, without gradients."""
        return super().infer(Evaluated.of(model), observation)


class KerasTorch(KerasChoosesDevice, Torch):
    """The adapter of Keras 3 on PyTorch."""

    name = "keras_torch"
    trial = Trial("torch", "a model that acts on the CPU in the runners", "", "the model itself on one thread")

    def __init__(self) -> None:
        self._library: KerasTorchLibrary = KerasTorchLibrary()

    def acting(self, model: Any) -> Callable[[Any], Mapping[str, Any]]:
        """The model in evaluation mode, on the device of Keras: the CPU in a runner with a process of its own."""
        return RunnerModel(Evaluated(model), self._library)

    def copy(self, model: Any) -> Any:
        """A copy of the model with variables of its own."""
        return copy_model(model)

    def pickled(self, model: Any) -> bytes:
        """The model as a pickle with its tensors on the CPU."""
        return pickled_model(model, _CpuPickler)

    def network(self, model: Any, interface: Interface) -> EagerNetwork:
        """What an agent computes from the model."""
        library: Library = self._library
        return EagerNetwork(model, interface, library)

    def candidates(self, model: Any, request: ExportRequest) -> dict[str, Candidate]:
        """None: its weights are variables of Keras, which no graph of ONNX takes as inputs."""
        return {}


class _CpuPickler(KerasPickler):
    """Tensors on a device travel as tensors on the CPU."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, torch.Tensor) and obj.device.type != "cpu":
            tensor = obj.detach().cpu()
            if isinstance(obj, torch.nn.Parameter):
                return torch.nn.Parameter, (tensor, obj.requires_grad)
            return copy.copy, (tensor,)
        return super().reducer_override(obj)


FRAMEWORK: Framework = KerasTorch()
