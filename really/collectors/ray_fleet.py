"""Runners in Ray actors, one process each, anywhere in the cluster."""

from __future__ import annotations

import atexit
import functools
import logging
import math
import pickle
import sys
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from really._ray import nodes, reservations, runtime
from really._utils.packages import needed
from really.collectors.fleet import MESSAGE_BYTES, Fleet
from really.collectors.messages import Chunk, Order, RunnerSpec
from really.collectors.orders import QUEUED_ORDERS, PendingOrder, RunnerLost, Worker
from really.collectors.ray_runner import RayRunner
from really.collectors.side_channel import ask
from really.envs.registrations import Registrations
from really.errors import InvalidTypeError, InvalidValueError, ReallyError, RunnerError

log = logging.getLogger("really")

# How runners end: in each round the seconds to wait, and what those may do that get another round. After the first
# round, orders are interrupted.
CLOSING_ROUNDS = ((2.0, ("collecting", "waiting", "closing")), (3.0, ("closing",)), (25.0, ()))


@dataclass(frozen=True)
class RunnerProcess:
    """A runner's actor, and the address of the side channel of its process."""

    actor: Any
    address: str


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
        self._actor = ray.remote(RayRunner)
        self._options = {"max_restarts": 0, "runtime_env": _checked_runtime_env(runtime_env)}
        wanted = num_workers or max(1, min(num_parallel, reservations.cluster_cpus()))
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
        options = {**self._options, **self._reservation.options(number, restart=restart > 0)}
        address = uuid.uuid4().hex
        actor = self._actor.options(**options).remote(self._packed_spec, sys.path, address, agents, restart)
        return RunnerProcess(actor, address)

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
        return runner.actor.collect.remote(order, weights, policy)

    def _call_rest(self, runner: RunnerProcess, number: int, start: int) -> Any:
        return runner.actor.rest.remote(number, start)

    def _where(self, runner: RunnerProcess) -> str:
        unknown = "an unknown place: it does not release the interpreter lock, or has not started"
        return _ask(runner, "where") or unknown

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
        except exceptions.RuntimeEnvSetupError as error:
            raise RunnerLost(str(error), hopeless=True) from error
        except (exceptions.RayActorError, exceptions.ObjectLostError) as error:
            raise RunnerLost(str(error), getattr(error, "actor_init_failed", False)) from error

    def _info(self, runner: RunnerProcess) -> Any:
        if not self._session.is_current:
            raise RunnerLost("ray.shutdown() was called")
        return self._get(runner.actor.info.remote())

    def _stop(self, runner: RunnerProcess) -> None:
        self._ray.kill(runner.actor)

    def _make_room(self) -> None:
        # What a runner holds besides a CPU may be all that there is. If a new one fails then, the next call replaces it
        if set(self._reservation.needs) - {"CPU"}:
            _end_runners(self.workers)

    def _end_all(self, workers: list[Worker]) -> None:
        _end_runners(workers)

    def _releaser(self) -> Callable[[list[Worker]], None]:
        return functools.partial(_release, self._reservation)


def _ask(runner: RunnerProcess, request: str) -> str | None:
    """The answer of a runner's process on any node, even while it works. Returns None if there is no answer."""
    answer: str | None = ask(runner.address, request) or nodes.first_answer(ask, runner.address, request)
    return answer


def _release(reservation: reservations.Reservation, workers: list[Worker]) -> None:
    """Ends all runners, unless they ended with their session, and gives their resources back."""
    try:
        if reservation.session.is_current:
            _end_runners(workers)
    finally:
        reservation.release()


def _end_runners(workers: list[Worker]) -> None:
    """Closes the environments of all runners and ends their processes."""
    import ray

    try:
        _close_environments(workers)
    finally:
        for worker in workers:
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
                ray.cancel(pending.handle)
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
