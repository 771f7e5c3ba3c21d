"""The fleet: the runners of a manager, the orders that each has, their policy and weights, and their restarts.

`local_fleet.LocalFleet` runs them in this process, `ray_fleet.RayFleet` in Ray actors.
"""

from __future__ import annotations

import contextlib
import logging
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really._ray.remote_rows import fetched
from really._utils._locks import Lock
from really.collectors import runner_memory
from really.collectors.messages import Chunk, ExportedPolicy, Order, RunnerSpec, Weights
from really.collectors.orders import PendingOrder, RunnerLost, Worker
from really.data.frames import joined, owned
from really.data.moments import Statistics
from really.data.record_batches import from_record_batch, to_record_batch
from really.errors import ReallyError, RunnerError

log = logging.getLogger("really")

# How often in a row a runner that dies is restarted before the call fails.
MAX_RESTARTS = 3
# Bytes of a message: enough to make its fixed cost (1 ms) small, and few enough that messages overlap with work.
MESSAGE_BYTES = 32 << 20


class Fleet:
    """Runners that live as long as their manager. A subclass decides where they run.

    Attributes:
        workers: the runners with their orders.
        weights: the current weights and statistics, with which the next order is carried out; empty at first.
        version: the policy version, which counts how often the weights have changed.
        message_bytes: approximate limit on the bytes of one chunk.
        end_patience: seconds to wait for running orders when the manager closes; None waits until they are done.
        rows_stay: whether rows stay on the nodes of their runners, if these are in other processes.
        is_local: whether runners work in this process while their chunks are fetched, so an interrupt ends an order.
    """

    message_bytes: float = MESSAGE_BYTES
    end_patience: float | None = None
    is_local = False
    rows_stay = False

    def __init__(self, spec: RunnerSpec, num_parallel: int, num_workers: int) -> None:
        self._spec = spec
        self.weights = Weights([], {})
        self.version = -1
        # Number of the last order sent.
        self._sent = 0
        self._policy: ExportedPolicy | None = None
        # What runners receive with an order, as it is shared with all of them: "policy", "weights".
        self._shared: dict[str, Any] = {}
        # A thread that collects in the background sends orders while the learner sets weights.
        self._changing = Lock()
        shares = np.array_split(np.arange(num_parallel), min(num_workers, num_parallel))
        self.workers = [
            Worker(number, agents, self._start(number, agents, 0))
            for number, agents in enumerate(tuple(share.tolist()) for share in shares)
        ]
        self._finalizer = weakref.finalize(self, self._releaser(), self.workers)

    @property
    def most_agents(self) -> int:
        """The largest number of agents of one runner."""
        return max(len(worker.agents) for worker in self.workers)

    def close(self) -> None:
        """Releases the runners and their processes; a second call does nothing."""
        self._finalizer()

    def check(self) -> None:
        """Raises RunnerError if the runners were closed."""
        if not self._finalizer.alive:
            raise RunnerError("the runners of this manager: expected them to be running, but close() was called")

    def set_policy(self, policy: ExportedPolicy) -> None:
        """Sets the policy that each runner receives with its next order, together with the weights."""
        self._policy = policy
        self._shared.pop("policy", None)
        for worker in self.workers:
            worker.version, worker.has_policy = -1, False

    def set_weights(self, arrays: list[NDArray[Any]], statistics: Statistics) -> None:
        """Makes a new policy version of these weights and statistics; runners receive it with their next order."""
        with self._changing:
            self.weights = Weights(arrays, statistics)
            self._shared.pop("weights", None)
            self.version += 1

    def send(self, worker: Worker, number: int, order: Order) -> None:
        """Queues an order for the worker's agents.

        It sends the policy and the weights along if they changed since the runner's last order.
        """
        if worker.outgrown and not worker.pending:
            self.end_and_restart(worker)
        with self._changing:
            version = self.version
            policy = None if worker.has_policy else self._share_once("policy", self._policy)
            weights = None if worker.version == version else self._share_once("weights", self.weights)
        self._sent += 1
        oldest = worker.pending[0].order.number if worker.pending else self._sent
        order = replace(worker.seated(order), version=version, number=self._sent, oldest=oldest)
        handle = self._call(worker.runner, order, weights, policy)
        worker.pending.append(PendingOrder(number, order, handle, time.monotonic()))
        # Last, so that what an interrupt withholds is sent with the next order.
        worker.version, worker.has_policy = version, True
        if all(other.has_policy and other.version == version for other in self.workers):
            # Pending orders keep the objects that they need in the store; the fleet's own references can go.
            self._shared.clear()

    def _share_once(self, name: str, value: Any) -> Any:
        """The value as it is passed to runners; it is put into the object store once for all of them."""
        if name not in self._shared:
            self._shared[name] = self._share(value)
        return self._shared[name]

    def wait(self, workers: Iterable[Worker], timeout: float | None) -> list[Worker]:
        """The workers whose oldest order is done. Without a timeout it waits for at least one."""
        oldest = {worker.pending[0].handle: worker for worker in workers}
        return [oldest[handle] for handle in self._wait(list(oldest), timeout)]

    def fetch(self, worker: Worker) -> tuple[PendingOrder, Chunk] | None:
        """The worker's oldest order with its chunk. Returns None if the runner was lost; a new one gets its orders."""
        try:
            chunk = self._complete(worker, self._get(worker.pending[0].handle))
        except RunnerLost as lost:
            self._replace(worker, lost)
            return None
        except ReallyError as error:
            self._drop_oldest(worker)
            raise type(error)(f"{error} ({worker})") from error
        except BaseException:
            if self.is_local:
                self._drop_oldest(worker)
            raise
        runner_memory.watch(self._spec, worker, chunk)
        done = worker.pending.popleft()
        worker.started, worker.prepared, worker.failures = True, True, 0
        if worker.pending:
            worker.pending[0].started_at = time.monotonic()
        return done, chunk

    def _drop_oldest(self, worker: Worker) -> None:
        """Drops a worker's oldest order, which raised. It may not have taken the policy and weights sent with it."""
        worker.pending.popleft()
        worker.version, worker.has_policy = -1, False

    def where(self, worker: Worker) -> str:
        """Describes what a runner is doing at the moment."""
        return self._where(worker.runner)

    def restart(self, worker: Worker) -> None:
        """Ends a runner and starts another in its place, with new random streams and no orders."""
        self._stop(worker.runner)
        self._begin_anew(worker)

    def end_and_restart(self, worker: Worker) -> None:
        """Closes the environments of a runner that has no orders, ends it, and starts another in its place."""
        self._end_all([replace(worker, pending=deque())])
        self._begin_anew(worker)

    def _begin_anew(self, worker: Worker) -> None:
        """Starts another runner in the place of one that has ended."""
        worker.restarts += 1
        self._forget_orders(worker)
        worker.runner = self._start(worker.number, worker.agents, worker.restarts)
        worker.replaces_lost = True

    @property
    def restarts(self) -> int:
        """The largest number of restarts of one runner, which is the last number in the keys of streams used so far."""
        return max(worker.restarts for worker in self.workers)

    @contextlib.contextmanager
    def replacing_all(self, entropy: int, restart: int) -> Iterator[None]:
        """Starts a new runner in place of each, whose streams are derived from this entropy and number of restarts.

        The block runs once all of them have started. They take the places of the others, without orders, when it ends.
        If a runner does not start, or the block raises, the runners, the weights and the policy version stay.
        """
        spec, weights, version, runners = self._spec, self.weights, self.version, list[Any]()
        try:
            self._set_spec(replace(spec, entropy=entropy))
            self._make_room()
            for worker in self.workers:
                runners.append(self._start(worker.number, worker.agents, restart))
            for worker, runner in zip(self.workers, runners, strict=True):
                self._await_start(worker, runner)
            yield
        except BaseException:
            for runner in runners:
                self._stop(runner)
            self._set_spec(spec)
            with self._changing:
                self.weights, self.version = weights, version
                self._shared.pop("weights", None)
            raise
        replaced = [replace(worker, pending=deque(worker.pending)) for worker in self.workers]
        for worker, runner in zip(self.workers, runners, strict=True):
            worker.runner, worker.restarts = runner, restart
            self._forget_orders(worker)
        self._end_all(replaced)

    def _await_start(self, worker: Worker, runner: Any) -> None:
        """Returns when a runner has started; raises RunnerError if it cannot."""
        try:
            self._info(runner)
        except RunnerLost as lost:
            raise lost.of_start(worker) from lost

    @staticmethod
    def _forget_orders(worker: Worker) -> None:
        worker.pending.clear()
        worker.seats, worker.rate = worker.agents, 0.0
        worker.version, worker.has_policy, worker.started, worker.replaces_lost = -1, False, False, False
        worker.prepared, worker.outgrown = False, False

    def _set_spec(self, spec: RunnerSpec) -> None:
        """Sets the specification of runners that are started from now on."""
        self._spec = spec

    def info(self) -> list[dict[str, Any]]:
        """Describes each runner: its agents, kind of environment batch and process, and how often it was restarted."""
        return [
            {"runner": worker.number, **self._info_of(worker), "agents": worker.agents, "restarts": worker.restarts}
            for worker in self.workers
        ]

    def _info_of(self, worker: Worker) -> dict[str, Any]:
        try:
            return self._info(worker.runner)
        except RunnerLost:
            return {"agents": (), "environments": "lost", "pid": None, "tensorflow": None}

    def _replace(self, worker: Worker, lost: RunnerLost) -> None:
        """Restarts a lost runner and sends it its orders again; raises RunnerError if that has no prospect."""
        self.check()
        worker.failures += self._counts(worker, lost)
        if lost.hopeless:
            worker.failures = 0
            self.restart(worker)
            raise lost.of_start(worker) from lost
        if worker.failures > MAX_RESTARTS:
            failures, worker.failures = worker.failures, 0
            self.restart(worker)
            raise RunnerError(f"{worker} died {failures} times in a row, the last time with:\n{lost}") from lost
        cause = str(lost).strip().splitlines()[-1]
        log.warning("%s was lost and is restarted; a seeded run will not repeat. Cause: %s", worker, cause)
        self._restart_with_orders(worker)

    def _counts(self, worker: Worker, lost: RunnerLost) -> bool:
        """Whether the loss may be the runner's own doing, so that it counts towards the limit of restarts."""
        return True

    def _restart_with_orders(self, worker: Worker) -> None:
        """Starts another runner in a worker's place, which gets its orders."""
        orders = [(pending.number, worker.unseated(pending.order)) for pending in worker.pending]
        if not worker.agents:
            worker.pending.clear()
            return
        self.restart(worker)
        for number, order in orders:
            if any(order.results):
                self.send(worker, number, order)

    def adapt(self) -> None:
        """Adapts the runners to hosts that have joined the cluster; a call does so before it plans orders."""

    def look_after_starts(self) -> None:
        """Notes which runners are ready to step, and helps those that cannot start."""

    def _complete(self, worker: Worker, chunk: Chunk) -> Chunk:
        """The chunk with all its rows in one batch."""
        if not chunk.more:
            return chunk
        worker.sends_pieces = True
        number, rows = worker.pending[0].order.number, 0
        pieces, piece = [], chunk
        while True:
            pieces.append(owned(from_record_batch(fetched(piece.batch))))
            if not piece.more:
                break
            rows += piece.batch.num_rows
            piece = self._get(self._call_rest(worker.runner, number, rows))
        return replace(chunk, batch=to_record_batch(joined(pieces)), more=False)

    def _start(self, number: int, agents: Sequence[int], restart: int) -> Any:
        """Starts runner `number` for these agents."""
        raise NotImplementedError

    def _share(self, value: Any) -> Any:
        """The form in which a value is passed to several runners."""
        raise NotImplementedError

    def _call(self, runner: Any, order: Order, weights: Any, policy: Any) -> Any:
        """Calls `Runner.collect`; returns a handle of the chunk to come."""
        raise NotImplementedError

    def _call_rest(self, runner: Any, number: int, start: int) -> Any:
        """Calls `Runner.rest`; returns a handle of the chunk to come."""
        raise NotImplementedError

    def _where(self, runner: Any) -> str:
        """The result of `Runner.where`."""
        raise NotImplementedError

    def _wait(self, handles: list[Any], timeout: float | None) -> list[Any]:
        """The handles that are done. Without a timeout it waits for at least one."""
        raise NotImplementedError

    def _get(self, handle: Any) -> Chunk:
        """The chunk of a handle; raises RunnerLost if the runner's process died."""
        raise NotImplementedError

    def _info(self, runner: Any) -> dict[str, Any]:
        """The result of `Runner.info`; raises RunnerLost if the runner's process died."""
        raise NotImplementedError

    def _stop(self, runner: Any) -> None:
        """Ends a runner."""
        raise NotImplementedError

    def _make_room(self) -> None:
        """Ends the runners if those that replace them could not start before."""

    def _end_all(self, workers: list[Worker]) -> None:
        """Ends the runners of these workers, which others replace."""
        self._releaser()(workers)

    def _releaser(self) -> Callable[[list[Worker]], None]:
        """A function that ends all runners. It must not refer to the fleet, or the fleet would never be collected."""
        raise NotImplementedError
