"""Keras 3 on JAX: runners act with a compiled function, and an agent's methods are pure functions of given values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from really.agents.frameworks.eager import EagerNetwork, as_arrays
from really.agents.frameworks.exporting import Candidate, Trial
from really.agents.frameworks.jax import Jax, JaxLibrary, compiled
from really.agents.frameworks.keras_copies import copy_model, pickled_model
from really.agents.frameworks.keras_models import Bound, ChangesStateError, Evaluated, KerasChoosesDevice
from really.agents.frameworks.protocol import ExportRequest, Framework, Interface
from really.agents.recurrent import RecurrentCall
from really.policies.keras_state import KerasState


class KerasJaxLibrary(JaxLibrary):
    """Arrays of JAX for a model of Keras."""

    def forward(self, model: Any, observation: Any) -> Mapping[str, Any]:
        """The model's outputs in evaluation mode."""
        return super().forward(Evaluated.of(model), observation)

    def bound(self, model: Any, parameters: Any) -> Any:
        """The model with other values of its variables."""
        return Bound(model, parameters)

    def infer(self, model: Any, observation: Any) -> Any:
        """The model's outputs, NumPy; what is no dict as it is."""
        return super().infer(Evaluated.of(model), observation)


class RunnerModel:
    """A runner's own model as a compiled function of observations in NumPy.

    A model that changes a state in its call, as one that draws random numbers does, is called as Python.
    """

    def __init__(self, model: Any, library: JaxLibrary) -> None:
        self._model, self._library = model, library
        # A recurrent model is called through a function of one argument.
        self._own = model.model if isinstance(model, RecurrentCall) else model
        self._state = KerasState(self._own)
        self._apply: Any = compiled(self._outputs)

    def __call__(self, observation: Any) -> Mapping[str, Any]:
        """The outputs, NumPy."""
        if self._apply is not None:
            try:
                outputs = self._apply(self._state.parameters(), observation)
            except ChangesStateError:
                self._apply = None
        if self._apply is None:
            outputs = Evaluated.of(self._model)(observation)
        arrays: Mapping[str, Any] = as_arrays(self._library, outputs)
        return arrays

    def _outputs(self, values: Any, observation: Any) -> Any:
        bound = Bound(self._own, values)
        return (self._model.around(bound) if isinstance(self._model, RecurrentCall) else bound)(observation)


class KerasJax(KerasChoosesDevice, Jax):
    """The adapter of Keras 3 on JAX."""

    name = "keras_jax"
    trial = Trial("jax", "a model that jax.jit compiles on the CPU", "", "compiled unless it draws random numbers")

    def __init__(self) -> None:
        self._library: KerasJaxLibrary = KerasJaxLibrary()

    def acting(self, model: Any) -> Callable[[Any], Mapping[str, Any]]:
        """The compiled function."""
        return RunnerModel(model, self._library)

    def copy(self, model: Any) -> Any:
        """A copy of the model with variables of its own."""
        return copy_model(model)

    def pickled(self, model: Any) -> bytes:
        """The model as a pickle."""
        return pickled_model(model)

    def candidates(self, model: Any, request: ExportRequest) -> dict[str, Candidate]:
        """None: its weights are variables of Keras."""
        return {}

    def network(self, model: Any, interface: Interface) -> EagerNetwork:
        """What an agent computes from the model."""
        return EagerNetwork(model, interface, self._library)


FRAMEWORK: Framework = KerasJax()
