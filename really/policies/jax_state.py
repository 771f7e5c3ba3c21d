"""JaxModel: a pure function of JAX with its parameters, and the state of one: the leaves of a pytree, by their paths.

JAX is imported only inside functions: whoever has such a model has it already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really._utils.keras_versions import is_layer
from really.errors import InvalidTypeError, ModelError, summary
from really.policies.given_weights import check_framework, expected_weights
from really.policies.model_inputs import check_weights


class JaxModel:
    """A function of parameters and an observation, with its parameters.

    Attributes:
        apply: the function; `apply(parameters, observation)` returns the dict of outputs.
        parameters: the pytree of arrays. A learner sets it to a new one.
    """

    def __init__(self, apply: Callable[..., Any], parameters: Any) -> None:
        self.apply, self.parameters = apply, parameters

    @property
    def title(self) -> str:
        """The name of the user's function, for messages."""
        return str(getattr(self.apply, "__qualname__", type(self.apply).__name__))

    def without_streams(self, arrays: Any) -> Any:
        """Given parameters without what is no parameter of the model."""
        return arrays

    def __call__(self, observation: Any, **recurrent: Any) -> Any:
        """The outputs under the model's parameters; a recurrent model gets its state, too."""
        return self.apply(self.parameters, observation, **recurrent)


class NnxModel(JaxModel):
    """A module of flax `nnx`, as a function of its state without random streams. It is called in evaluation mode.

    Attributes:
        module: the module itself, which a learner trains.
    """

    def __init__(self, module: Any) -> None:
        self.module = module

    @property
    def title(self) -> str:
        """The name of the module's class."""
        return type(self.module).__qualname__

    @property
    def parameters(self) -> Any:
        """The state of the module at the moment."""
        return self._split()[2]

    @parameters.setter
    def parameters(self, state: Any) -> None:
        from flax import nnx

        nnx.update(self.module, state)

    def apply(self, parameters: Any, observation: Any, **recurrent: Any) -> Any:
        """The outputs of a module with this state."""
        from flax import nnx

        graph, streams, _ = self._split()
        module = nnx.merge(graph, streams, parameters)
        module.eval()
        return module(observation, **recurrent)

    def without_streams(self, arrays: Any) -> Any:
        """A given state of flax without its random streams, which the model keeps."""
        from flax import nnx

        return nnx.filter_state(arrays, nnx.Not(nnx.RngState)) if isinstance(arrays, nnx.State) else arrays

    def _split(self) -> Any:
        from flax import nnx

        return nnx.split(self.module, nnx.RngState, ...)


def is_nnx(model: Any) -> bool:
    """Whether this is a module of flax `nnx`, and no layer of Keras that is one, too."""
    return not is_layer(model) and any(
        base.__name__ == "Module" and base.__module__ == "flax.nnx.module" for base in type(model).__mro__
    )


def _is_unbound(model: Any) -> bool:
    """Whether this is a module of flax `linen` that was not bound to parameters, so that nobody can call it."""
    known = any(base.__name__ == "Module" and base.__module__ == "flax.linen.module" for base in type(model).__mro__)
    return known and getattr(model, "scope", None) is None


def is_pair(model: Any) -> bool:
    """Whether this is a pair of a function and its parameters."""
    return isinstance(model, tuple) and len(model) == 2 and callable(model[0]) and not callable(model[1])


def own_arrays(parameters: Any) -> Any:
    """A pytree with copies of the arrays: whoever has the others may donate them to a function, or write into them.

    Raises:
        ModelError: a leaf is no array of numbers.
    """
    import jax

    check_leaves("model", parameters)
    copied = (jax.Array, np.ndarray)
    return jax.tree_util.tree_map(lambda leaf: leaf.copy() if isinstance(leaf, copied) else leaf, parameters)


def kept(model: Any) -> Any:
    """A pair `(apply, parameters)` with arrays of its own; any other model as it is."""
    return (model[0], own_arrays(model[1])) if is_pair(model) else model


def check_leaves(title: str, parameters: Any) -> None:
    """Raises ModelError, with the path of the leaf, unless all leaves of a pytree are numbers or arrays of them."""
    import jax

    for path, leaf in jax.tree_util.tree_flatten_with_path(parameters)[0]:
        if got := _no_numbers(leaf):
            where = jax.tree_util.keystr(path)
            raise ModelError(f"{title}: expected a pytree of arrays of numbers, got {got} at {where or 'its root'}")


def _no_numbers(leaf: Any) -> str:
    """What a leaf is, if it is no number and no array of numbers; else nothing."""
    if is_key(leaf):
        return "a key of jax.random (jax.random.key_data(key) gives its numbers)"
    if getattr(leaf, "is_deleted", bool)():
        return "an array that was donated to a function (donate_argnums): take what that function has returned"
    try:
        kind = np.dtype(leaf.dtype if hasattr(leaf, "aval") else np.asarray(leaf).dtype).kind
    except Exception as error:
        return f"{type(leaf).__name__}: {summary(error)}"
    return "" if kind in "biufcV" else f"{type(leaf).__name__} {leaf!r:.40}"


def as_jax_model(model: Any) -> Any:
    """A pair `(apply, parameters)` or a module of flax `nnx` as a JaxModel; anything else as it is.

    Raises:
        InvalidTypeError: it is a module of flax `linen` without its parameters.
    """
    if _is_unbound(model):
        raise InvalidTypeError(
            f"model: expected the pair (module.apply, module.init(key, example)) for a module of flax linen, or a "
            f"function without arguments that makes it, got {type(model).__name__} alone, which has no parameters"
        )
    if is_pair(model):
        return JaxModel(*kept(model))
    return NnxModel(model) if is_nnx(model) else model


class Leaf:
    """An array of a pytree.

    Attributes:
        name: its path in the pytree.
        array: the array.
        shape: its shape.
        dtype: the dtype with which it travels: bfloat16 becomes float32, which holds each of its values.
    """

    def __init__(self, name: str, array: Any) -> None:
        self.name, self.array, self.shape = name, array, tuple(np.shape(array))
        self.dtype = np.asarray(self).dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        array = np.asarray(self.array)
        return np.array(array if array.dtype.isbuiltin == 1 else array.astype(np.float32), dtype, copy=True)


def is_key(leaf: Any) -> bool:
    """Whether this is a key of `jax.random` with a type of its own, whose numbers NumPy cannot see."""
    return str(getattr(leaf, "dtype", "")).startswith("key<")


def like(leaf: Any, array: NDArray[Any]) -> Any:
    """The values of an array in the form of a leaf: its type, dtype, and device if the leaf is bound to one."""
    import jax

    if is_key(leaf):
        return jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf))
    if not hasattr(leaf, "dtype"):
        return type(leaf)(array)
    if not isinstance(leaf, jax.Array):
        return np.asarray(array, leaf.dtype)
    values = jax.numpy.asarray(np.asarray(array)).astype(leaf.dtype)
    return jax.device_put(values, leaf.sharding) if getattr(leaf, "committed", False) else values


class JaxState:
    """The state of a JaxModel at the moment.

    Attributes:
        variables: the leaves of the pytree, in its order.
    """

    def __init__(self, model: JaxModel) -> None:
        import jax

        self._model = model
        found, self._structure = jax.tree_util.tree_flatten_with_path(model.parameters)
        self.variables = [Leaf(jax.tree_util.keystr(path), array) for path, array in found]

    @property
    def weights(self) -> list[Any]:
        """All of the leaves."""
        return self.variables

    @property
    def trainable(self) -> list[Any]:
        """The leaves of real numbers."""
        return [leaf for leaf in self.variables if leaf.dtype.kind == "f"]

    def is_current(self) -> bool:
        """False: making the state anew is as cheap as looking."""
        return False

    def has_parts_of(self, other: Any) -> bool:
        """Whether both have the same structure and shapes: arrays are replaced whenever weights are set."""
        return self.is_like(other) and self._structure == getattr(other, "_structure", None)

    def is_like(self, other: Any) -> bool:
        """Whether both have arrays of the same shapes, so that the weights of one fit the other."""
        return [leaf.shape for leaf in self.variables] == [tuple(each.shape) for each in other.variables]

    def get(self) -> list[NDArray[Any]]:
        """Copies of the arrays, in the order of the pytree."""
        return [np.asarray(leaf) for leaf in self.variables]

    def parameters(self) -> Any:
        """The pytree, with arrays of its own, which may be donated."""
        return own_arrays(self._model.parameters)

    def in_order(self, arrays: Any) -> Any:
        """The arrays of a pytree in the order of `get`; a list of arrays as it is.

        Raises:
            ModelError: the pytree has another structure.
        """
        import jax

        if isinstance(arrays, list) and self._structure != jax.tree_util.tree_structure(arrays):
            nested = any(isinstance(each, Mapping | list | tuple) for each in arrays)
            if len(arrays) == len(self.variables) or not nested:
                return arrays
        if arrays is None or isinstance(arrays, str | Iterator):
            raise ModelError(f"weights: expected {expected_weights('jax')}, got {type(arrays).__name__}")
        arrays = self._model.without_streams(arrays)
        found, structure = jax.tree_util.tree_flatten_with_path(arrays)
        if structure != self._structure:
            check_framework("jax", arrays)
            raise _of_another_structure("weights", {leaf.name for leaf in self.variables}, _names(arrays))
        check_leaves("weights", arrays)
        return [np.asarray(Leaf("", array)) for _, array in found]

    def set(self, arrays: Any) -> None:
        """Sets the parameters, from a list as `get` gives it or from a pytree.

        Raises:
            ModelError: the structure or a shape is not the model's; nothing is changed then.
        """
        import jax

        arrays = self.in_order(arrays)
        self.check(arrays)
        pairs = zip(self.variables, arrays, strict=True)
        leaves = [like(jax.numpy.asarray(leaf.array), array) for leaf, array in pairs]
        self._model.parameters = jax.tree_util.tree_unflatten(self._structure, leaves)

    def check(self, arrays: Any) -> None:
        """Raises ModelError unless the arrays have the shapes of the leaves."""
        names = [leaf.name for leaf in self.variables]
        check_weights([leaf.shape for leaf in self.variables], self.in_order(arrays), names, "jax")

    def check_layers(self) -> None:
        """All of the state is in the pytree."""

    def flat(self) -> list[Any]:
        """The leaves, to be saved."""
        return list(self.variables)

    def set_flat(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Sets the state from arrays in the order of `flat`."""
        self.set(list(arrays))


def check_names(own: Any, given: Any) -> None:
    """Raises ModelError unless a given pytree of parameters has the leaves of the model's own."""
    if _names(own) != _names(given):
        raise _of_another_structure("agent.with_parameters", _names(own), _names(given))


def _names(pytree: Any) -> set[str]:
    import jax

    return {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(pytree)[0]}


def _of_another_structure(title: str, own: set[str], given: set[str]) -> ModelError:
    return ModelError(
        f"{title}: expected a pytree of the structure of the model's parameters, as agent.parameters() gives it, got "
        f"another one: missing: {_listed(own - given)}; unexpected: {_listed(given - own)}"
    )


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"
