"""Plain Python callables on NumPy arrays: a heuristic, a table, a session of ONNX Runtime.

Its weights are what `get_weights` gives, or there are none. No framework is imported.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import cloudpickle
import numpy as np
from numpy.typing import NDArray

from really.agents.frameworks.eager import EagerNetwork, Library
from really.agents.frameworks.protocol import ChoosesDevice, ExportRequest, Framework, Interface
from really.errors import ModelError, summary
from really.policies.inference import Exported
from really.policies.model_state import METHODS
from really.policies.states import state_of


class NumPy:
    """NumPy's arrays."""

    xp: Any = np

    def array(self, model: Any, value: Any, dtype: np.dtype[Any] | None) -> NDArray[Any]:
        """An array of this dtype; None keeps the dtype."""
        return self.numpy(value) if dtype is None else np.asarray(self.numpy(value), dtype)

    def numpy(self, value: Any) -> NDArray[Any]:
        """Any array or tensor in NumPy, without its gradient."""
        return np.asarray(_without_gradient(value))

    def is_concrete(self, value: Any) -> bool:
        """True: NumPy traces nothing."""
        return True

    def forward(self, model: Any, observation: Any) -> Mapping[str, Any]:
        """The model's outputs."""
        outputs: Mapping[str, Any] = model(observation)
        return outputs

    def bound(self, model: Any, parameters: Any) -> Any:
        """Raises ModelError: a callable has no parameters."""
        raise ModelError("agent.with_parameters: expected a model of JAX or PyTorch, got a plain callable")

    def infer(self, model: Any, observation: Any) -> Mapping[str, Any]:
        """The model's outputs."""
        outputs: Mapping[str, Any] = _outputs(model, observation)
        return outputs


class PythonCallable(ChoosesDevice):
    """The adapter of plain Python callables."""

    name = "callable"
    models = "a Python callable"
    chooses = "it takes arrays of NumPy, and has its weights where it likes"

    def __init__(self) -> None:
        self._library: Library = NumPy()

    def building(self) -> AbstractContextManager[None]:
        """Nothing is special while a callable is called first."""
        return contextlib.nullcontext()

    def call(self, model: Any, observation: Any) -> Any:
        """What the callable returns for an observation."""
        return _outputs(model, observation)

    def first_call(self, model: Any, observation: Any) -> Any:
        """What the callable returns for an observation."""
        return _outputs(model, observation)

    def acting(self, model: Any) -> Callable[[Any], Mapping[str, Any]]:
        """The callable itself, whose outputs become arrays of NumPy."""
        return functools.partial(_outputs, model)

    def prepare_runner(self) -> None:
        """There is no framework to prepare."""

    def settings(self) -> dict[str, Any]:
        """There is no framework that has some."""
        return {}

    def use(self, settings: Mapping[str, Any]) -> None:
        """There are no settings."""

    def copy(self, model: Any) -> Any:
        """A copy through a pickle; a callable without weights is itself its copy."""
        return model if _has_no_weights(model) else cloudpickle.loads(self.pickled(model))

    def pickled(self, model: Any) -> bytes:
        """The callable as a pickle."""
        try:
            return bytes(cloudpickle.dumps(model))
        except Exception as error:
            raise ModelError(
                f"model: expected a callable that can be sent to another process or copied, got "
                f"{getattr(model, '__qualname__', type(model).__name__)}: {summary(error)}; give a class or a function "
                f"without arguments that makes it, with its arguments as model_kwargs: every process then makes its own"
            ) from error

    def network(self, model: Any, interface: Interface) -> EagerNetwork:
        """What an agent computes from the callable."""
        return EagerNetwork(model, interface, self._library)

    def export(self, model: Any, request: ExportRequest) -> Exported:
        """The callable as it is; every runner calls it."""
        report = "the model is called as it is: it is a Python callable, and none of a framework"
        return request.as_python("eager", state_of(model), report)


def _outputs(model: Any, observation: Any) -> Any:
    """What a callable returns; tensors that need gradients, of a network that it holds, become arrays."""
    outputs = model(observation)
    if not isinstance(outputs, Mapping):
        return outputs
    return {name: _without_gradient(value) for name, value in outputs.items()}


def _without_gradient(value: Any) -> Any:
    """A tensor of PyTorch on the CPU, in a dtype that NumPy has; anything else as it is."""
    if not hasattr(value, "detach"):
        return value
    value = value.detach().cpu()
    return value.float() if str(value.dtype) == "torch.bfloat16" else value


def _has_no_weights(model: Any) -> bool:
    return not all(hasattr(model, name) for name in METHODS) and not state_of(model).variables


FRAMEWORK: Framework = PythonCallable()
