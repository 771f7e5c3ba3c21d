"""A sharded buffer that another process owns, open for reading by its name."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really._ray import runtime
from really._ray.nodes import own_node
from really._utils._locks import Lock
from really._utils.names import VERBS_OF_BUFFERS, tells_verbs
from really._utils.packages import needed
from really.data.schema import Spec
from really.errors import ClosedError, EmptyBufferError, InvalidValueError, ReadOnlyError, ReallyError, RunnerError
from really.replay import arguments
from really.replay.drawn import DrawnRows
from really.replay.draws import TRIES, held
from really.replay.options import BufferOptions
from really.replay.samplers import Sampler, Shape, checked_shape
from really.replay.units import Batch, SampleUnit
from really.service.assembly import BatchMemory, asked, assembled
from really.service.ledger import Ledger
from really.service.mapped_shard import MappedShard, Unreadable
from really.service.numbering import Numbering
from really.service.publishing import Edition, OpenShard, board_of
from really.service.shards import START_SECONDS, TIME_OUT, SilentShardError

LOOK_SECONDS = 0.2
"""Seconds between two looks for a newer edition of the ledger."""
OWNER_SECONDS = TIME_OUT
"""How long the answer of an owner may take at least, however short `time_out` is."""

OF_THE_OWNER = (
    *("clear", "epochs", "episodes", "flush", "memory", "numbers", "remove"),
    *("save", "to_arrow", "to_minari", "to_parquet", "update", "verify"),
)
VERBS = VERBS_OF_BUFFERS | dict.fromkeys(OF_THE_OWNER, "a verb of the owner, and this buffer is open for reading")


class OpenShards:
    """The shards of an edition: mapped where they are on this node, else asked through their actors."""

    def __init__(self, time_out: float) -> None:
        self._time_out, self._node = time_out, own_node()
        self._shards: list[OpenShard] = []
        self._mapped: dict[str, MappedShard] = {}
        self.silent = set[int]()
        self.problems = dict[int, ReallyError]()

    def update(self, shards: list[OpenShard]) -> None:
        """Takes the shards of a newer edition."""
        self._shards = shards
        self.silent.clear()
        self.problems.clear()

    def ask(self, shard: int, places: NDArray[np.int64]) -> Callable[[], Batch | None]:
        """Asks a shard for the batch of the rows at these places; as of `Shards`."""
        found = self._shards[shard]
        if found.node == self._node:
            if (mapped := self._mapped.get(found.folder)) is None:
                mapped = self._mapped[found.folder] = MappedShard(found.folder)
            batch = mapped.told_at(places)
            return lambda: self._checked(shard, batch)
        answer = found.actor.take_at.remote(places)
        return lambda: self._answer(shard, answer)

    def close(self) -> None:
        """Closes the folders."""
        for mapped in self._mapped.values():
            mapped.close()

    def _answer(self, shard: int, answer: Any) -> Batch | None:
        import ray

        try:
            return self._checked(shard, ray.get(answer, timeout=self._time_out))
        except (ray.exceptions.RayError, TimeoutError) as error:
            self.silent.add(shard)
            raise SilentShardError from error

    def _checked(self, shard: int, value: Any) -> Batch | None:
        """An answer; notes why the folder of a shard cannot be read."""
        if isinstance(value, Unreadable):
            self.problems[shard] = value.error
            return None
        if isinstance(value, ReallyError):
            raise value
        self.problems.pop(shard, None)
        batch: Batch | None = value
        return batch


@tells_verbs(VERBS)
class ConnectedBuffer(DrawnRows):
    """A sharded buffer of another process, which alone puts. Any number of processes may read it, each with its seed.

    Rows are drawn from the newest edition of the ledger, which the owner publishes a few times a second. If a row has
    dropped out since, the whole batch is drawn again from a newer edition. So a batch is uniform over the rows of an
    edition that are still held, and no more: it does not have the last rows, and no seed repeats it. Rows of an owner
    that draws by priority are drawn uniformly.

    Args:
        name: of the buffer.
        seed: what batches are drawn from.
        time_out: seconds after which a shard that does not answer is left out. The owner may take as long, and 4 s at
            least; for its first edition 60 s.

    Raises:
        InvalidValueError: no buffer of the cluster has the name.
    """

    def __init__(self, name: str, *, seed: arguments.Seed = None, time_out: float = TIME_OUT) -> None:
        with needed("ShardedBuffer.connect", "Ray for buffers of other processes", "ray"):
            import ray  # noqa: F401
        self._session = runtime.start()
        self._name, self._seed, self._time_out = name, seed, time_out
        self._board = board_of(name)
        self._shards = OpenShards(time_out)
        self._lock, self._memory = Lock(), BatchMemory()
        self._known, self._next_look = 0, 0.0
        self._edition: Edition | None = None
        self._numbering: Numbering | None = None
        self._ledger, self._closed = Ledger(0), False

    @property
    def options(self) -> BufferOptions:
        """The options with which rows are drawn: those of the owner, but for priorities."""
        return _uniform(self._current().options)

    @property
    def spec(self) -> Spec | None:
        """Key -> (dtype, shape of one row); None before the owner's first put."""
        return self._current().spec

    @property
    def batch_spec(self) -> Spec | None:
        """Key -> (dtype, shape of one row) of a batch."""
        spec = self.spec
        return None if spec is None else self._unit.batch_spec(spec)

    @property
    def keys(self) -> tuple[str, ...] | None:
        """The keys in the order of a batch."""
        spec = self.spec
        return None if spec is None else tuple(spec)

    @property
    def sampler(self) -> Sampler:
        """What picks the rows of a batch."""
        return self._drawing.sampler

    def __len__(self) -> int:
        self._current()
        return self._ledger.num_rows

    def __repr__(self) -> str:
        return f"ShardedBuffer.connect({self._name!r})"

    def put(self, data: Any) -> None:
        """Raises ReadOnlyError: only the owner puts."""
        raise ReadOnlyError(f"put: expected the owner of {self._name!r}, got a buffer that is open for reading")

    def update_priorities(self, index: Any, priorities: Any) -> int:
        """Raises ReadOnlyError: priorities are the owner's."""
        raise ReadOnlyError(
            f"update_priorities: expected the owner of {self._name!r}, got a buffer that is open for reading"
        )

    def sample(self, n: arguments.Size, *, replace: bool = True, beta: float | None = None, as_: None = None) -> Batch:
        """A batch of rows, key -> [n, ...] or [k, n, ...]; arguments and errors are those of `ReplayBuffer.sample`."""
        if as_ is not None:
            arguments.refuse_library(as_)
        shape = checked_shape(n)
        self.check_open("sample")
        sampler = self._drawing.sampler.of_batch()
        return self._taken("sample", shape, lambda: self._drawn(sampler, shape, replace, beta))

    def take(self, indices: Any) -> Batch:
        """The rows of these indices by age in the newest edition, [n] or [k, n] integers."""
        ages = arguments.checked_indices(indices)
        return self._taken("take", ages.shape, lambda: self._aged(ages))

    def info(self) -> dict[str, Any]:
        """What each shard has: its name, its rows, and whether it is away; and the number of the edition."""
        self._look()
        with self._lock:
            edition, ledger = self._known_edition, self._ledger
            counts, away = ledger.counts, ledger.away
        shards = [
            {"shard": shard.name, "rows": int(rows), "away": bool(is_away)}
            for shard, rows, is_away in zip(edition.shards, counts, away, strict=True)
        ]
        return {"rows": int(counts[~away].sum()), "shards": shards, "edition": edition.number}

    def state_dict(self) -> dict[str, Any]:
        """The state of the generators, as of `ReplayBuffer.state_dict`."""
        return self._drawing.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Sets the generators to what `state_dict` gave; raises InvalidValueError for anything else."""
        self._drawing.load_state_dict(state)

    def check_open(self, what: str) -> None:
        """Raises ClosedError, naming `what`, if the buffer is closed."""
        if self._closed:
            raise ClosedError(f"{what}: expected an open buffer, got one that was closed")

    def close(self) -> None:
        """Ends reading; the owner goes on."""
        with self._lock:
            self._closed = True
            self._shards.close()

    @property
    def _drawing(self) -> Numbering:
        self._current()
        assert self._numbering is not None
        return self._numbering

    def _current(self) -> Edition:
        """The newest edition."""
        self._look()
        with self._lock:
            return self._known_edition

    @property
    def _known_edition(self) -> Edition:
        assert self._edition is not None, "an edition is looked for before"
        return self._edition

    def _drawn(self, sampler: Sampler, shape: Shape, replace: bool, beta: float | None) -> NDArray[np.int64]:
        assert self._numbering is not None
        self._numbering.sampler.check(replace, beta)
        held("sample", self._numbering.ring)
        numbers, _ = self._numbering.draw(shape, replace, beta, self._ledger, sampler)
        return numbers

    def _aged(self, ages: NDArray[np.int64]) -> NDArray[np.int64]:
        num = self._ledger.num_rows
        if ages.size and not 0 <= int(ages.min()) <= int(ages.max()) < num:
            raise InvalidValueError(f"take: expected indices from 0 to {num - 1}, got {arguments.outsiders(ages, num)}")
        return self._ledger.numbers_at(ages)

    def _taken(self, what: str, shape: tuple[int, ...], choose: Callable[[], NDArray[np.int64]]) -> Batch:
        """The rows that `choose` gives, chosen again from a newer edition if one has dropped out.

        Raises the error of a shard whose folder still cannot be read then.
        """
        for attempt in range(TRIES):
            self.check_open(what)
            self._look(at_once=attempt > 0)
            with self._lock:
                self.check_open(what)
                if self._known_edition.spec is None:
                    raise EmptyBufferError(f"{what}: expected a buffer whose owner has put rows, got one without")
                parts = asked(self._shards, *self._ledger.find(choose()))
            batch = assembled(parts, shape, None, self._memory)
            if batch is not None:
                return batch
            with self._lock:
                for shard in tuple(self._shards.silent):
                    self._ledger.set_away(shard, True)
            time.sleep(min(LOOK_SECONDS, 0.01 * attempt))
        for shard, error in list(self._shards.problems.items()):
            raise type(error)(f"{what}: {self._known_edition.shards[shard].name}: {error}") from error
        raise EmptyBufferError(
            f"{what}: expected rows that stay while a batch is copied, but puts dropped some each time"
        )

    def _look(self, at_once: bool = False) -> None:
        """Asks for a newer edition, at most every `LOOK_SECONDS` unless it is needed `at_once`.

        The caller has not the lock, so that others may read meanwhile.
        """
        if not self._session.is_current:
            raise RunnerError(f"{self!r}: expected Ray to be running, but ray.shutdown() was called; connect again")
        if at_once or time.monotonic() >= self._next_look:
            limit = max(self._time_out, OWNER_SECONDS)
            newer = self._first() if self._edition is None else self._newest(limit)
            with self._lock:
                if newer is not None and newer.number > self._known:
                    self._use(newer)
                self._next_look = time.monotonic() + LOOK_SECONDS

    def _first(self) -> Edition:
        """The first edition; raises RunnerError if it does not come within `START_SECONDS`."""
        end = time.monotonic() + START_SECONDS
        while (edition := self._newest(START_SECONDS)) is None:  # of an owner that has just begun
            if time.monotonic() > end:
                raise self._too_late(START_SECONDS)
            time.sleep(LOOK_SECONDS / 4)
        return edition

    def _newest(self, limit: float) -> Edition | None:
        """A newer edition, or None; raises RunnerError if the owner has ended, or does not answer in time."""
        import ray

        try:
            newer: Edition | None = ray.get(self._board.newest.remote(self._known), timeout=limit)
        except ray.exceptions.GetTimeoutError as error:
            raise self._too_late(limit) from error
        except ray.exceptions.RayError as error:
            raise RunnerError(
                f"{self!r}: expected an owner that publishes its ledger, but it has ended, or Ray has"
            ) from error
        return newer

    def _too_late(self, seconds: float) -> RunnerError:
        return RunnerError(f"{self!r}: expected the ledger of its owner within {seconds:g} s, got none")

    def _use(self, edition: Edition) -> None:
        """Makes this the edition to draw from."""
        self._edition, self._known = edition, edition.number
        if self._numbering is None:
            options = _uniform(edition.options)
            self._unit: SampleUnit = options.make_unit()
            self._numbering = Numbering(options, self._seed)
        numbering = self._numbering
        oldest, newest = numbering.held()
        num, capacity = edition.num_put - newest, edition.options.capacity
        if 0 <= num <= capacity and edition.first == max(oldest, edition.num_put - capacity):
            numbering.advance(num)
        else:
            numbering.restart(edition.first, edition.num_put, None)
        self._ledger = Ledger.of(len(edition.shards), edition.runs)
        for shard in np.flatnonzero(edition.away).tolist():
            self._ledger.set_away(shard, True)
        self._shards.update(edition.shards)


def _uniform(options: BufferOptions) -> BufferOptions:
    return replace(options, alpha=None, eps=None)
