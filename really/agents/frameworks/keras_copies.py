"""Copies of Keras models: an instance with variables of its own, also through a pickle, on any backend.

Keras copies and pickles a model through its configuration, which most subclasses do not have. So this module takes the
instance apart: its layers, variables, containers and functions, each once, attribute by attribute.
"""

from __future__ import annotations

import functools
import io
import pickle
import threading
import weakref
from collections import OrderedDict
from typing import Any

import cloudpickle
import keras

from really.errors import ModelError, summary

# What `Layer.__new__` makes for each object: methods wrapped for it.
_OF_THE_OBJECT = frozenset(("build", "quantize"))
# Compiled by `fit` and its like, which compile again if there is none.
_COMPILED = ("train_function", "test_function", "predict_function")
_LOCKS: dict[type, Any] = {type(make()): make for make in (threading.Lock, threading.RLock, threading.local)}


def copy_model(model: Any, pickler: Any = None) -> Any:
    """A copy of a model with the same weights, which shares no variable with it.

    Raises:
        ModelError: the model holds something that cannot be copied, for example an open file.
    """
    try:
        return pickle.loads(pickled_model(model, pickler or KerasPickler))
    except Exception as error:
        raise ModelError(
            f"model: expected one that can be copied, or a class or function that makes another one, got an instance "
            f"of {type(model).__name__}: {summary(error)}"
        ) from error


def pickled_model(model: Any, pickler: Any = None) -> bytes:
    """The model as a pickle, which holds classes and functions by value if no module has them."""
    buffer = io.BytesIO()
    (pickler or KerasPickler)(buffer).dump(model)
    return buffer.getvalue()


class KerasPickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Takes layers, variables and trackers of Keras apart."""

    def reducer_override(self, obj: Any) -> Any:
        """How an object is pickled."""
        if isinstance(obj, self.classes()) or _is_of_keras(obj):
            return _new, (type(obj),), (_contents(obj), _state(obj)), None, None, _set
        if isinstance(obj, weakref.ref) or type(obj) in _LOCKS:
            return (_weak, (obj(),)) if isinstance(obj, weakref.ref) else (_LOCKS[type(obj)], ())
        return super().reducer_override(obj)

    @staticmethod
    def classes() -> tuple[type, ...]:
        """The classes of which each object is taken apart."""
        return _classes()


@functools.cache
def _classes() -> tuple[type, ...]:
    """The classes of Keras, with its containers."""
    bases = [base for base in keras.layers.Layer.__mro__ if base.__name__ in ("KerasSaveable", "AutoTrackable")]
    layer: Any = keras.layers.Layer()
    layer.containers = [[], {}, set()]
    return *bases, keras.Variable, *map(type, layer.containers), type(layer.containers)


def _is_of_keras(obj: Any) -> bool:
    """Whether this is an object of a class that Keras has, which may guard the access to its attributes."""
    cls = type(obj)
    return cls.__module__.startswith("keras.") and not isinstance(obj, type) and "__dict__" in dir(cls)


def _weak(referent: Any) -> Any:
    return weakref.ref(set() if referent is None else referent)


def _new(cls: Any) -> Any:
    return keras.layers.Layer.__new__(cls) if issubclass(cls, keras.layers.Layer) else cls.__new__(cls)


def _contents(obj: Any) -> list[Any]:
    return list(obj.items() if isinstance(obj, dict) else obj) if isinstance(obj, list | dict | set) else []


def _state(obj: Any) -> dict[str, Any]:
    state = {name: value for name, value in vars(obj).items() if name not in _OF_THE_OBJECT}
    return state | {name: None for name in _COMPILED if name in state}


def _set(obj: Any, contents_and_state: tuple[list[Any], dict[str, Any]]) -> None:
    """Fills a new object, past methods of Keras that would register the parts again."""
    contents, state = contents_and_state
    if isinstance(obj, list):
        list.extend(obj, contents)
    elif isinstance(obj, set):
        set.update(obj, contents)
    elif isinstance(obj, dict):
        kind = OrderedDict if isinstance(obj, OrderedDict) else dict
        for key, value in contents:
            kind.__setitem__(obj, key, value)
    vars(obj).update(state)
    _know_again(obj, state)


def _know_again(obj: Any, state: dict[str, Any]) -> None:
    """Makes trackers and optimizers of Keras know the copied variables, which they remember by identity."""
    if "stored_ids" in state:
        obj.stored_ids = {name: {id(each) for each in store} for name, (_, store) in state["config"].items()}
    if "_trainable_variables_indices" in state:
        key_of, trained = getattr(obj, "_var_key", id), state["_trainable_variables"]
        indices = state["_trainable_variables_indices"]
        dict.clear(indices)
        dict.update(indices, {key_of(each): at for at, each in enumerate(trained)})
