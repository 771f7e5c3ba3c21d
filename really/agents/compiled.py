"""Functions of tensors that TensorFlow compiles, found again by shapes and dtypes without asking TensorFlow."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

Signature = tuple[Any, ...]
"""Shape and dtype of each argument."""

MOST_SIGNATURES = 1024
"""Remembered at once; they are forgotten together, the traces behind them are TensorFlow's and stay."""

_EagerTensor = type(tf.constant(0.0))


def signature(tensors: Sequence[Any]) -> Signature | None:
    """What a compiled function is found by; None where one is no tensor with a value, or TensorFlow runs as Python."""
    found: list[Any] = []
    for tensor in tensors:
        if type(tensor) is not _EagerTensor:
            return None
        found += tensor.shape, tensor.dtype
    return tuple(found) if tf.executing_eagerly() and not tf.config.functions_run_eagerly() else None


def remember(known: dict[Any, Any], key: Any, value: Any) -> None:
    """Puts one more into a cache that stays small."""
    if len(known) >= MOST_SIGNATURES:
        known.clear()
    known[key] = value


class Compiled:
    """`function` of a list of leaves and further tensors as a `tf.function` of tensors one by one, traced in `context`.

    Neither a bound method nor a list: TensorFlow looks at both in each call. Choosing the trace for the arguments takes
    it half the time of a small call, so the choice is made once for each signature. Within a graph that is
    being traced, TensorFlow chooses.
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
        """Of the leaves, one after the other, and what follows them."""
        return self.trace(tensors)(*tensors)

    @property
    def num_traces(self) -> int:
        """How often Python was traced."""
        return int(self._function.experimental_get_tracing_count())

    def trace(self, tensors: Sequence[tf.Tensor]) -> Callable[..., Any]:
        """What takes tensors of the shapes and dtypes of these."""
        key = signature(tensors)
        if key is None:
            return self._function  # type: ignore[no-any-return]
        if key not in self._traces:
            remember(self._traces, key, self._function.get_concrete_function(*tensors))
        return self._traces[key]
