"""Runners in Ray actors, one process each, anywhere in the cluster."""

from __future__ import annotations

import functools
import logging
import math
import pickle
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from really._ray import cpus, runtime
from really.collectors.fleet import MESSAGE_BYTES, QUEUED_ORDERS, Fleet, PendingOrder, RunnerLost, Worker
from really.collectors.messages import Chunk, ExportedPolicy, Order, RunnerSpec, Weights
from really.collectors.runner import Runner
from really.collectors.seeds import PROCESS_STREAM, ProcessGenerators, agent_seed
from really.envs.registrations import Registrations
from really.errors import InvalidTypeError, ReallyError, RunnerError

log = logging.getLogger("really")

# The concurrency group of an actor whose thread answers while another one steps environments, and how many seconds
# the driver waits for its answer.
PROBE_GROUP, PROBE_TIMEOUT = "probe", 2.0


class RayRunner(Runner):
    """A runner in an actor's process. It knows the driver's modules and ids of environments, and its own node."""

    warns = False

    def __init__(self, packed_spec: bytes, paths: Sequence[str], agents: Sequence[int], restart: int) -> None:
        # The user's classes may be in modules that only the driver's path leads to.
        sys.path.extend(path for path in paths if path not in sys.path)
        registrations, spec = pickle.loads(packed_spec)
        registrations.apply()
        # Before the environments are made, since their constructors may draw too.
        self._generators = ProcessGenerators(agent_seed(spec.entropy, agents[0], PROCESS_STREAM, restart))
        super().__init__(spec, agents, restart)

    def set_policy(self, policy: ExportedPolicy) -> None:
        """Sets the policy. What a framework draws while it makes the model is not the environments' doing."""
        drawn = self._generators.drawn
        super().set_policy(policy)
        if not drawn:
            self._generators.forget()

    def collect(self, order: Order, weights: Weights | None = None, policy: ExportedPolicy | None = None) -> Chunk:
        """Collects as `Runner.collect` does, and raises its errors without their causes.

        Ray sends the text of every cause. That of an environment's error may be of any length, and invalid text would
        end the process. The chunk says whether environments draw from the generators of this process.
        """
        try:
            chunk = super().collect(order, weights, policy)
        except ReallyError as error:
            raise error from None
        return replace(chunk, process_draws=self._generators.drawn)

    def info(self) -> dict[str, Any]:
        """Describes the runner, with the first digits of its node's id."""
        import ray

        return {**super().info(), "node": ray.get_runtime_context().get_node_id()[:8]}


class RayFleet(Fleet):
    """Runners in Ray actors, on the CPUs that are free when the manager starts."""

    end_patience = 30.0

    def __init__(self, spec: RunnerSpec, num_parallel: int, num_workers: int | None) -> None:
        import ray

        self._ray = ray
        self._session = runtime.start()
        self._warned_of_draws = False
        wanted = num_workers or max(1, min(num_parallel, cpus.cluster_cpus()))
        workers, self._cpus = cpus.claim(self, self._session, min(wanted, num_parallel))
        limit = _chunk_limit(workers)
        self.message_bytes = min(limit, MESSAGE_BYTES)
        self._actor = ray.remote(concurrency_groups={PROBE_GROUP: 1})(RayRunner)
        # A result that is larger than a message still comes in one piece if the object store has room for it.
        spec = replace(spec, message_bytes=limit, runners=workers)
        self._packed_spec = self._packed(spec)
        super().__init__(spec, num_parallel, workers)

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

    @property
    def alive(self) -> bool:
        """Whether the runners hold their CPUs."""
        # A fleet whose constructor raised has no finalizer.
        finalizer = getattr(self, "_finalizer", None)
        return finalizer is not None and finalizer.alive

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

    def _start(self, agents: Sequence[int], restart: int) -> Any:
        # A restarted runner must not wait for a CPU that went with its node, or that Ray still counts as taken.
        options = {"num_cpus": 0 if restart else self._cpus, "scheduling_strategy": "SPREAD", "max_restarts": 0}
        return self._actor.options(**options).remote(self._packed_spec, sys.path, agents, restart)

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

    def _call(self, runner: Any, order: Order, weights: Any, policy: Any) -> Any:
        return runner.collect.remote(order, weights, policy)

    def _call_rest(self, runner: Any, number: int, start: int) -> Any:
        # In the probe group, or the call would wait for the order that is queued already.
        return runner.rest.options(concurrency_group=PROBE_GROUP).remote(number, start)

    def _where(self, runner: Any) -> str:
        call = runner.where.options(concurrency_group=PROBE_GROUP).remote()
        try:
            return str(self._ray.get(call, timeout=PROBE_TIMEOUT))
        except self._ray.exceptions.RayError:
            return "an unknown place: it does not release the interpreter lock, or has not started"

    def _wait(self, handles: list[Any], timeout: float | None) -> list[Any]:
        with runtime.shutdown_as_error(self._session):
            ready, _ = self._ray.wait(handles, num_returns=1, timeout=timeout)
            if ready:
                ready, _ = self._ray.wait(handles, num_returns=len(handles), timeout=0)
        return list(ready)

    def _get(self, handle: Any) -> Any:
        exceptions = self._ray.exceptions
        try:
            with runtime.shutdown_as_error(self._session):
                return self._ray.get(handle)
        except exceptions.RayTaskError as error:
            if isinstance(error.cause, ReallyError):
                raise error.cause from error
            raise RunnerError(f"a runner failed:\n{error}") from error
        except (exceptions.RayActorError, exceptions.ObjectLostError) as error:
            raise RunnerLost(str(error), getattr(error, "actor_init_failed", False)) from error

    def _info(self, runner: Any) -> Any:
        if not self._session.is_current:
            raise RunnerLost("ray.shutdown() was called")
        return self._get(runner.info.remote())

    def _stop(self, runner: Any) -> None:
        self._ray.kill(runner)

    def _releaser(self) -> Callable[[list[Worker]], None]:
        return functools.partial(_kill_all, self._session)


def _kill_all(session: runtime.Session, workers: list[Worker]) -> None:
    """Ends the runners of a RayFleet; they have ended already if the session is over."""
    import ray

    if session.is_current:
        for worker in workers:
            ray.kill(worker.runner)
        cpus.note_release()


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
