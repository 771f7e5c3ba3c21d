"""The fleet: runners in Ray actors or in this process; their start, weights, orders and restarts. The only Ray."""

from __future__ import annotations

import logging
import math
import os
import pickle
import shutil
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really.collectors.runner import Acting, Chunk, Order, Runner, RunnerSpec, Weights
from really.data.frames import joined, owned
from really.data.normalisation import Statistics
from really.data.transitions import from_record_batch, to_record_batch
from really.errors import InvalidTypeError, ReallyError, RunnerError

log = logging.getLogger("really")

# How often in a row a runner that dies is started again before the call gives up.
MAX_RESTARTS = 3
# Ray learns of released CPUs with a delay; a manager that follows another waits for them this long (seconds).
RELEASE_WAIT = 2.0


# An order is queued behind the one that a runner works on, so that it never waits for the driver.
QUEUED_ORDERS = 2
# A message of about this much is large enough to make its fixed cost (1 ms) small and small enough to overlap.
MESSAGE_BYTES = 32 << 20
# The thread of a runner's process that answers while another is in an environment, and how long it is waited for.
WATCH, WATCH_PATIENCE = "watch", 2.0
SHARED_MEMORY = "/dev/shm"


class RunnerLost(Exception):  # noqa: N818 - an event that the fleet handles, no caller sees it
    """A runner's process died; `hopeless` where its own constructor raised, as another's would."""

    def __init__(self, cause: str, hopeless: bool = False) -> None:
        super().__init__(cause)
        self.hopeless = hopeless


@dataclass(eq=False)
class Ticket:
    """An order that a runner has and whose chunk has not been fetched yet; `begun` is when its turn came."""

    number: int
    order: Order
    handle: Any
    begun: float
    late: bool = False

    @property
    def results(self) -> int:
        """How many results were ordered."""
        return sum(self.order.results)


@dataclass(eq=False)
class Worker:
    """A runner, wherever it lives, with the orders it has and those planned for it."""

    number: int
    agents: tuple[int, ...]
    runner: Any
    version: int = -1
    equipped: bool = False
    started: bool = False
    restarts: int = 0
    failures: int = 0
    tickets: deque[Ticket] = field(default_factory=deque)
    planned: deque[tuple[int, Order]] = field(default_factory=deque)

    @property
    def late(self) -> bool:
        """Whether the order it works on takes much longer than it should."""
        return any(ticket.late for ticket in self.tickets)

    def __str__(self) -> str:
        return f"runner {self.number} (agents {self.agents[0]} to {self.agents[-1]})"


class Fleet:
    """Runners that live as long as their manager; subclasses say where.

    Attributes:
        workers: the runners with their orders.
        version: of the weights that the next order will be carried out with: how often they have changed.
        message_bytes: about how much one chunk may hold.
        end_patience: seconds that an order under way is waited for where all is to end; None where it cannot be cut.
    """

    message_bytes: float = MESSAGE_BYTES
    end_patience: float | None = None

    def __init__(self, spec: RunnerSpec, num_parallel: int, num_workers: int) -> None:
        self._spec = spec
        self.version = -1
        self._current: dict[str, Any] = {}
        self._shared: dict[str, Any] = {}
        # A thread that collects in the background sends orders while the learner sets weights.
        self._changing = threading.Lock()
        shares = np.array_split(np.arange(num_parallel), min(num_workers, num_parallel))
        self.workers = [
            Worker(number, agents, self._start(agents, 0))
            for number, agents in enumerate(tuple(share.tolist()) for share in shares)
        ]
        self._finalizer = weakref.finalize(self, self._release, self.workers)

    @property
    def most_agents(self) -> int:
        """Agents of the runner that has the most."""
        return max(len(worker.agents) for worker in self.workers)

    def close(self) -> None:
        """Releases the runners and their processes; harmless when repeated."""
        self._finalizer()

    def check(self) -> None:
        """Refuses to go on with runners that are gone."""
        if not self._finalizer.alive:
            raise RunnerError("the runners of this manager: expected them to be running, but close() was called")

    def equip(self, acting: Acting) -> None:
        """Makes this the way to act that runners take over with their next order; weights follow."""
        self._change("acting", acting)
        for worker in self.workers:
            worker.version, worker.equipped = -1, False

    def set_weights(self, weights: list[NDArray[Any]], statistics: Statistics) -> None:
        """Makes these what runners get with their next order, with the statistics to normalise by: a new version."""
        with self._changing:
            self._change("weights", Weights(weights, statistics))
            self.version += 1

    def send(self, worker: Worker, number: int, order: Order) -> None:
        """Queues an order, with weights and way to act where they changed since the runner's last one."""
        with self._changing:
            version = self.version
            acting = None if worker.equipped else self._lend("acting")
            weights = None if worker.version == version else self._lend("weights")
        order = replace(order, version=version)
        handle = self._call(worker.runner, order, weights, acting)
        worker.version, worker.equipped = version, True
        worker.tickets.append(Ticket(number, order, handle, time.monotonic()))
        if all(other.equipped and other.version == version for other in self.workers):
            # The orders under way keep what they need in the store; nothing of ours stays there after them.
            self._shared.clear()

    def _change(self, what: str, value: Any) -> None:
        self._current[what] = value
        self._shared.pop(what, None)

    def _lend(self, what: str) -> Any:
        """What all runners get, put into the store once."""
        if what not in self._shared:
            self._shared[what] = self._share(self._current[what])
        return self._shared[what]

    def wait(self, workers: Iterable[Worker], timeout: float | None) -> list[Worker]:
        """Those of the workers whose oldest order is done; waits for at least one where `timeout` is None."""
        heads = {worker.tickets[0].handle: worker for worker in workers}
        return [heads[handle] for handle in self._wait(list(heads), timeout)]

    def fetch(self, worker: Worker) -> tuple[Ticket, Chunk] | None:
        """The worker's oldest order and its chunk; None where the runner was lost and gets its orders again."""
        try:
            chunk = self._whole(worker, self._get(worker.tickets[0].handle))
        except RunnerLost as lost:
            self._replace(worker, lost)
            return None
        except ReallyError as error:
            worker.tickets.popleft()
            raise type(error)(f"{error} ({worker})") from error
        ticket = worker.tickets.popleft()
        worker.started, worker.failures = True, 0
        if worker.tickets:
            worker.tickets[0].begun = time.monotonic()
        return ticket, chunk

    def where(self, worker: Worker) -> str:
        """What a runner is at right now."""
        return self._where(worker.runner)

    def restart(self, worker: Worker) -> None:
        """Ends a runner and starts another in its place, with random streams of its own and no orders."""
        self._stop(worker.runner)
        worker.restarts += 1
        worker.tickets.clear()
        worker.version, worker.equipped, worker.started = -1, False, False
        worker.runner = self._start(worker.agents, worker.restarts)

    @property
    def restarts(self) -> int:
        """How often the runner that was restarted most was: the last number in the keys of the streams used so far."""
        return max(worker.restarts for worker in self.workers)

    def begin_anew(self, entropy: int, restart: int) -> None:
        """Starts every runner anew without orders, its streams keyed by this entropy and number of restarts."""
        self._respecify(replace(self._spec, entropy=entropy))
        for worker in self.workers:
            worker.restarts = restart - 1
            self.restart(worker)

    def _respecify(self, spec: RunnerSpec) -> None:
        """Makes this what runners that are started from now on are made from."""
        self._spec = spec

    def info(self) -> list[dict[str, Any]]:
        """What each runner is made of, and how often it was restarted."""
        return [
            {"runner": worker.number, **self._info_of(worker), "restarts": worker.restarts} for worker in self.workers
        ]

    def _info_of(self, worker: Worker) -> dict[str, Any]:
        try:
            return self._info(worker.runner)
        except RunnerLost:
            return {"agents": worker.agents, "environments": "lost", "pid": None, "tensorflow": None}

    def _replace(self, worker: Worker, lost: RunnerLost) -> None:
        self.check()
        worker.failures += 1
        if lost.hopeless:
            worker.failures = 0
            self.restart(worker)
            raise RunnerError(f"{worker} could not start:\n{lost}") from lost
        if worker.failures > MAX_RESTARTS:
            failures, worker.failures = worker.failures, 0
            self.restart(worker)
            raise RunnerError(f"{worker} died {failures} times in a row, the last time with:\n{lost}") from lost
        cause = str(lost).strip().splitlines()[-1]
        log.warning("%s was lost and is restarted; a seeded run will not repeat. Cause: %s", worker, cause)
        orders = [(ticket.number, ticket.order) for ticket in worker.tickets]
        self.restart(worker)
        for number, order in orders:
            self.send(worker, number, order)

    def _whole(self, worker: Worker, chunk: Chunk) -> Chunk:
        """A chunk that came in pieces in one; each piece leaves the store before the next is asked for."""
        if not chunk.more:
            return chunk
        pieces, piece = [], chunk
        while True:
            pieces.append(owned(from_record_batch(piece.batch)))
            if not piece.more:
                break
            piece = self._get(self._ask_rest(worker.runner))
        return replace(chunk, batch=to_record_batch(joined(pieces)), more=False)

    def _start(self, agents: Sequence[int], restart: int) -> Any:
        raise NotImplementedError

    def _share(self, thing: Any) -> Any:
        raise NotImplementedError

    def _call(self, runner: Any, order: Order, weights: Any, acting: Any) -> Any:
        raise NotImplementedError

    def _ask_rest(self, runner: Any) -> Any:
        raise NotImplementedError

    def _where(self, runner: Any) -> str:
        raise NotImplementedError

    def _wait(self, handles: list[Any], timeout: float | None) -> list[Any]:
        raise NotImplementedError

    def _get(self, handle: Any) -> Chunk:
        raise NotImplementedError

    def _info(self, runner: Any) -> dict[str, Any]:
        raise NotImplementedError

    @staticmethod
    def _stop(runner: Any) -> None:
        raise NotImplementedError

    @classmethod
    def _release(cls, workers: list[Worker]) -> None:
        for worker in workers:
            cls._stop(worker.runner)


@dataclass(eq=False)
class _LocalCall:
    """An order of a runner in this process, carried out when it is fetched."""

    runner: Runner
    order: Order
    weights: Weights | None
    acting: Acting | None


class LocalFleet(Fleet):
    """Runners in this process, one after the other: for debugging, and where Ray is not wanted."""

    def __init__(self, spec: RunnerSpec, num_parallel: int, num_workers: int | None) -> None:
        super().__init__(spec, num_parallel, num_workers or 1)

    def _start(self, agents: Sequence[int], restart: int) -> Runner:
        return Runner(self._spec, agents, restart)

    def _share(self, thing: Any) -> Any:
        return thing

    def _call(self, runner: Runner, order: Order, weights: Any, acting: Any) -> _LocalCall:
        return _LocalCall(runner, order, weights, acting)

    def _where(self, runner: Runner) -> str:
        return runner.where()

    def _wait(self, handles: list[_LocalCall], timeout: float | None) -> list[_LocalCall]:
        return handles[:1]

    def _get(self, handle: _LocalCall) -> Chunk:
        return handle.runner.collect(handle.order, handle.weights, handle.acting)

    def _info(self, runner: Runner) -> dict[str, Any]:
        return runner.info()

    @staticmethod
    def _stop(runner: Runner) -> None:
        runner.close()


class RayRunner(Runner):
    """A runner in a process of its own: it finds the driver's modules, and knows on which node it lives."""

    def __init__(self, packed_spec: bytes, paths: Sequence[str], agents: Sequence[int], restart: int) -> None:
        # The user's classes may be in modules that only the driver's path leads to.
        sys.path.extend(path for path in paths if path not in sys.path)
        super().__init__(pickle.loads(packed_spec), agents, restart)

    def info(self) -> dict[str, Any]:
        """What this runner is made of, and the first digits of its node's id."""
        import ray

        return {**super().info(), "node": ray.get_runtime_context().get_node_id()[:8]}


class RayFleet(Fleet):
    """Runners in Ray actors, one process each, on the CPUs that are free when the manager starts."""

    end_patience = 30.0

    def __init__(self, spec: RunnerSpec, num_parallel: int, num_workers: int | None) -> None:
        import ray

        self._ray = ray
        if not ray.is_initialized():
            log.warning("Ray is not initialised: starting it on this machine, as ray.init() would.")
            ray.init(include_dashboard=False, log_to_driver=False)
        self._job = ray.get_runtime_context().get_job_id()
        wanted = num_workers or max(1, min(num_parallel, int(ray.cluster_resources().get("CPU", 1))))
        workers, self._cpus = self._granted(min(wanted, num_parallel))
        limit = self._chunk_limit(workers)
        self.message_bytes = min(limit, MESSAGE_BYTES)
        self._actor = ray.remote(concurrency_groups={WATCH: 1})(RayRunner)
        # A result that is larger than a message goes in one piece all the same, as long as the store has room for it.
        spec = replace(spec, message_bytes=limit)
        self._packed_spec = self._packed(spec)
        super().__init__(spec, num_parallel, workers)

    def check(self) -> None:
        """Refuses to go on with runners of a Ray that was shut down, or that were closed."""
        super().check()
        if not self._ray.is_initialized() or self._ray.get_runtime_context().get_job_id() != self._job:
            raise RunnerError(
                "the Ray runtime of this manager: expected it to be running, but ray.shutdown() was called; "
                "make a new SampleManager"
            )

    def _respecify(self, spec: RunnerSpec) -> None:
        self._packed_spec = self._packed(spec)
        super()._respecify(spec)

    def _share(self, thing: Any) -> Any:
        self.check()
        return self._ray.put(thing)

    def _start(self, agents: Sequence[int], restart: int) -> Any:
        # A restarted runner must not wait for a CPU that went with its node, or that Ray still counts as taken.
        options = {"num_cpus": 0 if restart else self._cpus, "scheduling_strategy": "SPREAD", "max_restarts": 0}
        return self._actor.options(**options).remote(self._packed_spec, sys.path, agents, restart)

    def _packed(self, spec: RunnerSpec) -> bytes:
        try:
            packed: bytes = self._ray.cloudpickle.dumps(spec)
        except (TypeError, pickle.PicklingError) as error:
            raise InvalidTypeError(
                f"environment {spec.environment.name!r}: expected what can be sent to another process, got what "
                f"cannot ({error.__cause__ or error}). Give its class or a factory instead, or use_ray=False."
            ) from error
        return packed

    def _call(self, runner: Any, order: Order, weights: Any, acting: Any) -> Any:
        return runner.collect.remote(order, weights, acting)

    def _ask_rest(self, runner: Any) -> Any:
        # Not behind the order that is queued already.
        return runner.rest.options(concurrency_group=WATCH).remote()

    def _where(self, runner: Any) -> str:
        call = runner.where.options(concurrency_group=WATCH).remote()
        try:
            return str(self._ray.get(call, timeout=WATCH_PATIENCE))
        except self._ray.exceptions.RayError:
            return "a place that it does not tell: it holds the interpreter, or has not started"

    def _wait(self, handles: list[Any], timeout: float | None) -> list[Any]:
        ready, _ = self._ray.wait(handles, num_returns=1, timeout=timeout)
        if ready:
            ready, _ = self._ray.wait(handles, num_returns=len(handles), timeout=0)
        return list(ready)

    def _get(self, handle: Any) -> Any:
        exceptions = self._ray.exceptions
        try:
            return self._ray.get(handle)
        except exceptions.RayTaskError as error:
            if isinstance(error.cause, ReallyError):
                raise error.cause from error
            raise RunnerError(f"a runner failed:\n{error}") from error
        except (exceptions.RayActorError, exceptions.ObjectLostError) as error:
            raise RunnerLost(str(error), getattr(error, "actor_init_failed", False)) from error

    def _info(self, runner: Any) -> Any:
        return self._get(runner.info.remote())

    @staticmethod
    def _stop(runner: Any) -> None:
        import ray

        if ray.is_initialized():
            ray.kill(runner)

    @classmethod
    def _release(cls, workers: list[Worker]) -> None:
        super()._release(workers)
        _claims.released = time.monotonic()

    def _chunk_limit(self, workers: int) -> float:
        """What a chunk may hold so that all that are queued fill half of the smallest object store."""
        stores = [node["Resources"].get("object_store_memory", math.inf) for node in self._ray.nodes() if node["Alive"]]
        limit = min(stores, default=math.inf) / (2 * QUEUED_ORDERS * workers)
        if limit < MESSAGE_BYTES:
            log.warning(
                "Ray's object store is small (%.0f MB): runners send at most %.1f MB at a time; "
                "ray.init(object_store_memory=...) makes it larger.",
                min(stores) / 1e6,
                limit / 1e6,
            )
        warn_of_small_shared_memory(min(stores, default=0))
        return limit

    def _granted(self, wanted: int) -> tuple[int, int]:
        """(processes, CPUs each): as many as wanted where they are free, else fewer, at least one without a CPU."""
        deadline = time.monotonic() + RELEASE_WAIT
        while (free := self._free_cpus()) < wanted and time.monotonic() < min(deadline, _claims.settled):
            time.sleep(0.02)
        count = max(1, min(wanted, free))
        if free < wanted:
            log.warning("%d of the %d CPUs wanted for runners are free: starting %d.", free, wanted, count)
        _claims.held[self] = (self._job, min(count, max(free, 0)))
        return count, 1 if free >= 1 else 0

    def _free_cpus(self) -> int:
        """CPUs that neither another program (as Ray says) nor a living manager of this process holds."""
        held = sum(cpus for fleet, (job, cpus) in _claims.held.items() if job == self._job and fleet.alive)
        return int(
            min(
                self._ray.available_resources().get("CPU", 0),
                self._ray.cluster_resources().get("CPU", 1) - held,
            )
        )

    @property
    def alive(self) -> bool:
        """Whether the runners still hold their CPUs."""
        # One that could not be started never got a finalizer.
        finalizer = getattr(self, "_finalizer", None)
        return finalizer is not None and finalizer.alive


def warn_of_small_shared_memory(wanted: float, path: str = SHARED_MEMORY) -> bool:
    """Says so where the shared memory at `path` cannot hold an object store of `wanted` bytes; returns whether."""
    if not os.path.isdir(path) or (size := shutil.disk_usage(path).total) >= wanted:
        return False
    log.warning(
        "%s holds %.0f MB, Ray's object store wants %.0f MB: it falls back to the disk, which is slow. "
        "Enlarge it (in a container: --shm-size), or give ray.init a smaller object_store_memory.",
        path,
        size / 1e6,
        wanted / 1e6,
    )
    return True


@dataclass
class _Claims:
    """CPUs that the fleets of this process hold: Ray's own count lags behind actors just started or ended."""

    held: weakref.WeakKeyDictionary[RayFleet, tuple[Any, int]] = field(default_factory=weakref.WeakKeyDictionary)
    released: float = -math.inf

    @property
    def settled(self) -> float:
        """When Ray's count can be believed again."""
        return self.released + RELEASE_WAIT


_claims = _Claims()
