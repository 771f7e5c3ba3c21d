"""Copies of models on TensorFlow, and models in pickles: `keras_copies.py` with what only TensorFlow has."""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf

from really._utils.keras_versions import graph_of_parts, is_legacy_graph, parts_of_graph
from really.agents.frameworks import keras_copies


def copy_model(model: Any) -> Any:
    """A copy of a model with the same weights, which shares no variable with it.

    Raises:
        ModelError: the model holds something that cannot be copied, for example an open file.
    """
    return keras_copies.copy_model(model, _TensorFlowPickler)


def pickled(model: Any) -> bytes:
    """The model as a pickle, which holds classes and functions by value if no module has them."""
    return keras_copies.pickled_model(model, _TensorFlowPickler)


class _TensorFlowPickler(keras_copies.KerasPickler):
    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, tf.Variable):
            return _variable, (obj.numpy(), obj.trainable, obj.name.split(":")[0])
        if is_legacy_graph(obj):
            return graph_of_parts, parts_of_graph(obj)
        if isinstance(obj, _function_class()):
            return tf.function, (obj.python_function, obj.input_signature)
        return super().reducer_override(obj)

    @staticmethod
    def classes() -> tuple[type, ...]:
        return *keras_copies.KerasPickler.classes(), tf.Module


@functools.cache
def _function_class() -> Any:
    return type(tf.function(lambda: None))


def _variable(value: Any, trainable: bool, name: str) -> tf.Variable:
    return tf.Variable(value, trainable=trainable, name=name)
