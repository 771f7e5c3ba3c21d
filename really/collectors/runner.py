"""The runner: steps the environments of its agents with a policy, and returns their transitions as record batches.

The class knows nothing of Ray. `ray_fleet.py` runs it in an actor, `fleet.py` in the driver's process.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really._utils._step import Stepper
from really._utils.array_pool import ArrayPool
from really.collectors.delivery import Delivery
from really.collectors.episode_watch import EpisodeWatch
from really.collectors.episodes import EpisodeMeter, Records
from really.collectors.messages import Chunk, ExportedPolicy, Order, RunnerSpec, Weights, results_of
from really.collectors.noise import ActionNoise
from really.collectors.recurrence import Advance, Recurrence
from really.collectors.rollout import Rollout
from really.collectors.seeds import ACTION_STREAM, ENVIRONMENT_STREAM, agent_seed
from really.data.frames import plan
from really.data.normalisation import Normaliser
from really.data.record_batches import to_record_batch
from really.data.schema import ColumnSpec, Spec, spec_of_columns
from really.data.transitions import Columns, schema
from really.envs.environment import failure
from really.envs.make import make_batch
from really.errors import EnvironmentFailedError, ModelError, RunnerError
from really.policies import inference
from really.policies.policy import Outputs, check_finite, make_policy
from really.policies.recurrent import RECURRENT_STATE, RecurrentLayout

# Length of a rollout of whole episodes at first; it grows as needed.
FIRST_STEPS = 256


class Runner:
    """Steps the environments of its agents together and collects their results.

    Attributes:
        warns: whether it logs warnings; those of a runner in another process might not be seen.
    """

    warns = True

    def __init__(self, spec: RunnerSpec, agents: Sequence[int], restart: int = 0) -> None:
        self._spec = spec
        self._agents = tuple(agents)
        seeds = [agent_seed(spec.entropy, agent, ENVIRONMENT_STREAM, restart) for agent in agents]
        self._envs = make_batch(spec.environment, seeds, vector=spec.vector)
        self._rngs = [
            np.random.default_rng(agent_seed(spec.entropy, agent, ACTION_STREAM, restart)) for agent in agents
        ]
        self._pool = ArrayPool()
        normalisation, size = spec.normalisation, len(self._agents)
        self._normaliser = (
            Normaliser(normalisation, self._envs.leaves, size, spec.gamma) if normalisation.changes_anything else None
        )
        self._version, self._started, self._thread = -1, False, 0
        # Rows of chunks that are too large for one message, by the number of the order.
        self._rest: dict[int, Columns] = {}
        self._episodes = EpisodeMeter(self._agents)
        limit = spec.environment.probe().max_episode_steps
        self._watch = EpisodeWatch(self._envs.name, size, spec.total_steps, spec.runners, self.warns, limit)
        self._stepper: Stepper | None = None
        self._recurrence: Recurrence | None = None

    def info(self) -> dict[str, Any]:
        """Describes the runner: its agents, its kind of environment batch, its process."""
        return {
            "agents": self._agents,
            "environments": self._envs.kind,
            "pid": os.getpid(),
            "tensorflow": "tensorflow" in sys.modules,
        }

    def where(self) -> str:
        """Where the runner is at the moment: environment, step of the rollout, stack. Another thread calls it."""
        frame = sys._current_frames().get(self._thread)
        stack = "".join(traceback.format_stack(frame)) if frame else "(no stack)"
        return f"{self._place}, at\n{stack}"

    def failure(self, error: BaseException) -> EnvironmentFailedError:
        """The EnvironmentFailedError for an error that ended a rollout and that no batch of environments reports."""
        return failure(self._place, error)

    @property
    def _place(self) -> str:
        return f"environment {self._envs.name!r}, step {self._stepper.step if self._stepper else 0} of the rollout"

    def set_policy(self, policy: ExportedPolicy) -> None:
        """Sets the policy: before the first order, and when the model has changed. Weights must follow."""
        self._version = -1
        self._value_output = policy.value_output
        self._policy = make_policy(
            policy.sampling_type, self._envs.action_space, has_masks=self._envs.masks is not None
        )
        self._model = inference.load(policy.exported, batch_size=len(self._agents))
        self._noise = ActionNoise(self._policy, self._rngs)
        self._set_recurrence(policy.exported.recurrent)
        self._columns = self._working_columns()
        self._stepper = self._new_stepper()
        advance: Advance = self._stepper.advance
        self._advance = advance if self._recurrence is None else self._recurrence.stepping(advance)
        self._delivery = Delivery(
            self._envs.name,
            self._schema(self._spec.returns),
            self._spec.gamma,
            self._spec.gae_lambda,
            self._values_after if policy.value_output else None,
            self._normaliser,
        )

    def collect(self, order: Order, weights: Weights | None = None, policy: ExportedPolicy | None = None) -> Chunk:
        """Collects the results of an order. Weights and policy are given if they changed since the last order."""
        self._rest = {number: columns for number, columns in self._rest.items() if number >= order.oldest}
        with self._new_episodes_after_errors():
            if policy is not None:
                self.set_policy(policy)
            if weights is not None:
                self._set_weights(weights, order.version)
            self._apply(order)
            self._begin()
            return self._collect(order)

    def prepare(self, weights: Weights, version: int) -> None:
        """Does what takes long before the first step, after `set_policy`: compiles the model, resets environments."""
        with self._new_episodes_after_errors():
            self._set_weights(weights, version)
            self._model.compile()
            self._begin()

    @contextlib.contextmanager
    def _new_episodes_after_errors(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            # An interrupt comes at any place: some environments were stepped and others not, or their rows are lost.
            self._started, self._pool = False, ArrayPool()
            raise

    def _collect(self, order: Order) -> Chunk:
        start, quota = time.perf_counter(), np.asarray(order.results)
        if self._recurrence is not None:
            self._recurrence.begin_rollout()
        try:
            rollout = self._roll_steps(quota) if self._spec.num_steps else self._roll_episodes(quota)
        finally:
            self._noise.settle()
        envs, rows = rollout.result_rows
        results = results_of(np.asarray(self._agents)[envs], rows, self._version)
        episodes = self._episodes.measure(rollout)
        columns = self._delivery.rows(rollout, results)
        chunk = self._chunk(columns, order.number, 0, results, time.perf_counter() - start)
        measured = {} if self._normaliser is None else self._normaliser.measured
        return replace(chunk, measured=measured, episodes=episodes)

    def rest(self, number: int, start: int) -> Chunk:
        """The rows from `start` on of the chunk of order `number`, or those of them that fit into one message."""
        return self._chunk(self._rest[number], number, start, results_of((), (), self._version), 0.0)

    def _chunk(self, columns: Columns, number: int, start: int, results: Records, seconds: float) -> Chunk:
        """The rows from `start` on that fit into a message. All rows are kept for `rest` if they do not.

        They are kept until the driver has them all, since it may ask for the same rows again after an interrupt.
        """
        rows = len(columns["reward"])
        row_bytes = sum(column.nbytes for column in columns.values()) / rows
        stop = min(rows, start + max(1, int(min(rows, self._spec.message_bytes // row_bytes))))
        if stop < rows:
            self._rest[number] = columns
        batch = _message({name: column[start:stop] for name, column in columns.items()})
        return Chunk(batch, results, seconds, more=stop < rows)

    def close(self) -> None:
        """Closes the environments."""
        self._envs.close()

    def _set_weights(self, weights: Weights, version: int) -> None:
        self._version = -1
        assert self._stepper is not None
        self._model.set_weights(weights.arrays)
        self._forward: Callable[..., Mapping[str, NDArray[Any]]] = self._model
        if self._recurrence is not None:
            self._forward = self._recurrence.before(self._model)
        if self._normaliser is not None:
            self._forward = self._normaliser.freeze(weights.statistics).before(self._forward)
        self._stepper.forward = self._forward
        self._version = version

    def _apply(self, order: Order) -> None:
        if self._version != order.version:
            # The order before, which had the weights, failed before it set them.
            raise RunnerError(f"weights: expected policy version {order.version}, got {self._version}; call again")
        self._policy.epsilon = order.settings.epsilon
        self._policy.temperature = order.settings.temperature

    def _begin(self) -> None:
        """Resets the environments unless their episodes go on."""
        self._thread = threading.get_ident()
        if not self._started:
            self._envs.reset()
            self._started = True
            self._episodes.begin()
            if self._recurrence is not None:
                self._recurrence.reset()
            if self._normaliser is not None:
                self._normaliser.begin_episodes()

    def _roll_steps(self, quota: NDArray[np.int_]) -> Rollout:
        assert self._spec.num_steps is not None
        lengths, advance = quota * self._spec.num_steps, self._advance
        rollout = Rollout(self._columns, len(self._agents), int(lengths.max()), self._pool)
        start = 0
        for end in np.unique(lengths).tolist():
            active = np.flatnonzero(lengths >= end)
            for step, stop in self._noise.pieces(start, end):
                if self._noise.starts_piece(step):
                    self._draw(step, active, lengths - step)
                advance(rollout, step, stop, active)
            start = end
        for env, results in enumerate(quota):
            for result in range(results):
                rollout.close_result(env, (result + 1) * self._spec.num_steps)
        return rollout

    def _roll_episodes(self, quota: NDArray[np.int_]) -> Rollout:
        assert self._spec.num_episodes is not None
        missing, advance = quota * self._spec.num_episodes, self._advance
        rollout = Rollout(self._columns, len(self._agents), FIRST_STEPS, self._pool)
        active, step, look_at = np.flatnonzero(missing), 0, self._watch.begin()
        unbounded = np.full(len(quota), np.iinfo(np.int_).max)
        while active.size:
            if step == rollout.time:
                self._watch.check_memory(step, active, rollout.nbytes)
                rollout.grow()
            if step == look_at:
                look_at = self._watch.look(step, active)
            if self._noise.starts_piece(step):
                self._draw(step, active, unbounded)
            advance(rollout, step, step + 1, active)
            step += 1
            ended = active[(self._envs.terminated | self._envs.truncated)[active]]
            if ended.size:
                self._watch.end(ended, step)
                missing[ended] -= 1
                for env in ended[missing[ended] % self._spec.num_episodes == 0]:
                    rollout.close_result(env, step)
                active = np.flatnonzero(missing)
        if not self._envs.can_idle and rollout.lengths.min() < rollout.lengths.max():
            # Environments that were stepped on for the others are in the middle of an episode by now.
            self._started = False
        return rollout

    def _set_recurrence(self, layout: RecurrentLayout | None) -> None:
        """Agents go on with their recurrent states if the new model has such states; otherwise episodes begin."""
        old = self._recurrence
        if layout is None or (old is not None and old.layout.is_like(layout)):
            self._recurrence = None if layout is None else old
            return
        returns = set(self._spec.returns)
        self._recurrence = Recurrence(
            layout,
            self._envs,
            is_delivered=RECURRENT_STATE in returns,
            keeps_cuts=bool(self._value_output and returns & {"monte_carlo", "advantage"}),
            num_steps=self._spec.num_steps,
            every=self._spec.recurrent_state_every,
        )
        self._started = False

    def _new_stepper(self) -> Stepper:
        has_estimates = not self._columns.keys().isdisjoint({"log_prob", "value_estimate"})
        return Stepper(
            self._envs,
            self._policy.required_outputs,
            self._check_outputs,
            self._policy.to_environment,
            None if self._envs.masks is None else self._masked,
            self._estimate if has_estimates else None,
            self._recurrence is not None,
        )

    def _check_outputs(self, outputs: Outputs) -> None:
        """Raises an error if an output is not finite: that of the environment, if an observation explains it."""
        try:
            check_finite(outputs, self._policy.required_outputs)
        except ModelError:
            self._envs.check_observations(self._agents)
            raise

    def _masked(self, rollout: Rollout, step: int, active: NDArray[np.intp], outputs: Outputs) -> Outputs:
        """The outputs under the action masks of this step, which the rollout takes over."""
        masks = self._envs.checked_masks(active, self._agents, step)
        if rollout.masks:
            rollout.masks[0][step] = masks
        return self._policy.masked(outputs, masks)

    def _estimate(self, rollout: Rollout, step: int, outputs: Outputs, actions: NDArray[Any]) -> None:
        if "log_prob" in rollout.estimates:
            rollout.estimates["log_prob"][step] = self._policy.log_prob(outputs, actions)
        if "value_estimate" in rollout.estimates:
            rollout.estimates["value_estimate"][step] = self._values(outputs)

    def _draw(self, step: int, active: NDArray[np.intp], remaining: NDArray[np.int_]) -> None:
        """Draws random numbers for the next steps of the active agents, who have `remaining` steps `[agent]` left."""
        assert self._stepper is not None
        self._stepper.sample, self._stepper.drawn_at = self._noise.sampler(step, active, remaining), step

    def _working_columns(self) -> Spec:
        """The columns that are written at each step. `Delivery` computes the other delivered columns from them."""
        flag = ColumnSpec(np.dtype(np.bool_))
        returns = set(self._spec.returns)
        estimates = [RECURRENT_STATE] if RECURRENT_STATE in returns else []
        if "log_prob" in returns:
            estimates.append("log_prob")
        if self._value_output and returns & {"value_estimate", "monte_carlo", "advantage"}:
            estimates.append("value_estimate")
        columns = self._schema(estimates)
        written = {name: columns[name] for name in columns if name not in {"not_done", "terminal"}}
        return written | {"terminated": flag, "truncated": flag}

    def _schema(self, returns: Sequence[str]) -> Spec:
        envs, policy, recurrence = self._envs, self._policy, self._recurrence
        action, state = (policy.action_shape, policy.action_dtype), recurrence.layout.columns if recurrence else {}
        every = self._spec.recurrent_state_every
        return schema(envs.leaves, *action, returns, envs.masks, envs.reward_shape, state, every)

    def _values_after(self, flat: Columns, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """Values of the given rows' next states, computed in batches of the runner's size."""
        size, values = self._envs.num_envs, np.empty(len(rows), np.float32)
        for start in range(0, len(rows), size):
            count = min(size, len(rows) - start)
            which = np.resize(np.arange(start, start + count), size)
            leaves = [flat["state_new" + name][rows[which]] for name in self._envs.leaves]
            with contextlib.nullcontext() if self._recurrence is None else self._recurrence.after_cuts(which):
                outputs = self._forward(leaves)
            values[start : start + count] = self._values(outputs)[:count]
        return values

    def _values(self, outputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """The model's state values `[env]`."""
        assert self._value_output is not None
        return outputs[self._value_output].reshape(-1)


def _message(columns: Columns) -> Any:
    """An Arrow record batch of these rows; frames that rows share are in it once.

    The encoder of frames is imported only if rows share some: a runner without frames starts sooner.
    """
    if plan(spec_of_columns(columns)):
        from really.replay.frame_encoding import encode

        columns = encode(columns)
    return to_record_batch(columns)
