"""Models of Keras 3 as agents and runners call them on PyTorch and JAX: in evaluation mode, or with other values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras

from really.agents.frameworks.protocol import ChoosesDevice
from really.policies.keras_state import KerasState


class KerasChoosesDevice(ChoosesDevice):
    """What the frameworks of Keras models inherit."""

    models = "a model of Keras"
    chooses = "Keras places its weights when it makes them, as with keras.device('gpu:0')"


class ChangesStateError(Exception):
    """A call changes a variable of the model, as one that draws random numbers does."""


class Evaluated:
    """A model that is called in evaluation mode; its modules and tensors are those of the model."""

    def __init__(self, model: Any) -> None:
        self._model = model

    @classmethod
    def of(cls, model: Any) -> Any:
        """The model in evaluation mode, if it is not a `Bound`."""
        return model if isinstance(model, Bound) else cls(model)

    def __call__(self, observation: Any, **options: Any) -> Any:
        """The outputs. A module of PyTorch within a model trains unless Keras tells it not to."""
        return self._model(observation, **{**options, "training": False})

    def modules(self) -> Iterator[Any]:
        """The modules of PyTorch, whose modes are changed for a call."""
        return self._model.modules()  # type: ignore[no-any-return]

    def parameters(self) -> Iterator[Any]:
        """The parameters, whose device is the model's."""
        return self._model.parameters()  # type: ignore[no-any-return]

    def buffers(self) -> Iterator[Any]:
        """The buffers of PyTorch."""
        return self._model.buffers()  # type: ignore[no-any-return]

    def eval(self) -> Evaluated:
        """The model with each of its modules in evaluation mode."""
        self._model.eval()
        return self


class Bound(Evaluated):
    """A model of Keras with other values of its variables, as a function of an observation."""

    def __init__(self, model: Any, values: Sequence[Any]) -> None:
        super().__init__(model)
        self._values = KerasState(model).mapping(values)

    def __call__(self, observation: Any, **options: Any) -> Any:
        """The outputs under these values.

        Raises:
            ChangesStateError: the call would change a variable, of which the values here know nothing.
        """
        with keras.StatelessScope(state_mapping=self._values) as scope:
            outputs = super().__call__(observation, **options)
        if len(scope.state_mapping) > len(self._values):
            raise ChangesStateError
        return outputs
