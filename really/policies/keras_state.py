"""The state of a model of Keras 3 on PyTorch or JAX: its variables, and tensors of PyTorch that Keras does not know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from really._utils.keras_versions import framework_of_keras, name_of
from really.errors import ModelError
from really.policies.model_inputs import check_weights
from really.policies.model_state import ModelState
from really.policies.torch_state import Tensor, array_of


def is_keras_elsewhere(model: Any) -> bool:
    """Whether this is a layer or model of Keras 3 on PyTorch or JAX."""
    return framework_of_keras(model) in ("keras_torch", "keras_jax")


class KerasState(ModelState):
    """The state of a model at the moment.

    Attributes:
        tensors: parameters and buffers of PyTorch that are variables of no layer, such as the statistics of a
            `BatchNorm1d` of PyTorch or a `torch.nn.Parameter` that is an attribute. They follow the variables.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._framework = framework_of_keras(model)
        self.tensors = self._unknown_tensors() if self._framework == "keras_torch" else []

    @property
    def variables(self) -> list[Any]:
        """The variables of the state, in the order of `get`."""
        return [*super().variables, *self.tensors]

    @property
    def trainable(self) -> list[Any]:
        """The variables that a learner trains."""
        return [*super().trainable, *(each for each in self.tensors if each.tensor.requires_grad)]

    def is_current(self) -> bool:
        """False: the tensors of other backends are looked up each time."""
        return False

    def has_parts_of(self, other: Any) -> bool:
        """Whether both have the same layers, variables and tensors: False once a part of the model was replaced."""
        mine, others = ([id(each.tensor) for each in state.tensors] for state in (self, other))
        return super().has_parts_of(other) and mine == others

    def get(self) -> Any:
        """Copies of the arrays: what `model.get_weights()` gives, and after these the other ones."""
        return [np.array(array_of(value)) for value in self.parameters()]

    def parameters(self) -> list[Any]:
        """The values of the variables: parameters of PyTorch, or arrays of JAX."""
        return [each.tensor if isinstance(each, Tensor) else each.value for each in self.variables]

    def in_order(self, arrays: Any) -> Any:
        """The arrays of tensors or variables of any library."""
        if (
            isinstance(arrays, Mapping)
            or not isinstance(arrays, Sequence | np.ndarray)
            or callable(next(iter(arrays), 0))
        ):
            return arrays
        return [array_of(array) for array in arrays]

    def set(self, arrays: Any) -> None:
        """Sets the state. Arrays for `model.weights` alone leave the other variables as they are.

        Raises:
            ModelError: the number of arrays or a shape is not the model's; nothing is changed then.
        """
        arrays = self.in_order(arrays)
        self.check(arrays)
        known = len(self.weights) + len(self.others)
        super().set(arrays[:known])
        for each, array in zip(self.tensors, arrays[known:], strict=False):
            each.assign(array)

    def check(self, arrays: Any) -> None:
        """Raises ModelError unless arrays have the shapes of all variables, or of `model.weights`."""
        arrays = self.in_order(arrays)
        wanted = [*self.weights, *self.others, *self.tensors]
        if isinstance(arrays, Sequence) and len(arrays) == len(self.weights):
            wanted = self.weights
        check_weights([tuple(each.shape) for each in wanted], arrays, list(map(name_of, wanted)), self._framework)

    def flat(self) -> list[Any]:
        """The variables, to be saved."""
        return self.variables

    def mapping(self, values: Sequence[Any]) -> list[tuple[Any, Any]]:
        """Pairs of a variable of Keras and its value for a `keras.StatelessScope`.

        Raises:
            ModelError: the number of values is not the model's, or there is a state that is no variable of Keras.
        """
        if self.tensors:
            names = ", ".join(repr(each.name) for each in self.tensors)
            raise ModelError(
                f"agent.with_parameters: expected variables of Keras alone, got tensors of PyTorch: {names}"
            )
        if len(values) != len(self.variables):
            raise ModelError(
                f"agent.with_parameters: expected {len(self.variables)} values, as agent.parameters() gives, "
                f"got {len(values)}"
            )
        return list(zip(self.variables, values, strict=True))

    def _unknown_tensors(self) -> list[Tensor]:
        known = {id(each.value) for each in (*self._model.variables, *self._metrics(), *super().variables)}
        found: dict[int, Tensor] = {}
        for name, entry in (*self._model.named_parameters(), *self._model.named_buffers()):
            if id(entry) not in known:
                found.setdefault(id(entry), Tensor(name, entry))
        return list(found.values())

    def _metrics(self) -> list[Any]:
        """Variables of training, which are no state of the model."""
        return list(getattr(self._model, "metrics_variables", ()))
