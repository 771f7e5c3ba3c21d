"""Switches that are changed for a while: how TensorFlow runs its functions, how layers go through time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import tensorflow as tf

from really.agents.seeding import PROCESS_STATE


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
