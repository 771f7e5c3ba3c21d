"""A shard on another node, as the learner sees it: its actor, the puts on their way, and whether it answers."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from really._ray import runtime
from really._ray.direct import answers_directly
from really._ray.placement import affinity
from really._ray.remote_rows import RemoteRows
from really.data.frames import FrameColumn, keys_by_frames
from really.data.schema import Spec
from really.errors import ReallyError
from really.replay.options import BufferOptions
from really.replay.units import Batch
from really.service.shard import num_rows_of
from really.service.shard_actor import ShardActor
from really.service.shards import Event, SilentShardError

log = logging.getLogger("really")

MOST_PUTS = 4
"""Puts on their way to a shard, at most; the next one waits."""
END_SECONDS = 5.0
"""How long the end of a buffer waits for a shard to close."""
OF_A_BUFFER = "this buffer", ", which ends the shards of other nodes; make a new ShardedBuffer"
"""Whose runtime it is, and what follows once Ray is shut down, for `runtime.check`."""
PADDING = np.zeros(1 << 18, np.uint8)
"""What makes a question so long that Ray moves it as it moves rows of a put, from store to store."""


class SentPut(NamedTuple):
    """A put on its way: Ray's reference of its answer, its places, its first number, and its rows.

    The rows are None unless the put can be repeated.
    """

    answer: Any
    start: int
    end: int
    number: int
    rows: Any


class RemoteShard:
    """Calls to one actor. Ray carries out the calls of one caller in order.

    Args:
        number: which shard it is.
        node: id of its node.
        time_out: seconds after which a shard that does not answer is away.
        session: of Ray, in which its actor lives.
        path: the folder of its rows, which outlives its process; None keeps them in memory.
    """

    def __init__(
        self, number: int, node: str, time_out: float, session: runtime.Session, path: Path | None = None
    ) -> None:
        self.number, self._node, self._time_out, self._session = number, node, time_out, session
        self.is_away = self.is_gone = False
        self._puts: deque[SentPut] = deque()
        self._events: list[Event] = []
        self.path = path
        self._shares_frames = False
        self._start: tuple[Any, ...] | None = None
        self._started: Any = None
        self._probe: Future[Any] | None = None
        self._num_misses = 0  # how often it turned out to be dead or away
        self._end = 0  # the place after the last put
        self._actor = self._new_actor()

    @property
    def can_take_rows(self) -> bool:
        """Whether it answers."""
        return not self.is_away and not self.is_gone

    @property
    def actor(self) -> Any:
        """The actor of now, which other processes may ask for rows."""
        return self._actor

    def start(self, options: dict[str, Any], spec: Spec | None) -> Any:
        """Asks for the shard; returns Ray's reference of the answer, an error or what the shard has."""
        self._start = options, spec, self.path
        made = BufferOptions.from_dict(options)
        self._shares_frames = spec is not None and made.n_step == 1 and bool(made.plan(spec))
        return self._actor.start.remote(*self._start)

    def put(self, place: int, number: int, rows: Mapping[str, Any] | RemoteRows) -> None:
        """Sends rows. Waits while `MOST_PUTS` puts are on their way, at most until the shard is away."""
        while len(self._puts) >= MOST_PUTS and self.can_take_rows:
            self._await_oldest_put()
        self._end = place + num_rows_of(rows)
        if self.is_gone:
            self._events.append(Event(self.number, "refused", place, self._end))
        else:
            self._puts.append(
                self._sent(place, self._end, number, rows if isinstance(rows, RemoteRows) else compact(rows))
            )

    def ask(self, places: NDArray[np.int64]) -> Callable[[], Batch | None]:
        """Asks for rows by places; frames travel once."""
        asked_at = self._num_misses
        if not self._shares_frames or places.size == 0:
            whole = self._actor.take_at.remote(places).future()  # rows come from now on, and not once they are wanted
            return lambda: self._arrived(whole, asked_at)
        order = np.argsort(places, axis=None, kind="stable")
        once = self._actor.do.remote("send_at", places.reshape(-1)[order]).future()

        def received() -> Batch | None:
            sent = self._arrived(once, asked_at)
            return None if sent is None else sent.received(order)

        return received

    def send(self, method: str, *arguments: Any) -> Any:
        """Asks the shard to do something; returns Ray's reference of the answer."""
        return self._actor.do.remote(method, *arguments)

    def answer(self, reference: Any, limit: float | None = None) -> Any:
        """The answer to what was sent, or None if it does not come within `limit` seconds, by default the time-out."""
        try:
            return self._result(reference, limit)
        except SilentShardError:
            return None

    def settle(self) -> list[Event]:
        """What happened since the last call."""
        import ray

        while self._puts and self.can_take_rows and ray.wait([self._puts[0].answer], timeout=0)[0]:
            self._await_oldest_put()
        if self.is_away:
            self._look_if_back()
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        """Closes the shard and ends its process."""
        import ray

        if self.can_take_rows:
            ray.wait([self._actor.close.remote()], timeout=END_SECONDS)
        ray.kill(self._actor)

    def _sent(self, start: int, end: int, number: int, rows: Any) -> SentPut:
        """Sends a put; rows that may have to be sent again are put into Ray's store before."""
        import ray

        if isinstance(rows, RemoteRows):
            answer = self._actor.put_part.remote(start, number, rows.batch, rows.start, rows.num_rows)
            return SentPut(answer, start, end, number, rows)
        kept = ray.put(rows) if self.path is not None and isinstance(rows, dict) else rows
        answer = self._actor.put_at.remote(start, number, kept)
        return SentPut(answer, start, end, number, None if self.path is None else kept)

    def _new_actor(self) -> Any:
        import ray

        options = {"num_cpus": 0, "max_restarts": 0, "scheduling_strategy": affinity(self._node)}
        return ray.remote(ShardActor).options(**options, **answers_directly()).remote()

    def _result(self, answer: Any, limit: float | None = None) -> Any:
        """The value of an answer; raises SilentShardError if it does not come, and the error that it is."""
        import ray

        seconds = self._time_out if limit is None else limit
        return self._checked(lambda: ray.get(answer, timeout=seconds), self._num_misses)

    def _arrived(self, answer: Future[Any], asked_at: int) -> Any:
        """`_result` of an answer that is on its way since there were so many misses."""
        return self._checked(lambda: answer.result(self._time_out), asked_at)

    def _checked(self, wait: Callable[[], Any], asked_at: int) -> Any:
        import ray

        try:
            value = wait()
        except (ray.exceptions.RayError, TimeoutError) as error:
            runtime.check(self._session, OF_A_BUFFER)
            if asked_at == self._num_misses:  # else it was asked before the last one, and says nothing new
                self._miss(error)
            raise SilentShardError from error
        if isinstance(value, ReallyError):
            raise value
        return value

    def _await_oldest_put(self) -> None:
        put = self._puts[0]
        try:
            self._result(put.answer)
        except SilentShardError:
            return
        except ReallyError as error:
            self._events.append(Event(self.number, "refused", put.start, put.end, error))
        self._puts.popleft()

    def _miss(self, error: Exception) -> None:
        """Notes that an answer did not come: the actor is dead, or it is away."""
        self._num_misses += 1
        if _is_death(error):
            self._replace()
        elif self.can_take_rows:
            self.is_away = True
            self._ask_if_back()
            self._events.append(Event(self.number, "away"))

    def _ask_if_back(self) -> None:
        """Asks which of the puts on their way are in; the answer comes after those puts.

        After a partition, each connection to a host recovers by itself. So the question goes as rows of puts do, and
        the answer comes as rows of batches do.
        """
        self._probe = self._actor.have.remote([put.start for put in self._puts], PADDING).future()

    def _look_if_back(self) -> None:
        import ray

        if self._probe is None or not self._probe.done():
            return
        try:
            are_in, _ = self._probe.result()
        except ray.exceptions.RayError as error:
            if _is_death(error):
                self._replace()
            else:
                self._ask_if_back()
            return
        started = None if self._started is None else ray.get(self._started)
        if isinstance(started, ReallyError):
            self._end_for_good(started)
            return
        self.is_away = False
        self._events.append(Event(self.number, "back"))
        for is_in in are_in:
            put = self._puts.popleft()
            if not is_in:
                self._events.append(Event(self.number, "refused", put.start, put.end, _error_of(put)))

    def _replace(self) -> None:
        """The actor died. Starts another if its node lives: with the rows of its folder, or empty."""
        import ray

        if self.is_gone:
            return
        keeps_rows = self.path is not None and self._start is not None
        self.is_gone = not any(node["NodeID"] == self._node and node["Alive"] for node in ray.nodes())
        if self.is_gone or not keeps_rows:
            self._puts.clear()
            self._events.append(Event(self.number, "lost", 0, self._end))
        elif not self.is_away:
            self._events.append(Event(self.number, "away"))
        if self.is_gone:
            return
        self.is_away = True  # until it has started
        self._actor = self._new_actor()
        if self._start is not None:
            self._started = self._actor.start.remote(*self._start)
        # Rows that are in already are left out, by their places.
        self._puts = deque(self._sent(put.start, put.end, put.number, put.rows) for put in self._puts)
        self._ask_if_back()

    def _end_for_good(self, error: ReallyError) -> None:
        """The folder of an actor that died cannot be opened again."""
        log.warning("A shard died, and its folder cannot be opened again: %s", error)
        self.is_gone, self.is_away = True, False
        self._puts.clear()
        self._events.append(Event(self.number, "lost", 0, self._end))


def _is_death(error: Exception) -> bool:
    """Whether the actor is dead, and not only out of reach."""
    import ray

    if isinstance(error, ray.exceptions.ActorUnavailableError):
        return False
    return isinstance(error, ray.exceptions.RayActorError)


def _error_of(put: SentPut) -> Exception | None:
    """The error with which a shard refused a put; None if the put did not reach it."""
    import ray

    try:
        value = ray.get(put.answer, timeout=0)
    except (ray.exceptions.RayError, TimeoutError):
        return None
    return value if isinstance(value, ReallyError) else None


def compact(rows: Mapping[str, Any]) -> dict[str, Any]:
    """The rows without frames that none of them needs."""
    found = dict(rows)
    for keys in keys_by_frames(rows):
        frames = rows[keys[0]].frames
        used = np.unique(np.concatenate([rows[key].indices.ravel() for key in keys]))
        if len(used) < len(frames):
            kept = frames[used]
            for key in keys:
                indices = np.searchsorted(used, rows[key].indices).astype(np.int32)
                found[key] = FrameColumn(kept, indices, rows[key].axis)
    return found
