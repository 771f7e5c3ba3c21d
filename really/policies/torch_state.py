"""The state of a module of PyTorch: its `state_dict`, as arrays in the order of its names.

PyTorch is not imported here: whoever has a module has it already.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really.errors import ModelError, summary
from really.policies.given_weights import check_framework
from really.policies.model_inputs import check_weights


def is_torch(model: Any) -> bool:
    """Whether this is a module of PyTorch."""
    cls: Any = type(model)
    return _is_module(cls)


@functools.lru_cache(4096)
def _is_module(cls: Any) -> bool:
    return any(base.__name__ == "Module" and base.__module__.startswith("torch.nn.") for base in cls.__mro__)


class Tensor:
    """A parameter or buffer of a module.

    Attributes:
        name: its key in the `state_dict`.
        tensor: the tensor itself, on its device.
        shape: its shape.
        dtype: the dtype of its array: bfloat16 becomes float32, which holds each of its values.
    """

    def __init__(self, name: str, tensor: Any) -> None:
        self.name, self.tensor, self.shape = name, tensor, tuple(tensor.shape)
        kind = str(tensor.dtype).removeprefix("torch.")
        self.dtype = np.dtype(np.float32 if kind == "bfloat16" else kind)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        tensor = self.tensor.detach().cpu()
        tensor = tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor
        return np.array(tensor.numpy(), dtype, copy=True)

    def assign(self, array: Any) -> None:
        """Sets the values from an array or a tensor, which are cast to the dtype of the tensor."""
        source = array.detach() if hasattr(array, "detach") else self.tensor.new_tensor(np.asarray(array))
        self.tensor.detach().copy_(source)


class TorchState:
    """The state of a module at the moment.

    Attributes:
        variables: parameters and buffers, in the order of `state_dict()`.
        trainable: those parameters that need gradients.
    """

    def __init__(self, module: Any) -> None:
        self._module = module
        self._entries = module.state_dict(keep_vars=True)
        self.variables = [Tensor(name, entry) for name, entry in self._entries.items() if hasattr(entry, "detach")]
        self.trainable = [each for each in self.variables if each.tensor.requires_grad]
        self._parts = [*(each.tensor for each in self.variables), *module.modules()]

    @property
    def weights(self) -> list[Any]:
        """All of the variables."""
        return self.variables

    @property
    def names(self) -> list[str]:
        """The keys of the `state_dict`."""
        return [each.name for each in self.variables]

    def is_current(self) -> bool:
        """False: making the state anew is as cheap as looking."""
        return False

    def has_parts_of(self, other: Any) -> bool:
        """Whether both have the same modules, parameters and buffers: False once a part was replaced."""
        parts, others = self._parts, getattr(other, "_parts", [])
        return len(parts) == len(others) and all(map(operator.is_, parts, others))

    def is_like(self, other: Any) -> bool:
        """Whether both have tensors of the same shapes, so that the weights of one fit the other."""
        return [each.shape for each in self.variables] == [tuple(each.shape) for each in other.variables]

    def get(self) -> list[NDArray[Any]]:
        """Copies of the arrays, in the order of `state_dict()`."""
        return [np.asarray(each) for each in self.variables]

    def parameters(self) -> Any:
        """The `state_dict` of the module."""
        return self._module.state_dict()

    def in_order(self, arrays: Any) -> Any:
        """The arrays of a `state_dict` in the order of `get`; a list as it is.

        Raises:
            ModelError: keys are missing or unexpected.
        """
        if not isinstance(arrays, Mapping):
            return arrays
        missing = [name for name in self.names if name not in arrays]
        unexpected = [str(name) for name in arrays if name not in self._entries]
        if missing or unexpected:
            check_framework("torch", arrays)
            raise ModelError(
                f"weights: expected the state_dict of this {type(self._module).__name__} with {len(self.names)} keys, "
                f"got one with {_listed(missing, unexpected)}"
            )
        return [_given(f"weights[{at}] ({name})", arrays[name]) for at, name in enumerate(self.names)]

    def set(self, arrays: Any) -> None:
        """Sets the state, from a list as `get` gives it or from a `state_dict`.

        Raises:
            ModelError: a key is missing or unexpected, or a shape is not the module's; nothing is changed then.
        """
        arrays = self.in_order(arrays)
        self.check(arrays)
        for each, array in zip(self.variables, arrays, strict=True):
            each.assign(array)

    def check(self, arrays: Any) -> None:
        """Raises ModelError unless the arrays have the shapes of the tensors."""
        check_weights([each.shape for each in self.variables], self.in_order(arrays), self.names, "torch")

    def check_layers(self) -> None:
        """Raises ModelError if a module has a state that is no tensor, which does not travel."""
        if others := [name for name in self._entries if name not in self.names]:
            raise ModelError(
                f"model: expected a state_dict of tensors, got other values at {', '.join(map(repr, others))}: "
                f"runners and copies would not have them; make them buffers"
            )

    def flat(self) -> list[Any]:
        """The tensors, to be saved."""
        return list(self.variables)

    def set_flat(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Sets the state from arrays in the order of `flat`."""
        self.set(list(arrays))


def share_tensors(one: Any, other: Any) -> bool:
    """Whether two modules have a parameter or buffer in common, also while those of a lazy module have no shape."""
    first, second = ({id(each) for each in module.state_dict(keep_vars=True).values()} for module in (one, other))
    return bool(first & second)


def check_names(module: Any, parameters: Any) -> None:
    """Raises ModelError unless these are named parameters of a module, and buffers of it at most beside them."""
    if not isinstance(parameters, Mapping):
        check_framework("torch", parameters)
        raise ModelError(
            f"agent.with_parameters: expected parameters by their names, as dict(module.named_parameters()) or "
            f"agent.parameters() gives them, got {type(parameters).__name__}"
        )
    known = {name for name, _ in (*module.named_parameters(remove_duplicate=False), *module.named_buffers())}
    missing = [name for name, _ in module.named_parameters() if name not in parameters]
    unexpected = [str(name) for name in parameters if name not in known]
    if missing or unexpected:
        raise ModelError(
            f"agent.with_parameters: expected the parameters of this {type(module).__name__} by their names, got "
            f"{_listed(missing, unexpected)}"
        )


def _listed(missing: Sequence[str], unexpected: Sequence[str]) -> str:
    told = (("missing", missing), ("unexpected", unexpected))
    return "; ".join(f"{what}: {', '.join(map(repr, keys))}" for what, keys in told if keys)


def _given(title: str, value: Any) -> NDArray[Any]:
    """The array of a given tensor. Raises ModelError, with its title, for one that has no numbers or no plain form."""
    try:
        array = array_of(value)
    except Exception as error:
        raise ModelError(f"{title}: expected a tensor of numbers, got {summary(error)}") from error
    if array.dtype.kind not in "biufc":
        raise ModelError(f"{title}: expected a tensor of numbers, got {type(value).__name__} {value!r:.40}")
    return array


def array_of(value: Any) -> NDArray[Any]:
    """An array of a tensor or an array."""
    return np.asarray(Tensor("", value)) if hasattr(value, "detach") else np.asarray(value)
