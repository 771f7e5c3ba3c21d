"""Batches drawn ahead: a thread samples the next batches while the learner trains on this one."""

from __future__ import annotations

import atexit
import collections
import contextlib
import itertools
import queue
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np

from really._utils._locks import Lock
from really._utils.checks import checked_integer
from really._utils.forks import ForkGroup, Order
from really.replay import devices, tensors
from really.replay.arguments import checked_size
from really.replay.rows import AskedAhead, Sampled
from really.replay.samplers import Beta, checked_beta
from really.replay.units import Batch

State = dict[str, Any]
Cancelled = Callable[[], bool]
BeforeSample = Callable[[int, Cancelled], None]
"""Called with the number of rows before they are drawn. It may wait, until the second argument returns True."""

# Seconds that the end of the interpreter waits for a draw: no thread may run while memory is torn down.
LAST_DRAW = 5.0


@dataclass
class Drawn:
    """A batch with its count and the generator's states before and after it; or the error of the draw."""

    batch: Any
    before: State
    after: State
    num_drawn: int = 0
    error: BaseException | None = None


Asked = Callable[[], Drawn]
"""Waits for the rows of a batch that is drawn."""


class BatchSource:
    """Draws one batch after another; iterator and thread share it."""

    def __init__(
        self,
        buffer: Sampled,
        n: Any,
        as_: str,
        replace: bool,
        before: BeforeSample | None,
        beta: Beta | None,
        draws_ahead: bool,
        placement: devices.Placement,
    ) -> None:
        num, num_batches = checked_size(n)
        self.buffer = buffer
        self._n, self._rows = n, num * max(num_batches, 1)
        self._as, self._replace, self._before = as_, replace, before
        self._draws_ahead = draws_ahead
        self.placement = placement
        self._known = False
        self._beta = checked_beta(beta, buffer.sampler, replace)
        self.asks_ahead = isinstance(buffer, AskedAhead)
        # Of the batches that are drawn and not taken yet, oldest first: the generator's states before and after each.
        self.ahead: collections.deque[tuple[State, State]] = collections.deque()
        self.drawing = Lock()
        self.start_at(0)
        self._check_dtypes()

    def start_at(self, number: int) -> None:
        """Sets the number of the next batch, the argument of a function `beta`."""
        self._numbers = itertools.count(number)

    def draw(self, cancelled: Cancelled) -> Drawn | None:
        """The next batch, or its error; None if it was cancelled while it waited."""
        asked = self.ask(cancelled)
        return None if asked is None else asked()

    def ask(self, cancelled: Cancelled, waits: bool = True) -> Asked | None:
        """Draws the next batch, and returns what waits for its rows, which are on their way from then on.

        Returns None if it was cancelled while it waited for a rate limiter, or, without `waits`, if it had to wait.
        """
        must_wait = False

        def stops() -> bool:
            nonlocal must_wait
            must_wait = True
            return not waits or cancelled()

        try:
            if self._before is not None:
                self._before(self._rows, stops)
            return None if cancelled() or (must_wait and not waits) else self._asked()
        except BaseException as error:  # the thread that takes the batch raises it again
            failed = Drawn({}, {}, {}, error=error)
            return lambda: failed

    def _asked(self) -> Asked:
        with self.drawing:
            before = self._state()
            number = next(self._numbers)
            answer = self._ask(self._n, self._replace, self._beta(number))
            after = self._state()
            self.ahead.append((before, after))

        def drawn() -> Drawn:
            try:
                batch = answer()
                self._check_dtypes()
                return Drawn(self.placement.placed(batch), before, after, number + 1)
            except BaseException as error:
                return Drawn({}, {}, {}, error=error)

        return drawn

    def _ask(self, n: Any, replace: bool, beta: float | None) -> Callable[[], Batch]:
        """What waits for the rows of a batch: they are here already unless they come from other nodes."""
        if isinstance(self.buffer, AskedAhead):
            return self.buffer.ask_sample(n, replace=replace, beta=beta)
        batch = self.buffer.sample(n, replace=replace, beta=beta)
        return lambda: batch

    def _state(self) -> State:
        """The generator's state, which only a batch that is drawn ahead can need again."""
        return self.buffer.state_dict() if self._draws_ahead else {}

    def _check_dtypes(self) -> None:
        if not self._known and (spec := self.buffer.spec) is not None:
            tensors.check_dtypes(self._as, spec)
            self._known = True


class _Thread(threading.Thread):
    """A thread of this module, which the end of the interpreter awaits even if its iterator is gone."""


class PrefetchThread:
    """The thread that draws ahead. It refers to the source, not to the iterator, which can so be collected."""

    def __init__(self, source: BatchSource, prefetch: int) -> None:
        self._source = source
        self._ready: queue.SimpleQueue[Drawn | None] = queue.SimpleQueue()
        self._slots: queue.SimpleQueue[None] = queue.SimpleQueue()  # one token for each batch that may be drawn ahead
        self._stopping = False
        for _ in range(prefetch):
            self._slots.put(None)
        self._thread = _Thread(target=self._run, name="really-batches", daemon=True)
        self._thread.start()
        _workers.add(self)

    def next(self) -> Drawn | None:
        """Waits for the next batch and returns it; None after the end, in every thread."""
        drawn = self._ready.get()
        (self._ready if drawn is None else self._slots).put(None)
        return drawn

    def stop(self) -> None:
        """Ends the thread after its current draw. It takes no lock, so a finaliser may call it."""
        self._stopping = True
        self._slots.put(None)

    def join(self) -> None:
        """Waits until the thread has ended."""
        self._thread.join()

    def take_back(self) -> list[Drawn]:
        """The batches drawn ahead, in order."""
        found = []
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._ready.get_nowait())
        self._ready.put(None)
        return [drawn for drawn in found if drawn is not None and drawn.error is None]

    def _run(self) -> None:
        asked = collections.deque[Asked]()
        while self._ask_all(asked) and self._deliver(asked):
            pass
        while asked and self._deliver(asked):  # `take_back` needs the states of all that were drawn
            pass
        self._ready.put(None)

    def _deliver(self, asked: collections.deque[Asked]) -> bool:
        """Hands out the oldest batch that was asked for; returns False after an error."""
        drawn = asked.popleft()()
        self._ready.put(drawn)
        return drawn.error is None

    def _ask_all(self, asked: collections.deque[Asked]) -> bool:
        """Asks for the next batch, or for as many as may be drawn ahead and need not wait; False after the end."""
        while not asked or (self._source.asks_ahead and not self._slots.empty()):
            self._slots.get()
            one = None if self._stopping else self._source.ask(self._must_stop, waits=not asked)
            if one is None:
                self._slots.put(None)
                return bool(asked) and not self._stopping
            asked.append(one)
        return True

    def _must_stop(self) -> bool:
        return self._stopping


class Batches:
    """An endless iterator over training batches, each what `buffer.sample(n)` gives, drawn up to `prefetch` ahead.

    Drawing starts with the first `next`. Rows that are put after a batch is drawn are not in it, so up to `prefetch`
    batches come out without them. If nobody else puts or draws, the batches are those of as many calls of `sample`,
    and `close` sets the generator back to where these calls would have left it; until then its state is some batches
    ahead. With `prefetch=0` there is no thread, and nothing is drawn ahead.

    An error of a draw, such as that of an empty buffer, is raised by `next` and ends the iterator. Any number of
    threads may call `next`. A forked process continues by itself, with the batches that come next here. An iterator
    that is garbage-collected ends its thread, but does not set the generator back.

    Args:
        buffer: the buffer that is sampled.
        n: rows of a batch, or (k, n) for k batches at once, [k, n, ...].
        prefetch: batches that may be drawn ahead, 0 or more.
        as_: `numpy`, or `tf`, `torch` or `jax` for tensors that share the batch's memory.
        replace: False to draw no row twice within a batch.
        before: called before each draw; it may wait.
        device: with `torch` or `jax`, the device to which batches are copied, as "cuda:0"; the thread that draws copies
            them, beside the learner's work. None leaves them in the machine's memory.
        pin_memory: True copies through memory that stays in place, of PyTorch's pool, so that a copy does not wait. JAX
            does so by itself. With `torch` and no device the tensors are in such memory.
        beta: importance-sampling exponent of a prioritized buffer (`ReplayBuffer.sample`), or a function from the
            batch number to it: 0 for the first batch that comes out, 1 for the second, and so on. The thread that draws
            calls the function. Priorities that are updated after a batch is drawn do not affect it.

    Raises:
        InvalidValueError, InvalidTypeError: an argument cannot be used, a column cannot be such a tensor, or the
            library sees no such device.
        MissingPackageError: the library is not installed.
    """

    def __init__(
        self,
        buffer: Sampled,
        n: Any,
        prefetch: int = 2,
        *,
        as_: str = "numpy",
        replace: bool = True,
        before: BeforeSample | None = None,
        beta: Beta | None = None,
        device: Any = None,
        pin_memory: bool = False,
    ) -> None:
        self._prefetch = checked_integer("prefetch", prefetch, 0)
        placement = devices.placement(as_, device, pin_memory)
        self._source = BatchSource(buffer, n, as_, replace, before, beta, self._prefetch > 0, placement)
        self._closed = False
        self._position: State = {}  # the generator's state after the last batch taken
        self._num_drawn = 0  # batches taken
        self._worker: PrefetchThread | None = None
        self._starting = Lock()
        _iterators.add(self)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tensors.Tensors:
        if self._closed:
            raise StopIteration
        drawn = self._started().next() if self._prefetch else self._source.draw(lambda: False)
        if drawn is None:
            raise StopIteration
        if drawn.error is not None:
            self.close()
            try:
                raise drawn.error
            finally:
                del drawn  # its error's traceback refers to this frame
        with contextlib.suppress(IndexError):  # a fork or `close` may have dropped them
            self._source.ahead.popleft()
        self._position, self._num_drawn = drawn.after, drawn.num_drawn
        return self._source.placement.received(drawn.batch)

    def position_of(self, buffer: Sampled) -> State | None:
        """The generator's state after the last batch taken; None unless this alone has drawn ahead from `buffer`."""
        source = self._source
        if self._worker is None or source.buffer is not buffer:
            return None
        with source.drawing:
            ahead, now = list(source.ahead), buffer.state_dict()
        ends = [self._position, *(after for _, after in ahead)]
        begins = [*(before for before, _ in ahead), now]
        chained = all(_equal(end, begin) for end, begin in zip(ends, begins, strict=True))
        return dict(self._position) if ahead and chained else None

    def close(self) -> None:
        """Ends drawing, and sets the generator back to the last batch taken, unless someone else drew meanwhile."""
        self._closed = True
        with self._starting:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.stop()
            worker.join()
            self._rewind(worker.take_back(), [self._source.buffer.state_dict()])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _started(self) -> PrefetchThread:
        with self._starting:
            if self._worker is None:
                self._position = self._position or self._source.buffer.state_dict()
                self._worker = PrefetchThread(self._source, self._prefetch)
                weakref.finalize(self, self._worker.stop).atexit = False
            return self._worker

    def _rewind(self, ahead: list[Drawn], now: list[State]) -> None:
        """Sets the generator back to the last batch taken, if the states up to `now` are one chain."""
        ends = [self._position, *(drawn.after for drawn in ahead)]
        begins = [*(drawn.before for drawn in ahead), *now]
        if all(_equal(end, begin) for end, begin in zip(ends, begins, strict=False)):
            self._source.buffer.load_state_dict(self._position)

    def _reset_after_fork(self) -> None:
        """In a forked process, which has no thread: the batches that the parent has drawn ahead are drawn again."""
        worker, self._worker, self._starting = self._worker, None, Lock()
        self._source.drawing = Lock()
        self._source.ahead.clear()
        if worker is not None:
            self._rewind(worker.take_back(), [])
            self._source.start_at(self._num_drawn)


def state_to_save(buffer: Sampled) -> State:
    """The generators' state from which a resumed run draws the batches that come next here.

    That is the buffer's `state_dict`; if an iterator has drawn ahead, the state after the last batch taken from it.
    """
    positions = (iterator.position_of(buffer) for iterator in list(_iterators))
    return next((position for position in positions if position is not None), None) or buffer.state_dict()


def _equal(one: State, other: State) -> bool:
    """Whether two generator states are equal: numbers, strings, arrays, and dicts of them."""
    return one.keys() == other.keys() and all(
        _equal(one[key], other[key]) if isinstance(one[key], dict) else bool(np.all(one[key] == other[key]))
        for key in one
    )


def _end_threads() -> None:
    for worker in list(_workers):
        worker.stop()
    # A thread may still be freeing batches, whose libraries abort if that happens while the interpreter ends.
    for thread in threading.enumerate():
        if isinstance(thread, _Thread):
            thread.join(LAST_DRAW)


_workers: weakref.WeakSet[PrefetchThread] = weakref.WeakSet()
_iterators = ForkGroup(Order.ITERATORS, in_child=Batches._reset_after_fork)
atexit.register(_end_threads)
