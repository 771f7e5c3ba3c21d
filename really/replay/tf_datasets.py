"""A buffer's batches as a `tf.data.Dataset`, for training loops that take one."""

from __future__ import annotations

import inspect
import math
import weakref
from typing import Any

from numpy.typing import NDArray

from really._utils.checks import checked_integer
from really._utils.quiet import tensorflow
from really.data.schema import Spec, row_nbytes
from really.errors import EmptyBufferError, InvalidStateError, InvalidTypeError
from really.replay.arguments import MOST_ROWS, checked_size
from really.replay.batches import BeforeSample
from really.replay.compact import fitting
from really.replay.rows import Sampled
from really.replay.samplers import checked_beta
from really.replay.tensors import check_dtypes

# Limits of one call from TensorFlow into Python. A call costs about 100 us, so small batches share one.
CALL_NBYTES = 1 << 20
CALL_BATCHES = 16


def sampled_dataset(
    buffer: Sampled,
    n: Any,
    prefetch: int = 2,
    *,
    replace: bool = True,
    batches_per_call: int | None = None,
    before: BeforeSample | None = None,
    beta: float | None = None,
) -> Any:
    """An endless `tf.data.Dataset` of batches, a dict of tensors [n, ...] each, all shapes static.

    TensorFlow calls Python once for several batches, in one of its own threads, and splits them in its own code. The
    arrays of a call become tensors without a copy. Batches come in the order in which they are drawn; with a seed, and
    nothing put or drawn elsewhere, they repeat. Up to `prefetch + batches_per_call` batches are drawn ahead: rows that
    are put meanwhile are not in them, and the buffer's generator is ahead by as many. TensorFlow turns an error of a
    draw into one of its own with the same text.

    Args:
        buffer: the buffer that is sampled; its schema has to be known.
        n: rows of a batch, or (k, n) for k batches at once, [k, n, ...].
        prefetch: batches that TensorFlow keeps ready, 0 or more.
        replace: False to draw no row twice within a batch.
        batches_per_call: batches of one call; by default as many as fit in 1 MiB, from 1 to 16.
        before: called before each call; it may wait.
        beta: importance-sampling exponent of a prioritized buffer (`ReplayBuffer.sample`). Priorities that are updated
            after a call do not affect its batches; use `batches` if that matters.

    Raises:
        EmptyBufferError: the buffer has no schema yet.
        InvalidValueError, InvalidTypeError: an argument cannot be used, or a column cannot be a tensor.
    """
    tf = tensorflow("dataset")
    num, num_batches = checked_size(n)
    spec, lead = _known_spec(buffer), (num_batches, num) if num_batches else (num,)
    calls = _Calls(buffer, spec, lead, replace, batches_per_call, before, beta)

    def call(_: Any) -> dict[str, Any]:
        columns = tf.numpy_function(calls.draw, [], [tf.as_dtype(dtype) for dtype, _ in spec.values()])
        for column, (_, shape) in zip(columns, spec.values(), strict=True):
            column.set_shape((calls.num, *lead, *shape))
        return dict(zip(spec, columns, strict=True))

    dataset = _endless(
        tf.data.Dataset.from_tensors(0).repeat().map(call).unbatch(), checked_integer("prefetch", prefetch, 0)
    )
    dataset._really = buffer, before  # TensorFlow never frees the function: see _Calls
    return dataset


class _Calls:
    """The function that TensorFlow calls: `num` batches at once, [num, *lead, ...].

    TensorFlow holds such a function until the process ends. So it refers to buffer and manager weakly only; the
    dataset, and each iterator over it, hold the strong references.
    """

    def __init__(
        self,
        buffer: Sampled,
        spec: Spec,
        lead: tuple[int, ...],
        replace: bool,
        num: int | None,
        before: BeforeSample | None,
        beta: float | None,
    ) -> None:
        if callable(beta):
            raise InvalidTypeError(f"beta: expected a number from 0 to 1, got {beta!r}; batches() takes a function")
        self._beta = checked_beta(beta, buffer.sampler, replace)(0)
        if num is None:
            num = min(CALL_BATCHES, max(1, CALL_NBYTES // max(1, math.prod(lead) * row_nbytes(spec))))
        self.num = checked_integer("batches_per_call", num, 1, MOST_ROWS)
        self._size = (self.num * math.prod(lead[:-1]), lead[-1])
        self._shapes = [(self.num, *lead, *shape) for _, shape in spec.values()]
        self._keys, self._replace = tuple(spec), replace
        self._buffer = weakref.ref(buffer)
        self._before = weakref.WeakMethod(before) if inspect.ismethod(before) else lambda: before

    def draw(self) -> list[NDArray[Any]]:
        """The columns, in the order of the keys."""
        buffer, before = self._buffer(), self._before()
        if buffer is None:
            raise InvalidStateError("dataset: expected its buffer to exist, got one that has been garbage-collected")
        if before is not None:
            before(math.prod(self._size), lambda: False)
        batch = buffer.sample(self._size, replace=self._replace, beta=self._beta)
        shapes = zip(self._keys, self._shapes, strict=True)
        return [fitting("dataset", key, batch[key], shape, len(self._size)) for key, shape in shapes]


def _known_spec(buffer: Sampled) -> Spec:
    """The schema of a batch."""
    buffer.check_open("dataset")
    if buffer.spec is None or buffer.batch_spec is None:
        raise EmptyBufferError("dataset: expected a buffer whose schema is known, got one without; put some rows first")
    check_dtypes("tf", buffer.spec)
    return buffer.batch_spec


def _endless(dataset: Any, prefetch: int) -> Any:
    """The dataset in order and without TensorFlow's own autotuning, which would choose the prefetching."""
    import tensorflow as tf

    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    return (dataset.prefetch(prefetch) if prefetch else dataset).with_options(options)
