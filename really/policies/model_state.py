"""The state of a model: its weights as `get_weights()` gives them, and variables that Keras does not count as weights.

Keras counts its own variables in its own layers. A `tf.Variable` that is an attribute is not among `model.weights`, nor
is a layer inside of an object that is no layer. Such variables follow the weights here, in the order of their names.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import operator
from collections.abc import Iterator, Mapping, Sequence, Sized, ValuesView
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from really._utils.keras_versions import is_layer, name_of
from really.errors import ModelError
from really.policies.model_inputs import check_weights

# Classes with variables that are no state of a model: of training, and of random streams, which every copy has for
# itself.
_APART = {"Optimizer", "BaseOptimizer", "OptimizerV2", "Metric", "Loss", "SeedGenerator", "Generator"}
_LAYERS, _VARIABLES = {"Layer", "Module"}, {"Variable", "BaseResourceVariable"}
# Variables of a model of Keras 2 that `fit` and its like use, and no call.
_OF_FIT = {"_train_counter", "_test_counter", "_predict_counter", "_steps_per_execution"}
_FRAMEWORKS = ("keras", "tf_keras", "tensorflow")
_OF_KERAS_3 = ("keras.src.layers.layer", "Layer.get_weights")
_NOT_OF_A_MODEL = (*_FRAMEWORKS, "builtins", "numpy", "really", "ray", "gym", "gymnasium", "functools", "threading")


class Place(NamedTuple):
    """Where a variable is: `holder[key]` in the dict or list `holder`."""

    holder: Any
    key: Any


class Found:
    """A variable that is none of the model's weights, with all its places in the model.

    Attributes:
        path: its name, as Python spells it: `heads[0].log_std`.
        variable: the variable of Keras or TensorFlow.
        places: where the model has it.
    """

    def __init__(self, path: str, variable: Any) -> None:
        self.path, self.variable = path, variable
        self.places: list[Place] = []
        self.shape, self.dtype, self.assign = variable.shape, variable.dtype, variable.assign
        self.dtype = getattr(variable.dtype, "name", variable.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.variable.numpy(), dtype, copy=copy)


METHODS = ("get_weights", "set_weights")


class ModelState:
    """The state of a model at the moment.

    Attributes:
        weights: the variables of `model.weights`; empty for a model that is none of Keras.
        others: the other variables of a Keras model, or all variables of a model without these methods.
        layers: names and layers, the model itself included.
    """

    def __init__(self, model: Any) -> None:
        self._model, self._has_weights = model, all(hasattr(model, name) for name in METHODS)
        self.is_keras = is_layer(model)
        self.weights: list[Any] = list(model.weights) if self.is_keras else []
        weights = {id(variable): variable for variable in self.weights}
        # Keras 3 can itself replace its variables in a call. Those of Keras 2 are variables of TensorFlow.
        walk = _Walk({key for key, variable in weights.items() if hasattr(variable, "path")})
        walk.into(model, "")
        self.layers = walk.layers
        # An object with both methods of its own says itself what its weights are.
        found = walk.found.values() if self.is_keras or not self._has_weights else ()
        others = (each for each in found if id(each.variable) not in weights)
        self.others: list[Found] = sorted(others, key=lambda each: each.path)
        self._replaceable = [*(each for each in found if id(each.variable) in weights), *self.others]
        self._parts = [
            *self.weights,
            *(found.variable for found in walk.found.values()),
            *(layer for _, layer in walk.layers),
        ]
        self._contents = walk.held, list(map(len, walk.held)), list(itertools.chain.from_iterable(walk.held))

    @staticmethod
    def is_model(model: Any) -> bool:
        """Whether this object can be saved and set: it has `get_weights` and `set_weights`, or variables."""
        if all(hasattr(model, name) for name in METHODS):
            return not isinstance(model, type)
        return bool(ModelState(model).others)

    @property
    def variables(self) -> list[Any]:
        """The variables of the state, in the order of `get`; empty for an object with `get_weights` of its own."""
        return [*self.weights, *(found.variable for found in self.others)]

    @property
    def trainable(self) -> list[Any]:
        """The variables that a learner trains."""
        own = list(self._model.trainable_variables) if self.is_keras else []
        return [*own, *(found.variable for found in self.others if found.variable.trainable)]

    def is_current(self) -> bool:
        """Whether all that the model holds is what it held when this object was made; False may be a false alarm.

        A variable may have other values since then. It costs a fraction of making this object anew.
        """
        held, sizes, values = self._contents
        return list(map(len, held)) == sizes and all(map(operator.is_, itertools.chain.from_iterable(held), values))

    def has_parts_of(self, other: ModelState) -> bool:
        """Whether both have the same layers and variables: False once a part of the model was replaced."""
        return len(self._parts) == len(other._parts) and all(map(operator.is_, self._parts, other._parts))

    def is_like(self, other: ModelState) -> bool:
        """Whether both have variables of the same shapes, so that the weights of one fit the other."""
        return [tuple(v.shape) for v in self.variables] == [tuple(v.shape) for v in other.variables]

    def get(self) -> Any:
        """Copies of the arrays: what `model.get_weights()` gives, and after these the other variables."""
        weights = self._weight_arrays() if self._has_weights else []
        return [*weights, *map(np.array, self.others)] if self.others else weights

    def _weight_arrays(self) -> Any:
        """What `model.get_weights()` gives; its variables are asked for tensors, which takes half the time."""
        own = type(self._model).get_weights if self.is_keras else None
        if own is not None and (own.__module__, own.__qualname__) == _OF_KERAS_3:
            values: list[Any] = [getattr(variable, "value", None) for variable in self._model.weights]
            tensors = [value.value() for value in values if hasattr(value, "value")]
            if len(tensors) == len(values) and all(hasattr(tensor, "numpy") for tensor in tensors):
                return [tensor.numpy() for tensor in tensors]
        return self._model.get_weights()  # of another version or class, or where a graph is traced, which it refuses

    def parameters(self) -> Any:
        """The variables; what an object with `get_weights` of its own gives."""
        return self.variables or self.get()

    def in_order(self, arrays: Any) -> Any:
        """The arrays as they are."""
        return arrays

    def set(self, arrays: Any) -> None:
        """Sets the state. Arrays for `model.weights` alone leave the other variables as they are.

        Raises:
            ModelError: the number of arrays or a shape is not the model's; nothing is changed then.
        """
        if self.is_keras or not self._has_weights:
            self.check(arrays)
            for found, array in zip(self.others, arrays[len(self.weights) :], strict=False):
                found.assign(array)
            arrays = list(arrays[: len(self.weights)])
        if self._has_weights:
            self._model.set_weights(arrays)
        self.finalize()

    def check(self, arrays: Any) -> None:
        """Raises ModelError unless arrays have the shapes of the variables; an object of its own is not asked."""
        if not self.is_keras and self._has_weights:
            return
        wanted = [*self.weights, *self.others]
        if isinstance(arrays, Sequence) and len(arrays) == len(self.weights):
            wanted = self.weights
        if not wanted and (not isinstance(arrays, Sized) or len(arrays)):
            got = f"{len(arrays)} arrays" if isinstance(arrays, list | tuple) else type(arrays).__name__
            raise ModelError(f"weights: expected none, as {self._what_it_has()}, got {got}")
        names = list(map(name_of, wanted))
        check_weights([tuple(each.shape) for each in wanted], arrays, names, "tensorflow")

    def _what_it_has(self) -> str:
        """Which methods an object that is no model of a framework lacks, for messages."""
        lacks = [name for name in METHODS if not hasattr(self._model, name)]
        return f"{type(self._model).__name__} is a callable without {' and '.join(lacks)}"

    def flat(self) -> list[Any]:
        """The variables, or the arrays of an object with `get_weights` of its own, to be saved."""
        if self.is_keras or not self._has_weights:
            return [*self.weights, *self.others]
        weights = self._model.get_weights()
        if isinstance(weights, Mapping):
            return list(weights.values())
        return list(weights) if isinstance(weights, list | tuple) else [np.asarray(weights)]

    def set_flat(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Sets the state from arrays in the order of `flat`."""
        form = [] if self.is_keras or not self._has_weights else self._model.get_weights()
        if isinstance(form, Mapping):
            self.set(dict(zip(form, arrays, strict=True)))
        else:
            self.set(list(arrays) if isinstance(form, list | tuple) else arrays[0])

    @property
    def has_finalized(self) -> bool:
        """Whether `finalize` does anything."""
        return bool(self._finalized())

    def finalize(self) -> None:
        """Makes layers such as `Normalization` use the state that they have now."""
        for layer in self._finalized():
            layer.finalize_state()

    @contextlib.contextmanager
    def finalized(self) -> Iterator[None]:
        """Lets layers such as `Normalization` compute anew what they use, as part of a graph that is being traced."""
        layers = self._finalized()
        before = [dict(vars(layer)) for layer in layers]
        try:
            self.finalize()
            yield
        finally:
            for layer, attributes in zip(layers, before, strict=True):
                vars(layer).update(attributes)

    @contextlib.contextmanager
    def replaced(self, tensors: Sequence[Any]) -> Iterator[None]:
        """Puts tensors, one for each of `variables`, into the places of variables that Keras 3 does not replace."""
        values = dict(zip(map(id, self.variables), tensors, strict=True))
        try:
            for found in self._replaceable:
                for place in found.places:
                    _put(place, values[id(found.variable)])
            yield
        finally:
            for found in self._replaceable:
                for place in found.places:
                    _put(place, found.variable)

    def check_layers(self) -> None:
        """Raises ModelError if a layer has a state that does not travel: one between calls, or an adapted one."""
        for name, layer in self.layers:
            kind = type(layer).__name__
            if getattr(layer, "stateful", False) is True:
                raise ModelError(
                    f"model: expected layers without a state between calls, got {kind} {name!r} with stateful=True: "
                    f"its state would cross agents and episodes; stateful=False works, on the last observations"
                )
            if hasattr(layer, "adapt") and not layer.weights and not _is_given(layer):
                raise ModelError(
                    f"model: expected {kind} {name!r} to have its vocabulary or boundaries from the constructor, got "
                    f"one for adapt(): what that sets are no weights, so that runners and copies would not have it"
                )

    def _finalized(self) -> list[Any]:
        return [layer for _, layer in self.layers if hasattr(layer, "finalize_state") and layer.weights]


class PartsWatch:
    """Notices within a microsecond that a part of a model was replaced by hand since this object was made.

    A part is a layer, a variable, or an object or container that holds some, as an attribute or as an item.
    """

    def __init__(self, model: Any) -> None:
        walk = _Walk(set(), only_public=True)
        walk.into(model, "")
        self._parts, self._sizes = walk.parts, walk.sizes

    def is_current(self) -> bool:
        """Whether each part is where it was."""
        try:
            for place, part in self._parts:
                if place.holder[place.key] is not part:
                    return False
        except (KeyError, IndexError):
            return False
        return all(len(container) == size for container, size in self._sizes)


def same_arrays(one: Any, other: Any) -> bool:
    """Whether two models' weights are equal: arrays, or lists or dicts of them."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same_arrays(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same_arrays, one, other))
    return bool(np.array_equal(one, other))


def shared_variables(one: Any, other: Any) -> bool:
    """Whether two models are one, or have a variable in common."""
    if one is other:
        return True
    mine, others = (_Walk(set()) for _ in range(2))
    mine.into(one, "")
    others.into(other, "")
    return bool(mine.found.keys() & others.found.keys())


def holds_variables(model: Any) -> bool:
    """Whether a model is one of Keras or TensorFlow, or an object that holds layers or variables of theirs."""
    if is_layer(model):
        return True
    walk = _Walk(set())
    walk.into(model, "")
    return bool(walk.layers or walk.found)


class _Walk:
    """Finds layers, and variables that are not among the known ones.

    With `only_public` it leaves out what private attributes hold. `parts` has layers, variables, and what holds some,
    with their places; `sizes` has the containers among these, with their lengths. `held` has the values of each
    object and container that was looked into; a view of a dict shows what it holds at the moment.
    """

    def __init__(self, known: set[int], only_public: bool = False) -> None:
        self.layers: list[tuple[str, Any]] = []
        self.found: dict[int, Found] = {}
        self.parts: list[tuple[Place, Any]] = []
        self.sizes: list[tuple[Any, int]] = []
        self.held: list[Any] = []
        self._known, self._only_public = known, only_public
        # Whether an object that was seen is a part, by its id.
        self._seen: dict[int, bool] = {}

    def into(self, obj: Any, name: str) -> bool:
        """Looks at an object and all that it holds; returns whether it is a layer, or holds layers or variables."""
        if id(obj) in self._seen:
            return self._seen[id(obj)]
        kind, before = _kind_of(obj), len(self.parts)
        self._seen[id(obj)] = kind == "layer"
        if kind == "layer":
            # Keras lists the layers of a functional model in a private attribute.
            self.layers.append((getattr(obj, "name", name) if not name or "_layers[" in name else name, obj))
        if kind in ("layer", "object"):
            self._attributes(vars(obj), name)
        elif kind:
            self._items(obj, kind, name)
        is_part = self._seen[id(obj)] = kind == "layer" or len(self.parts) > before
        if is_part and kind in ("mapping", "sequence"):
            self.sizes.append((obj, len(obj)))
        return is_part

    def _attributes(self, attributes: dict[str, Any], name: str) -> None:
        self.held.append(attributes.values())
        keys = [key for key, value in attributes.items() if _kind_of(value) and self._is_looked_at(key)]
        # Attributes of Keras come last, so that a variable has the name that the user gave it.
        for key in sorted(keys, key=lambda key: key.startswith("_")):
            self._item(attributes, key, f"{name}.{key}" if name else key)

    def _items(self, container: Any, kind: str, name: str) -> None:
        # The values of a mapping that is no dict, such as a weak one of Keras 2, may be a generator.
        if kind == "mapping":
            self.held.append(container.values() if isinstance(container, dict) else ValuesView(container))
        else:
            self.held.append(container)
        for key in list(container) if kind == "mapping" else range(len(container)):
            self._item(container, key, f"{name}[{key!r}]")

    def _item(self, holder: Any, key: Any, name: str) -> None:
        value = holder[key]
        kind = _kind_of(value)
        if kind == "variable" and id(value) not in self._known:
            found = self.found.setdefault(id(value), Found(name, value))
            found.places.append(Place(holder, key))
        if kind == "variable" or (kind and self.into(value, name)):
            self.parts.append((Place(holder, key), value))

    def _is_looked_at(self, key: str) -> bool:
        return not key.startswith("_") if self._only_public else _is_a_part(key)


def _is_a_part(key: str) -> bool:
    """Whether an attribute may hold a part: Keras 2 lists the layers of a functional model in a private one."""
    if key.startswith("_self_"):
        return key == "_self_tracked_trackables"
    return key not in _OF_FIT


def _kind_of(obj: Any) -> str:
    cls: Any = type(obj)
    return _kind(cls)


@functools.lru_cache(4096)
def _kind(cls: Any) -> str:
    """What objects of this class are in a model: "variable", "layer", "mapping", "sequence", "object" or ""."""
    bases = {base.__name__ for base in cls.__mro__ if base.__module__.split(".")[0] in _FRAMEWORKS}
    if bases & _APART:
        return ""
    if bases & _VARIABLES:
        return "variable"
    if bases & _LAYERS:
        return "layer"
    if issubclass(cls, Mapping):
        return "mapping"
    if issubclass(cls, list | tuple):
        return "sequence"
    of_the_user = not bases and cls.__module__.split(".")[0] not in _NOT_OF_A_MODEL
    return "object" if of_the_user and "__dict__" in dir(cls) else ""


def _put(place: Place, value: Any) -> None:
    if isinstance(place.holder, dict):
        dict.__setitem__(place.holder, place.key, value)
    elif isinstance(place.holder, list):
        list.__setitem__(place.holder, place.key, value)


def _is_given(layer: Any) -> bool:
    """Whether the constructor of a layer that can be adapted was given what it needs."""
    if getattr(layer, "num_bins", None) is not None:
        return False
    names = ("input_mean", "bin_boundaries", "input_vocabulary", "_has_input_vocabulary")
    return any(getattr(layer, name, None) for name in names)
