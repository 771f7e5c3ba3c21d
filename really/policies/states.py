"""The state of a model of any framework: its arrays, which travel to runners and into files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from really._utils.keras_versions import framework_of_keras, is_layer
from really.policies.jax_state import JaxModel, JaxState, NnxModel, is_nnx, is_pair
from really.policies.keras_state import KerasState, is_keras_elsewhere
from really.policies.model_state import ModelState, holds_variables, same_arrays
from really.policies.model_state import shared_variables as shared_by_keras
from really.policies.torch_state import TorchState, array_of, is_torch, share_tensors


class State(Protocol):
    """The state of a model at the moment."""

    @property
    def weights(self) -> list[Any]:
        """The variables that the framework counts as weights."""

    @property
    def variables(self) -> list[Any]:
        """The variables of the state, in the order of `get`; empty for an object with `get_weights` of its own."""

    @property
    def trainable(self) -> list[Any]:
        """The variables that a learner trains."""

    def is_current(self) -> bool:
        """Whether this object still describes the model; False where looking is as cheap as making it anew."""

    def has_parts_of(self, other: Any) -> bool:
        """Whether both have the same layers and variables: False once a part of the model was replaced."""

    def is_like(self, other: Any) -> bool:
        """Whether both have variables of the same shapes, so that the weights of one fit the other."""

    def get(self) -> Any:
        """Copies of the arrays, as `get_weights` gives them."""

    def parameters(self) -> Any:
        """The weights in the framework's own form: a list of variables, or the `state_dict` of a module."""

    def in_order(self, arrays: Any) -> Any:
        """Weights in the framework's own form as `get` gives them; raises ModelError for other names."""

    def set(self, arrays: Any) -> None:
        """Sets the state. Raises ModelError, with nothing changed, if the arrays are not those of this model."""

    def check(self, arrays: Any) -> None:
        """Raises ModelError unless the arrays are those of this model."""

    def check_layers(self) -> None:
        """Raises ModelError if a layer has a state that does not travel."""

    def flat(self) -> list[Any]:
        """The variables or arrays to be saved."""

    def set_flat(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Sets the state from arrays in the order of `flat`."""


def state_of(model: Any) -> State:
    """The state of a model of any framework."""
    if is_keras_elsewhere(model):
        return KerasState(model)
    if isinstance(model, JaxModel):
        return JaxState(model)
    return TorchState(model) if is_torch(model) else ModelState(model)


def has_arrays(state: State, arrays: Any) -> bool:
    """Whether these are the arrays of a state; those that the framework does not count as weights may be missing."""
    first = next(iter(state.variables), None)
    # Reading one array tells in nearly all cases that the weights are others.
    if (
        first is not None
        and isinstance(arrays, list | tuple)
        and arrays
        and not same_arrays(array_of(first), arrays[0])
    ):
        return False
    own = state.get()
    if isinstance(arrays, list | tuple) and len(own) > len(arrays) == len(state.weights):
        own = own[: len(arrays)]
    return same_arrays(own, arrays)


def framework_name(model: Any) -> str:
    """Name of the framework that a made model is of; `callable` for a plain Python callable."""
    if is_layer(model):
        return framework_of_keras(model)
    if is_torch(model):
        return "torch"
    if isinstance(model, JaxModel):
        return "jax"
    return "tensorflow" if holds_variables(model) else "callable"


def is_module(model: Any) -> bool:
    """Whether this is a layer or model of Keras, or of another framework that has a class for it."""
    return is_layer(model) or is_torch(model) or is_pair(model) or is_nnx(model) or isinstance(model, JaxModel)


def is_model(model: Any) -> bool:
    """Whether this object can be saved and set: it has variables, or `get_weights` and `set_weights`.

    A callable without weights is one, too: there is nothing to save.
    """
    if is_torch(model) or isinstance(model, JaxModel) or ModelState.is_model(model):
        return True
    return callable(model) and not isinstance(model, type) and not is_module(model)


def shared_variables(one: Any, other: Any) -> bool:
    """Whether two models are one, or have a variable in common."""
    if is_torch(one) and is_torch(other) and not is_layer(one):
        return one is other or share_tensors(one, other)
    if isinstance(one, NnxModel) and isinstance(other, NnxModel):
        return one.module is other.module
    if isinstance(one, JaxModel) and isinstance(other, JaxModel):
        return one is other
    return one is other or shared_by_keras(one, other)
