"""Compiled: a `tf.function` whose traces are looked up by shapes and dtypes, faster than TensorFlow does it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

Signature = tuple[Any, ...]
"""Shape and dtype of each argument."""

MAX_SIGNATURES = 1024
"""Size of a cache, which is emptied when it is full. TensorFlow keeps the traces themselves."""

_EagerTensor = type(tf.constant(0.0))


def signature(tensors: Sequence[Any]) -> Signature | None:
    """The key of a compiled function for these tensors.

    Returns None if one of them is not an eager tensor, or if TensorFlow traces a graph or runs functions as Python.
    """
    parts: list[Any] = []
    for tensor in tensors:
        if type(tensor) is not _EagerTensor:
            return None
        parts += tensor.shape, tensor.dtype
    return tuple(parts) if tf.executing_eagerly() and not tf.config.functions_run_eagerly() else None


def remember(cache: dict[Any, Any], key: Any, value: Any) -> None:
    """Adds an entry to a cache; empties the cache first if it is full."""
    if len(cache) >= MAX_SIGNATURES:
        cache.clear()
    cache[key] = value


class Compiled:
    """A `tf.function` of single tensors, made from a function of a list of leaves and further tensors.

    TensorFlow inspects bound methods and lists in each call, so it gets neither. Choosing the trace for the arguments
    takes TensorFlow half the time of a small call, so this class chooses it once for each signature. Inside a graph
    that is being traced, TensorFlow chooses.

    Args:
        function: takes a list of leaves, and further tensors.
        num_leaves: number of tensors that belong to that list.
        context: returns the context manager in which Python is traced.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        num_leaves: int,
        context: Callable[[], contextlib.AbstractContextManager[None]],
    ) -> None:
        def flat(*tensors: tf.Tensor) -> Any:
            with context():
                return function(list(tensors[:num_leaves]), *tensors[num_leaves:])

        flat.__name__ = function.__name__
        self._function = tf.function(flat, reduce_retracing=True, autograph=False)
        self._traces: dict[Signature, Callable[..., Any]] = {}

    def __call__(self, *tensors: tf.Tensor) -> Any:
        """Calls the function. The leaves come first, then the further tensors."""
        return self.trace(tensors)(*tensors)

    @property
    def num_traces(self) -> int:
        """Number of times that Python was traced."""
        return int(self._function.experimental_get_tracing_count())

    def trace(self, tensors: Sequence[tf.Tensor]) -> Callable[..., Any]:
        """The compiled function for tensors of these shapes and dtypes."""
        key = signature(tensors)
        if key is None:
            return self._function  # type: ignore[no-any-return]
        if key not in self._traces:
            remember(self._traces, key, self._function.get_concrete_function(*tensors))
        return self._traces[key]
