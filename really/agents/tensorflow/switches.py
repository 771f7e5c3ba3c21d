"""Switches of the whole process, which are changed for a while: how TensorFlow runs its functions, its threads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

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
