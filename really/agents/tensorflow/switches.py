"""Switches that are changed for a while: how TensorFlow runs its functions, how layers go through time, precision."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import tensorflow as tf

from really.agents.seeding import PROCESS_STATE

# Policies of Keras with weights of float32 and computations in half precision.
MIXED = ("mixed_float16", "mixed_bfloat16")


@contextlib.contextmanager
def undecorated() -> Iterator[None]:
    """Runs every `tf.function`, of a model and of its layers, as the Python function that it decorates.

    A `tf.function` that was traced earlier holds the variables of that time and ignores weights that are passed in.
    TensorFlow has one switch for all threads, so threads take turns.
    """
    with PROCESS_STATE:
        before = tf.config.functions_run_eagerly()
        tf.config.run_functions_eagerly(True)
        try:
            yield
        finally:
            tf.config.run_functions_eagerly(before)


@contextlib.contextmanager
def unrolled(layers: Iterable[Any]) -> Iterator[None]:
    """Makes recurrent layers of Keras compute one step after the other, without a loop in the graph.

    LiteRT cannot have the lists of tensors of such a loop. An agent that acts shows one step, so nothing grows.
    """
    loops = [layer for layer in layers if vars(layer).get("unroll") is False]
    for layer in loops:
        vars(layer)["unroll"] = True
    try:
        yield
    finally:
        for layer in loops:
            vars(layer)["unroll"] = False


def in_half_precision(layers: Iterable[Any]) -> list[Any]:
    """The layers of Keras that compute in half precision and have weights of float32."""
    policies = ((layer, getattr(layer, "dtype_policy", None)) for layer in layers)
    return [layer for layer, policy in policies if getattr(policy, "name", None) in MIXED]


@contextlib.contextmanager
def in_single_precision(layers: Iterable[Any]) -> Iterator[None]:
    """Makes these layers of Keras compute in float32."""
    before = [(layer, layer.dtype_policy) for layer in layers]
    try:
        for layer, _ in before:
            layer.dtype_policy = "float32"
        yield
    finally:
        for layer, policy in before:
            layer.dtype_policy = policy
