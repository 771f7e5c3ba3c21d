"""Runners in Ray actors, one process each, anywhere in the cluster."""

from __future__ import annotations

import atexit
import functools
import logging
import math
import pickle
import sys
import time
import uuid
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from really._ray import hosts, nodes, placement, reservations, runtime
from really._utils.keras_versions import variables_of_runners
from really._utils.packages import install_command, needed
from really.collectors.fleet import MESSAGE_BYTES, Fleet
from really.collectors.growth import Growth, Newcomer
from really.collectors.messages import Chunk, Order, RunnerSpec
from really.collectors.orders import QUEUED_ORDERS, PendingOrder, RunnerLost, Worker
from really.collectors.ray_runner import RayRunner
from really.collectors.side_channel import ask
from really.envs.registrations import Registrations
from really.errors import InvalidTypeError, InvalidValueError, ReallyError, RunnerError

log = logging.getLogger("really")

# How runners end: in each round the seconds to wait, and what those may do that get another round. After the first
# round, orders are interrupted.
CLOSING_ROUNDS = ((2.0, ("preparing", "collecting", "waiting", "closing")), (3.0, ("closing",)), (25.0, ()))


# Seconds after which a runner that still waits for its CPU starts without one.
CPU_PATIENCE = 5.0


@dataclass(frozen=True)
class RunnerProcess:
    """A runner's actor.

    Attributes:
        actor: Ray's handle.
        address: that of the side channel of its process.
        asked_at: the time at which it asked for a CPU, or None if it holds none.
        first_answer: Ray's reference of an answer that comes once it has started, or None if nobody asked for one.
    """

    actor: Any
    address: str
    asked_at: float | None
    first_answer: Any = None


class Call(NamedTuple):
    """Ray's references of a chunk to come, of its rows if they stay on the node of the runner, and of a preparation."""

    chunk: Any
    rows: Any = None
    prepared: Any = None


class RayFleet(Fleet):
    """Runners in Ray actors, on the CPUs that are free when the manager starts.

    Args:
        spec: the specification of each runner.
        num_parallel: number of agents.
        num_workers: number of runners; by default as many as there are CPUs and agents.
        extra: Ray's resources that a runner holds besides a CPU, as {"GPU": 0.5}.
        runtime_env: Ray's runtime environment of the runners, or None for the driver's.

    Raises:
        InvalidValueError: there is not enough of the extra resources, or the runtime environment is invalid.
        InvalidTypeError: the environment cannot be pickled.
        RunnerError: a host of the cluster lacks this package, or has another version of it.
    """

    end_patience = 30.0

    def __init__(
        self,
        spec: RunnerSpec,
        num_parallel: int,
        num_workers: int | None,
        *,
        extra: Mapping[str, float] = MappingProxyType({}),
        runtime_env: Mapping[str, Any] | None = None,
    ) -> None:
        with needed("SampleManager", "Ray for runners in processes of their own", "ray", "use_ray=False"):
            import ray

        self._ray = ray
        self._session = runtime.start()
        self._warned_of_draws = False
        self._placement = placement.Placement()
        self._newcomers: list[Newcomer] = []
        self._actor = ray.remote(RayRunner)
        self.runtime_env = _checked_runtime_env(runtime_env)
        self._options = {"max_restarts": 0, "runtime_env": self.runtime_env}
        wanted = num_workers or max(1, min(num_parallel, reservations.cluster_cpus()))
        hosts.check(self.runtime_env, install_command(None))
        self._reservation = reservations.reserve(self._session, min(wanted, num_parallel), extra)
        try:
            limit = _chunk_limit(self._reservation.count)
            self.message_bytes = min(limit, MESSAGE_BYTES)
            # A result that is larger than a message still comes in one piece if the object store has room for it.
            spec = replace(spec, message_bytes=limit, runners=self._reservation.count)
            self._packed_spec = self._packed(spec)
            super().__init__(spec, num_parallel, self._reservation.count)
        except BaseException:
            self._reservation.release()
            raise
        # Data of a seeded run depend on which agents a runner has had since its start.
        self._growth = None if spec.seeded else self._grower(num_workers, extra)
        # Ray ends its processes when Python exits, and this comes before.
        atexit.register(self._finalizer)

    def fetch(self, worker: Worker) -> tuple[PendingOrder, Chunk] | None:
        """The worker's oldest order with its chunk. Warns if a seeded run will repeat for this number of workers only.

        Returns None if the runner was lost; a new one gets its orders.
        """
        fetched = super().fetch(worker)
        shared = fetched and fetched[1].process_draws and self._spec.seeded and len(worker.agents) > 1
        if shared and not self._warned_of_draws:
            self._warned_of_draws = True
            log.warning(
                "seed: environment %r draws from random or numpy.random, which the agents of a runner share: "
                "its data repeat for the same num_workers (now %d), not for any other.",
                self._spec.environment.name,
                len(self.workers),
            )
        return fetched

    def check(self) -> None:
        """Raises RunnerError if the runners were closed, or their Ray runtime was shut down."""
        super().check()
        runtime.check(self._session)

    def _set_spec(self, spec: RunnerSpec) -> None:
        self._packed_spec = self._packed(spec)
        super()._set_spec(spec)

    def _share(self, value: Any) -> Any:
        self.check()
        return self._ray.put(value)

    def _start(self, number: int, agents: Sequence[int], restart: int) -> RunnerProcess:
        held = self._reservation.options(number, self._placement, restart=restart > 0)
        return self.start_with(held, agents, restart)

    def start_with(self, held: Mapping[str, Any], agents: Sequence[int], restart: int) -> RunnerProcess:
        """Starts a runner with options of Ray that say what it holds and where."""
        address = uuid.uuid4().hex
        actor = self._actor.options(**self._options, **held)
        started = actor.remote(self._packed_spec, sys.path, address, agents, restart, variables_of_runners())
        return RunnerProcess(started, address, time.monotonic() if held["num_cpus"] else None)

    def adapt(self) -> None:
        """Moves agents to hosts that have joined the cluster, unless the run is seeded."""
        if self._growth is not None:
            with runtime.shutdown_as_error(self._session):
                self.check()
                self._growth.advance()

    def _grower(self, num_workers: int | None, extra: Mapping[str, float]) -> Growth:
        """What adds runners on hosts that join: at most `num_workers`, or as many as there are CPUs and agents."""
        agents = sum(len(worker.agents) for worker in self.workers)
        fleet = weakref.proxy(self)

        def most() -> int:
            return min(agents, num_workers or reservations.cluster_cpus())

        def ask(node: str) -> hosts.Question:
            return hosts.Question(node, fleet.runtime_env, install_command(None))

        def start(number: int, agents: Sequence[int], restart: int, node: str) -> RunnerProcess:
            # What went with a lost node, Ray may have reserved anew on this one.
            has_cpu = fleet.holds_cpu(node)
            held = reservations.held_options({"CPU": 0.0 if has_cpu else 1.0, **extra})
            options = {**held, "scheduling_strategy": placement.affinity(node)}
            runner: RunnerProcess = fleet.start_with(options, agents, restart)
            return replace(runner, first_answer=runner.actor.info.remote())

        return Growth(self.workers, self._placement, self._newcomers, most, ask, start, _has_started, _end_newcomer)

    def holds_cpu(self, node: str) -> bool:
        """Whether there is a reserved CPU on a node for each runner there, those included that are noted to start."""
        return self._reservation.held_on(node) >= list(self._placement.nodes.values()).count(node)

    def look_after_starts(self) -> None:
        """Notes which runners are ready. Starts one without a CPU if its own went with a node and others hold it."""
        since = time.monotonic() - CPU_PATIENCE
        with runtime.shutdown_as_error(self._session):
            self._note_prepared()
            waiting = [w for w in self.workers if not w.prepared and w.runner.asked_at and w.runner.asked_at < since]
            if not waiting or self._reservation.is_granted:
                return
        names = ", ".join(map(str, waiting))
        log.warning("%s: expected a CPU within %g s, got none: starting without a CPU of its own", names, CPU_PATIENCE)
        for worker in waiting:
            self._restart_with_orders(worker)

    def _note_prepared(self) -> None:
        """Notes which runners have become ready to step. The time that they took to start does not make them late."""
        for worker in self.workers:
            if worker.prepared or not worker.pending or (prepared := worker.pending[0].handle.prepared) is None:
                continue
            if self._ray.wait([prepared], timeout=0)[0]:
                worker.prepared, worker.pending[0].started_at = True, time.monotonic()

    def _counts(self, worker: Worker, lost: RunnerLost) -> bool:
        """A runner that is lost with its host counts only if there is no other host to start it on."""
        node = self._placement.nodes.get(worker.number)
        if lost.with_host or (node and node not in placement.cpus_of_nodes()):
            return not self._placement.lose(worker.number)
        return True

    def _packed(self, spec: RunnerSpec) -> bytes:
        """Registrations and specification, pickled; raises InvalidTypeError if the environment cannot be pickled."""
        dumps = self._ray.cloudpickle.dumps
        try:
            packed: bytes = dumps((Registrations.of(spec.environment, dumps), spec))
        except (TypeError, pickle.PicklingError) as error:
            raise InvalidTypeError(
                f"environment {spec.environment.name!r}: expected what can be sent to another process, got what "
                f"cannot ({error.__cause__ or error}). Give its class or a factory instead, or use_ray=False."
            ) from error
        return packed

    def _call(self, runner: RunnerProcess, order: Order, weights: Any, policy: Any) -> Any:
        prepared = None
        if policy is not None:
            # A call of its own, so that the driver knows when the runner begins to step.
            prepared, weights = runner.actor.prepare.remote(policy, weights, order.version), None
        if not self.rows_stay:
            return Call(runner.actor.collect.remote(order, weights), prepared=prepared)
        chunk, rows = runner.actor.collect_apart.options(num_returns=2).remote(order, weights)
        return Call(chunk, rows, prepared)

    def _call_rest(self, runner: RunnerProcess, number: int, start: int) -> Any:
        return Call(runner.actor.rest.remote(number, start))

    def _where(self, runner: RunnerProcess) -> str:
        unknown = "an unknown place: it does not release the interpreter lock, or has not started"
        return _ask(runner, "where") or unknown

    def _wait(self, handles: list[Call], timeout: float | None) -> list[Call]:
        calls = {handle.chunk: handle for handle in handles}
        with runtime.shutdown_as_error(self._session):
            ready, _ = self._ray.wait(list(calls), num_returns=1, timeout=timeout)
            if ready:
                runtime.check(self._session)  # a wait that ray.shutdown() ends returns, and the next would start Ray
                ready, _ = self._ray.wait(list(calls), num_returns=len(calls), timeout=0)
        return [calls[chunk] for chunk in ready]

    def _get(self, handle: Call) -> Any:
        exceptions = self._ray.exceptions
        try:
            with runtime.shutdown_as_error(self._session):
                chunk = self._ray.get(handle.chunk)
            return chunk if handle.rows is None else replace(chunk, batch=replace(chunk.batch, batch=handle.rows))
        except exceptions.RayTaskError as error:
            if isinstance(error.cause, ReallyError):
                raise error.cause from error
            raise RunnerError(f"a runner failed:\n{error}") from error
        except exceptions.RuntimeEnvSetupError as error:
            raise RunnerLost(str(error), hopeless=True) from error
        except (exceptions.RayActorError, exceptions.ObjectLostError, exceptions.ActorUnschedulableError) as error:
            hopeless = getattr(error, "actor_init_failed", False)
            # Ray tells that a process died only if its node is there to say so.
            raise RunnerLost(str(error), hopeless, not isinstance(error, exceptions.ActorDiedError)) from error

    def _info(self, runner: RunnerProcess) -> Any:
        if not self._session.is_current:
            raise RunnerLost("ray.shutdown() was called")
        return self._get(Call(runner.actor.info.remote()))

    def _stop(self, runner: RunnerProcess) -> None:
        self._ray.kill(runner.actor)

    def _make_room(self) -> None:
        # What a runner holds besides a CPU may be all that there is. If a new one fails then, the next call replaces it
        if set(self._reservation.needs) - {"CPU"}:
            _end_runners(self.workers)

    def _end_all(self, workers: list[Worker]) -> None:
        _end_runners(workers)

    def _releaser(self) -> Callable[[list[Worker]], None]:
        return functools.partial(_release, self._reservation, self._placement, self._newcomers)


def _ask(runner: RunnerProcess, request: str) -> str | None:
    """The answer of a runner's process on any node, even while it works. Returns None if there is no answer."""
    answer: str | None = ask(runner.address, request) or nodes.first_answer(ask, runner.address, request)
    return answer


def _release(
    reservation: reservations.Reservation, nodes: placement.Placement, newcomers: list[Newcomer], workers: list[Worker]
) -> None:
    """Ends all runners, unless they ended with their session, and gives their resources back."""
    try:
        if reservation.session.is_current:
            _end_runners([*workers, *(newcomer.worker for newcomer in newcomers)])
    finally:
        nodes.clear()
        reservation.release()


def _end_runners(workers: list[Worker]) -> None:
    """Closes the environments of all runners and ends their processes."""
    import ray

    try:
        _close_environments(workers)
    finally:
        for worker in workers:
            ray.kill(worker.runner.actor)


def _has_started(runner: RunnerProcess) -> bool:
    """Whether a runner has started; raises RunnerLost if it cannot."""
    import ray

    if runner.first_answer is None or not ray.wait([runner.first_answer], timeout=0)[0]:
        return False
    try:
        ray.get(runner.first_answer)
    except ray.exceptions.RayError as error:
        raise RunnerLost(str(error)) from error
    return True


def _end_newcomer(worker: Worker) -> None:
    """Ends a runner that has given its agents away, or did not start."""
    import ray

    if worker.started:
        _end_runners([worker])
    else:
        ray.kill(worker.runner.actor)


def _close_environments(workers: list[Worker]) -> None:
    """Closes the environments of all runners that have made some, and warns of those that cannot be closed in time.

    Orders that are queued are dropped. One that does not end soon is interrupted.
    """
    import ray

    closing: dict[Any, Worker] = {}
    for worker in workers:
        if worker.started or _ask(worker.runner, "where"):
            for pending in list(worker.pending)[1:]:
                ray.cancel(pending.handle.chunk)
            closing[worker.runner.actor.close.remote()] = worker
    for patience, phases in CLOSING_ROUNDS:
        if not closing:
            return
        done, _ = ray.wait(list(closing), num_returns=len(closing), timeout=patience)
        for call in done:
            _warn_of_failures(call, closing.pop(call))
        for call, worker in list(closing.items()):
            if _ask(worker.runner, "interrupt") not in phases:
                log.warning("%s: its environments could not be closed in time, since it did something else", worker)
                del closing[call]


def _warn_of_failures(call: Any, worker: Worker) -> None:
    """Repeats the warnings of a call of `close`. A process that has died has no environments left."""
    import ray

    try:
        messages = ray.get(call)
    except ray.exceptions.RayTaskError as error:
        messages = [f"expected close to succeed, got\n{error}"]
    except ray.exceptions.RayError:
        return
    for message in messages:
        warnings.warn(f"{worker}: {message}", stacklevel=2)


def _chunk_limit(workers: int) -> float:
    """Bytes of a chunk such that all queued chunks together fill at most half of the smallest object store."""
    store = runtime.smallest_object_store()
    limit = store / (2 * QUEUED_ORDERS * workers)
    if limit < MESSAGE_BYTES:
        log.warning(
            "Ray's object store is small (%.0f MB): runners send at most %.1f MB at a time; "
            "ray.init(object_store_memory=...) makes it larger.",
            store / 1e6,
            limit / 1e6,
        )
    if math.isfinite(store):
        runtime.warn_of_small_shared_memory(store)
    return limit


def _checked_runtime_env(given: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The runtime environment as Ray takes it; raises InvalidValueError if it is none."""
    from ray.runtime_env import RuntimeEnv

    if given is None:
        return None
    try:
        RuntimeEnv(**given)
    except Exception as error:
        raise InvalidValueError(
            f"runtime_env: expected a runtime environment of Ray, got {dict(given)} ({error})"
        ) from error
    return dict(given)
