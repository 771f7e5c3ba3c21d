"""RayRunner: a runner with a process of its own, in whose main thread its environments are made, stepped and closed.

The class is that of the actors of `ray_fleet.py`, but does not need Ray itself.
"""

from __future__ import annotations

import _thread
import os
import pickle
import sys
import threading
import traceback
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from really._ray.nodes import own_node
from really._ray.remote_rows import RemoteRows
from really._utils.interrupts import is_exit_of_ray
from really._utils.memory_limits import own_bytes
from really.collectors.messages import Chunk, ExportedPolicy, Order, Weights
from really.collectors.runner import Runner
from really.collectors.seeds import PROCESS_STREAM, ProcessGenerators, agent_seed
from really.collectors.side_channel import SideChannel
from really.data.record_batches import to_record_batch
from really.envs.environment import failure
from really.errors import ReallyError, RunnerError


class _QuietRunner(Runner):
    """A runner that leaves warnings to the driver."""

    warns = False


class RayRunner:
    """A runner that knows the driver's modules and ids of environments, and answers on a side channel while it works.

    Args:
        packed_spec: registrations and specification, pickled.
        paths: the driver's module path.
        address: that of the side channel.
        agents: numbers of the runner's agents.
        restart: how often this runner was restarted.
        variables: environment variables of this process, as Keras reads them when it is imported.
    """

    def __init__(
        self,
        packed_spec: bytes,
        paths: Sequence[str],
        address: str,
        agents: Sequence[int],
        restart: int,
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        os.environ.update(variables)
        # The side channel's thread reads it, and holds the lock while it interrupts the main thread.
        self._phase, self._phase_lock = "starting", threading.Lock()
        self._is_interrupted = False
        self._channel = SideChannel(address, {"where": self._where, "interrupt": self._interrupt})
        # The user's classes may be in modules that only the driver's path leads to.
        sys.path.extend(path for path in paths if path not in sys.path)
        registrations, spec = pickle.loads(packed_spec)
        registrations.apply()
        # Before the environments are made, since their constructors may draw too.
        self._generators = ProcessGenerators(agent_seed(spec.entropy, agents[0], PROCESS_STREAM, restart))
        # What a preparation raised, until the order that follows raises it.
        self._failure: BaseException | None = None
        # No base class, since Ray wraps each method of an actor's class, and steps would take longer.
        try:
            self._runner = _QuietRunner(spec, agents, restart)
        except ReallyError as error:
            raise error from None  # Ray sends the text of every cause
        except KeyboardInterrupt as error:  # nobody interrupts a process that starts
            raise failure(f"environment {spec.environment.name!r} could not be made", error) from None
        self._enter("waiting")

    def info(self) -> dict[str, Any]:
        """Describes the runner, with the first digits of its node's id, and the bytes that its process holds."""
        return {**self._runner.info(), "node": own_node()[:8], "memory": own_bytes()}

    def prepare(self, policy: ExportedPolicy, weights: Weights, version: int) -> None:
        """Takes a policy and its weights, and does all that precedes the first step. It raises nothing.

        The order that follows raises the error.
        """
        self._enter("preparing")
        try:
            self._set_policy(policy)
            self._runner.prepare(weights, version)
            to_record_batch({"reward": np.zeros(1, np.float32)})  # pyarrow imports pandas for its first array
        except BaseException as error:
            if is_exit_of_ray(error):
                raise
            self._failure = error
        finally:
            self._enter("waiting")

    def collect(self, order: Order, weights: Weights | None = None) -> Chunk:
        """Collects as `Runner.collect` does; the chunk says whether environments draw from generators of the process.

        Errors come without their causes. Ray sends the text of every cause. That of an environment's error may be of
        any length, and invalid text would end the process. Nobody but the manager interrupts this process, and nobody
        but Ray ends it, so an interrupt or an exit of another origin is an environment's error, too.
        """
        try:
            chunk = self._carry_out(order, weights)
        except ReallyError as error:
            raise error from None
        except Exception:
            raise
        except BaseException as error:
            if is_exit_of_ray(error):
                raise
            if self._is_interrupted:
                raise RunnerError("a runner: expected it to carry out its order, but it was interrupted") from None
            raise self._runner.failure(error) from None
        return replace(chunk, process_draws=self._generators.drawn, memory=own_bytes())

    def collect_apart(self, order: Order, weights: Weights | None = None) -> tuple[Chunk, Any]:
        """`collect` whose rows are a result of their own, so that they stay on this node until someone needs them."""
        chunk = self.collect(order, weights)
        return replace(chunk, batch=RemoteRows(chunk.batch.num_rows, own_node())), chunk.batch

    def rest(self, number: int, start: int) -> Chunk:
        """More rows of the chunk of an order, as `Runner.rest` returns them."""
        return self._runner.rest(number, start)

    def close(self) -> list[str]:
        """Closes the environments; returns the texts of warnings, which nobody sees in this process."""
        self._enter("closing")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self._runner.close()
        return [str(warning.message) for warning in caught]

    def _carry_out(self, order: Order, weights: Weights | None) -> Chunk:
        self._enter("collecting")
        try:
            if (failed := self._failure) is not None:
                self._failure = None
                raise failed
            return self._runner.collect(order, weights)
        finally:
            self._enter("waiting")

    def _set_policy(self, policy: ExportedPolicy) -> None:
        """Sets the policy. What a framework draws while it makes the model is not the environments' doing."""
        drawn = self._generators.drawn
        self._runner.set_policy(policy)
        if not drawn:
            self._generators.forget()

    def _enter(self, phase: str) -> None:
        with self._phase_lock:
            self._phase = phase

    def _where(self) -> str:
        """Where the runner is at the moment: environment, step of the rollout, stack."""
        if self._phase == "collecting":
            return self._runner.where()
        frame = sys._current_frames().get(threading.main_thread().ident or 0)
        stack = "".join(traceback.format_stack(frame)) if frame else "(no stack)"
        return f"no step of an environment ({self._phase}), at\n{stack}"

    def _interrupt(self) -> str:
        """Raises KeyboardInterrupt in the main thread if it has an order; returns what it did at that moment."""
        with self._phase_lock:
            if self._phase in {"preparing", "collecting"}:
                self._is_interrupted = True
                _thread.interrupt_main()
            return self._phase
