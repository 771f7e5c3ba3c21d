"""The state of an optimizer of PyTorch: tensors as arrays in a file of safetensors, numbers in the description.

PyTorch is imported where a state is set: whoever has an optimizer has it already.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really.checkpoints import tensor_files
from really.checkpoints.array_files import Described
from really.checkpoints.variables import check_framework
from really.errors import ModelError
from really.policies.torch_state import Tensor


def is_torch_optimizer(optimizer: Any) -> bool:
    """Whether this is an optimizer of PyTorch, or one of its kind."""
    return any(
        base.__name__ == "Optimizer" and base.__module__.startswith("torch.") for base in type(optimizer).__mro__
    )


class TorchOptimizerArrays:
    """The state of an optimizer, to be saved and set again.

    Args:
        name: name of the optimizer in messages, and of its file.
        optimizer: an optimizer of PyTorch.
    """

    framework, suffix = "torch", tensor_files.SUFFIX

    def __init__(self, name: str, optimizer: Any) -> None:
        self.name, self._optimizer = name, optimizer

    def about(self) -> dict[str, Any]:
        """The description that another optimizer must match to load this state."""
        groups = self._optimizer.state_dict()["param_groups"]
        return {
            "framework": self.framework,
            "class": type(self._optimizer).__name__,
            "groups": [{key: _plain(value) for key, value in group.items()} for group in groups],
            "numbers": {name: _plain(value) for name, value in self._entries() if not hasattr(value, "detach")},
            "shapes": [[list(each.shape) for each in group["params"]] for group in self._optimizer.param_groups],
            "weights": [_described(each) for each in self._tensors()],
        }

    def write(self, path: Path) -> None:
        """Writes the tensors to a new file."""
        tensors = self._tensors()
        tensor_files.write(path, tensors, [_described(each) for each in tensors])

    def read(self, path: Path, saved: dict[str, Any]) -> list[NDArray[Any]]:
        """Reads the arrays of a file; raises ModelError if they are those of another optimizer."""
        own = self.about()
        check_framework(path, saved.get("framework", "tensorflow"), self.framework, self.name)
        for what in ("class", "shapes"):
            if saved.get(what) != own[what]:
                raise ModelError(f"{path}: expected {what} {own[what]} of this {self.name}, got {saved.get(what)}")
        return tensor_files.read(path, saved["weights"])

    def copies(self) -> list[Any]:
        """A copy of the state, which `set_all` takes."""
        return [copy.deepcopy(self._optimizer.state_dict())]

    def set_all(self, copies: Sequence[Any]) -> None:
        """Sets the whole state to a copy of `copies`."""
        self._optimizer.load_state_dict(copies[0])

    def set(self, arrays: Sequence[NDArray[Any]], saved: dict[str, Any]) -> None:
        """Sets the state of the optimizer, its learning rate included."""
        import torch

        names = [about["name"] for about in saved["weights"]]
        values = {name: torch.from_numpy(array) for name, array in zip(names, arrays, strict=True)} | saved["numbers"]
        state: dict[int, dict[str, Any]] = {}
        for name, value in values.items():
            number, _, key = name.partition(".")
            state.setdefault(int(number), {})[key] = value
        own = self._optimizer.state_dict()["param_groups"]
        groups = [_like(group, given) for group, given in zip(own, saved["groups"], strict=True)]
        self._optimizer.load_state_dict({"state": state, "param_groups": groups})

    def _entries(self) -> list[tuple[str, Any]]:
        """Names `<number of the parameter>.<key>` and values of the state.

        Raises:
            ModelError: a value is neither a tensor nor a number, as those of LBFGS.
        """
        state: Mapping[int, Mapping[str, Any]] = self._optimizer.state_dict()["state"]
        found = [(f"{number}.{key}", value) for number, entries in state.items() for key, value in entries.items()]
        for name, value in found:
            if not (value is None or isinstance(value, int | float | str) or hasattr(value, "detach")):
                raise ModelError(
                    f"{self.name}: expected a state of tensors and numbers, got {type(value).__name__} at {name!r} of "
                    f"{type(self._optimizer).__name__}, which checkpoints do not hold"
                )
        return found

    def _tensors(self) -> list[Tensor]:
        return [Tensor(name, value) for name, value in self._entries() if hasattr(value, "detach")]


def _described(tensor: Tensor) -> Described:
    return {"name": tensor.name, "shape": list(tensor.shape), "dtype": str(tensor.dtype)}


def _plain(value: Any) -> Any:
    """A setting of a group in JSON types."""
    if hasattr(value, "detach"):
        return np.asarray(Tensor("", value)).tolist()
    return list(value) if isinstance(value, tuple) else value


def _like(group: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    """The saved settings of a group, in the types of its own."""
    own = {key: tuple(value) if isinstance(group.get(key), tuple) else value for key, value in saved.items()}
    return {**group, **own}
