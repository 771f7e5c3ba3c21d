"""Pytrees of JAX in checkpoints: states of optimizers and target parameters, as arrays in a file of safetensors.

JAX is imported where a pytree is taken apart: whoever has one has it already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really.checkpoints import tensor_files, variables
from really.checkpoints.array_files import Described
from really.errors import ModelError
from really.policies.jax_state import Leaf, is_key, like


class Pytree:
    """A pytree of JAX in a place that a checkpoint can set: the state of an optimizer of optax, or target parameters.

    JAX never changes an array, so that a learner replaces the whole pytree in each update:

        state = Pytree(optimizer.init(parameters))
        updates, state.value = optimizer.update(gradients, state.value, parameters)
        manager.save_checkpoint(path, optimizer=state)

    Attributes:
        value: the pytree. `load_checkpoint` sets it to one of the same structure, shapes and dtypes.
    """

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return f"Pytree({self.value!r})"


class _NnxOptimizer:
    """An optimizer of flax `nnx`, which changes in place, with its state as a pytree."""

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer

    @property
    def value(self) -> Any:
        """The state at the moment."""
        from flax import nnx

        return nnx.state(self._optimizer)

    @value.setter
    def value(self, state: Any) -> None:
        from flax import nnx

        nnx.update(self._optimizer, state)


def is_pytree(obj: Any) -> bool:
    """Whether this is a `Pytree`, or an optimizer of flax `nnx`, whose state is one."""
    return isinstance(obj, Pytree) or _is_of_nnx(obj)


def _is_of_nnx(obj: Any) -> bool:
    return any(base.__name__ == "Optimizer" and base.__module__.startswith("flax.nnx.") for base in type(obj).__mro__)


class PytreeArrays:
    """The leaves of a pytree, to be saved and set again.

    Args:
        name: name of the pytree in messages, and of its file.
        pytree: a `Pytree`, or an optimizer of flax `nnx`.
    """

    framework, suffix = "jax", tensor_files.SUFFIX

    def __init__(self, name: str, pytree: Any) -> None:
        self.name, self._pytree = name, _NnxOptimizer(pytree) if _is_of_nnx(pytree) else pytree

    def about(self) -> dict[str, Any]:
        """The description that another pytree must match to load these arrays."""
        return {"framework": self.framework, "pytree": True, "weights": variables.describe(self._leaves())}

    def write(self, path: Path) -> None:
        """Writes the leaves to a new file."""
        leaves = self._leaves()
        tensor_files.write(path, leaves, variables.describe(leaves))

    def read(self, path: Path, saved: dict[str, Any]) -> list[NDArray[Any]]:
        """Reads the arrays of a file; raises ModelError or InvalidFileError if they do not fit this pytree."""
        variables.check_framework(path, saved.get("framework", "tensorflow"), self.framework, self.name)
        own = variables.describe(self._leaves())
        variables.check_same(path, saved["weights"], own, self.name)
        self._check_dtypes(path, saved["weights"], own)
        return tensor_files.read(path, saved["weights"])

    def copies(self) -> list[Any]:
        """The pytree as it is, which `set_all` takes: arrays of JAX do not change, and those of NumPy are copied."""
        import jax

        return [jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf, self._pytree.value)]

    def set_all(self, copies: Sequence[Any]) -> None:
        """Sets the pytree to one of `copies`."""
        (self._pytree.value,) = copies

    def set(self, arrays: Sequence[NDArray[Any]], saved: dict[str, Any]) -> None:
        """Sets the pytree to one of the same structure with these leaves."""
        import jax

        leaves, structure = jax.tree.flatten(self._pytree.value)
        found = [like(leaf, array) for leaf, array in zip(leaves, arrays, strict=True)]
        self._pytree.value = jax.tree.unflatten(structure, found)

    def _leaves(self) -> list[Leaf]:
        """The leaves; a key of `jax.random` as its numbers."""
        import jax

        key_data: Callable[[Any], Any] = jax.random.key_data
        found, _ = jax.tree_util.tree_flatten_with_path(self._pytree.value)
        pairs = [(jax.tree_util.keystr(path), key_data(leaf) if is_key(leaf) else leaf) for path, leaf in found]
        if odd := next((pair for pair in pairs if np.asarray(pair[1]).dtype.kind not in "biufV"), None):
            raise ModelError(
                f"{self.name}: expected a pytree of numbers, got {type(odd[1]).__name__} at {odd[0] or 'its root'}"
            )
        return [Leaf(path or "value", leaf) for path, leaf in pairs]

    def _check_dtypes(self, path: Path, saved: Sequence[Described], own: Sequence[Described]) -> None:
        """Raises ModelError if numbers became whole numbers or the other way round."""
        for before, now in zip(saved, own, strict=True):
            kinds = [np.dtype(each["dtype"]).kind.replace("u", "i") for each in (before, now)]
            if kinds[0] != kinds[1]:
                raise ModelError(f"{path}: {now['name']}: expected {now['dtype']}, got {before['dtype']}")
