"""The verbs of a SampleManager that collect: for the caller, into the buffer, and in the background."""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from really._utils.array_pool import ArrayPool
from really._utils.checks import checked_bool, checked_integer
from really._utils.names import OF_MANAGERS, tells_names
from really._utils.progress import NoBar, advance, progress_bar
from really.collectors.background import BackgroundCollection
from really.collectors.demand import Part
from really.collectors.episodes import EpisodeFigures, Records
from really.collectors.messages import PolicySettings
from really.data.record_batches import from_record_batch
from really.data.transitions import Columns, concatenate
from really.errors import InvalidStateError, InvalidTypeError
from really.manager.buffers import Buffer, takes_remote_rows
from really.manager.lifetime import Lifetime
from really.replay.arguments import checked_size

# Rows that `collect` puts at a time: few enough that an interrupt loses little, and that messages do not pile up.
PIECE_ROWS = 1 << 18


@tells_names(OF_MANAGERS, "get_data", "collect", "collect_in_background")
class Collecting(Lifetime):
    """What `SampleManager` inherits: it collects rows with the current weights and settings."""

    _pool: ArrayPool

    @property
    def episodes(self) -> np.recarray[Any, Any]:
        """The last 10,000 episodes that ended in delivered rows, oldest first: a record array `[episode]`.

        Fields: `return` (float64, undiscounted, of the environment's own rewards), `length` (int64, steps), `agent`
        (int32), and `steps` (int64, the manager's `steps` when its last row was delivered).
        """
        return self._episodes.last().view(np.recarray)

    @property
    def steps(self) -> int:
        """Number of rows that this manager has delivered so far, in all ways of collecting."""
        return self._episodes.steps

    def get_data(self, do_print: bool = False, total_steps: int | None = None, progress: bool | None = None) -> Columns:
        """Collects at least `total_steps` rows with the current weights and settings; blocks until they have arrived.

        Args:
            do_print: print the number of rows and their mean reward; of the episodes that ended in them the number and
                the means of returns and lengths.
            total_steps: minimum number of rows for this call; by default the manager's `total_steps`.
            progress: show a progress bar; by default on a terminal if the call takes longer than two seconds.

        Returns:
            A dict of arrays `[row, ...]` that belong to the caller: `state`, `state_new` (the observation space's
            dtype and shape; `state.<name>` for each leaf of a Dict or Tuple), `action`, `reward`, `not_done` (0 at
            the end of an episode, terminated or truncated), `terminal` (1 only if the episode terminated), and the
            columns in `returns`. The results of an agent are adjacent rows, in time order.
        """
        if not isinstance(do_print, bool | np.bool_):
            raise InvalidTypeError(
                f"get_data: expected do_print=True or False, got {do_print!r}; the number of rows is total_steps="
            )
        parts = self._collect(total_steps, progress)
        data = concatenate(
            self._current.columns, [from_record_batch(part.batch_for(False)) for part in parts], self._pool
        )
        if do_print:
            print(f"collected {len(data['reward'])} steps, mean reward {data['reward'].mean():.3f}; {_figures(parts)}")
        return data

    def collect(self, steps: int | None = None, progress: bool | None = None, do_print: bool = False) -> int:
        """Collects at least `steps` rows directly into the buffer, without arrays in between; returns their number.

        With `do_print` it prints that number, and of the episodes that ended in the rows the number and the means of
        returns and lengths. Rows are put piece by piece, and an interrupt (Ctrl-C) puts those that have arrived. If it
        comes while rows are put, the rows of one chunk are all in or all left out.
        """
        buffer, do_print = self._buffer(), checked_bool("do_print", do_print)
        total, settings = self._begin(steps)
        rows, ended = 0, list[Records]()
        self._fleet.rows_stay = rows_stay = takes_remote_rows(buffer)
        with self._bar(total, progress) as show:
            while rows < total:
                wanted = min(total - rows, PIECE_ROWS)
                try:
                    parts = self._collector.collect(wanted, settings, functools.partial(show, rows))
                except KeyboardInterrupt:
                    _put_all(buffer, self._collector.deliver_arrived(), rows_stay)
                    raise
                _put_all(buffer, parts, rows_stay)
                rows += sum(part.rows for part in parts)
                ended += [part.episodes for part in parts]
        if do_print:
            print(f"collected {rows} steps; {EpisodeFigures.of(ended)}")
        return rows

    def collect_in_background(
        self,
        samples_per_insert: float | None = None,
        *,
        min_rows: int = 1,
        error_buffer: float | None = None,
        max_rows: int | None = None,
    ) -> BackgroundCollection:
        """Fills the buffer while the learner trains: `with manager.collect_in_background(): ...`.

        New weights and settings apply to the chunks that are ordered from then on. Each runner has at most two
        pending chunks.

        Args:
            samples_per_insert: rows that `sample` may draw for each row collected; the faster side waits for the other.
                None limits neither.
            min_rows: rows to collect before `sample` returns a batch.
            error_buffer: samples by which either side may be ahead; by default the samples of two rounds of chunks.
            max_rows: approximate number of rows after which collection ends.

        Raises:
            ReallyError: an argument cannot be used. If a later error ends collection (no result within
                `remote_time_out` seconds, a failing environment, ...), `sample` and the end of the `with` block raise
                it.
        """
        self._refuse_background("collect_in_background()")
        self._sync()
        buffer = self._buffer()
        self._fleet.rows_stay = rows_stay = takes_remote_rows(buffer)
        self._background = BackgroundCollection(
            self._collector,
            buffer,
            functools.partial(PolicySettings.of, self.kwargs),
            samples_per_insert=samples_per_insert,
            min_rows=min_rows,
            error_buffer=error_buffer,
            max_rows=max_rows,
            rows_stay=rows_stay,
        )
        weakref.finalize(self, self._background.end)
        return self._background

    def set_epsilon(self, epsilon: float) -> None:
        """Sets the probability of a random action, in [0, 1], for the rows collected from now on."""
        self.kwargs["epsilon"] = epsilon

    def set_temperature(self, temperature: float) -> None:
        """Sets the temperature of `thompson` for the rows collected from now on; 0 is greedy."""
        self.kwargs["temperature"] = temperature

    def _collect(self, total_steps: int | None, progress: bool | None) -> list[Part]:
        """Collects rows with a progress bar."""
        rows, settings = self._begin(total_steps)
        self._fleet.rows_stay = False
        with self._bar(rows, progress) as show:
            return self._collector.collect(rows, settings, functools.partial(show, 0))

    def _begin(self, total_steps: int | None) -> tuple[int, PolicySettings]:
        """The number of rows to collect, and the settings of the policy."""
        self._refuse_background("collecting")
        rows = self.kwargs["total_steps"] if total_steps is None else checked_integer("total_steps", total_steps)
        return rows, self._sync()

    @contextlib.contextmanager
    def _bar(self, rows: int, progress: bool | None) -> Iterator[Callable[[int, int], None]]:
        """Yields a function of the rows that were delivered and those that have arrived since, which moves a bar."""
        with progress_bar("collecting", rows, "step", progress) as bar:

            def show(delivered: int, arrived: int) -> None:
                advance(bar, delivered + arrived)
                if not isinstance(bar, NoBar):
                    bar.set_postfix_str(str(self._collector.arrived_episodes()), refresh=False)

            yield show

    def _before_sample(self, n: Any, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Waits for the rate limiter of background collection, if there is one, before `sample(n)`."""
        if self._background is not None:
            num, num_batches = checked_size(n)
            self._background.before_sample(num * max(num_batches, 1), cancelled)

    def _buffer(self) -> Buffer:
        """The buffer; raises InvalidStateError if there is none."""
        if self.buffer is None:
            raise InvalidStateError("the buffer: expected initialize_buffer() to be called first")
        return self.buffer


def _put_all(buffer: Buffer, parts: Sequence[Part], rows_stay: bool) -> None:
    """Puts the rows of all parts. An interrupt that comes meanwhile is raised at the end."""
    interrupt: KeyboardInterrupt | None = None
    for part in parts:
        try:
            buffer.put(part.batch_for(rows_stay))
        except KeyboardInterrupt as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt


def _figures(parts: Sequence[Part]) -> EpisodeFigures:
    return EpisodeFigures.of([part.episodes for part in parts])
