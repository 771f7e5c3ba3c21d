"""DQNLearner: learns q-values off-policy, many updates in one compiled call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from really._utils.checks import checked_integer, checked_number
from really._utils.names import OF_LEARNERS, tells_names
from really._utils.reprs import described
from really.data.masks import KEY_NEW
from really.data.schema import Spec
from really.errors import InvalidValueError
from really.learners import inputs, sources

if TYPE_CHECKING:
    from really.agents.agent import Agent
    from really.manager.sample_manager import SampleManager


class DQNUpdate(NamedTuple):
    """Results of an update, from before it changed the weights; `[update, ...]` for several updates.

    `loss`: float32 `[]`. `td_error`: float32 `[row]`, target minus q-value; its absolute value is the priority of
    prioritized replay. `q_value`: float32 `[row]`, of the actions taken.
    """

    loss: NDArray[np.float32]
    td_error: NDArray[np.float32]
    q_value: NDArray[np.float32]


@tells_names(OF_LEARNERS)
class DQNLearner:
    """Deep Q-learning (Mnih et al. 2015, algorithm 1) on batches of transitions; trains the agent's own model.

    The target of a row is `reward + discount * Q'(state_new, a*)`, where Q' is the target network and `discount` is
    `gamma * (1 - terminal)`. A time limit is no termination, so a truncated episode keeps the value of its last state.
    a* maximises the model's own q-values (double DQN, van Hasselt et al. 2016, equation 4) or those of the target
    network; if the environment masks actions, it is one that `state_new` allows. For a dueling network (Wang et al.
    2016) the model returns V + A - mean A as `q_values`.

    Args:
        source: the manager whose agent is trained, or an `Agent`. Its model has an output `q_values`.
        optimizer: a Keras optimizer that trains nothing else; clip gradients with its `global_clipnorm`.
        gamma: discount factor; by default the manager's, from which it may not differ.
        target_every: number of updates after which the model is copied to the target network (Mnih et al. 2015).
        target_rate: fraction by which the target network approaches the model after each update (Lillicrap et al.
            2016). Give exactly one of the two.
        double: False chooses a* by the target network.
        n_step: number of steps over which a batch sums rewards. For n_step > 1 batches have the sum as `reward` and a
            column `discount`, gamma^k * (1 - terminal) after k <= n_step steps (Sutton and Barto 2018, equation 7.1).
            The manager's buffer must have the same `n_step`, also if it is made later.
        huber_delta: the loss is quadratic in TD errors up to this size and linear beyond (Huber 1964); None is always
            quadratic.
        jit_compile: whether XLA compiles the updates, again for each shape of a batch. By default it does if the model
            has no convolutions: on a CPU, XLA halves the time of small networks, but takes 12 times as long for
            convolutions. Of a model with convolutions it compiles the step of the optimizer by default. False compiles
            nothing.

    Raises:
        ModelError: the model has no output with one q-value for each action.
        InvalidValueError, InvalidTypeError: an argument is invalid.
    """

    def __init__(
        self,
        source: SampleManager | Agent,
        optimizer: Any,
        *,
        gamma: float | None = None,
        target_every: int | None = None,
        target_rate: float | None = None,
        double: bool = True,
        n_step: int = 1,
        huber_delta: float | None = 1.0,
        jit_compile: bool | None = None,
    ) -> None:
        if (target_every is None) == (target_rate is None):
            raise InvalidValueError(
                f"DQNLearner: expected one of target_every and target_rate, got {target_every!r} and {target_rate!r}"
            )
        self.agent = sources.with_q_values("DQNLearner", sources.agent_of("DQNLearner", source))
        self._start = int(getattr(self.agent.action_space, "start", 0))
        self.gamma = sources.gamma_of("DQNLearner", source, gamma)
        self.n_step = checked_integer("n_step", n_step)
        self._buffer = sources.buffer_of(source)
        sources.check_keys("DQNLearner", self._buffer(), list(self._needed("terminal")))
        self._check_steps()
        self._every = None if target_every is None else checked_integer("target_every", target_every)
        self._rate = None if target_rate is None else checked_number("target_rate", target_rate, 1e-6, 1)
        self._delta = None if huber_delta is None else checked_number("huber_delta", huber_delta, 1e-6, np.inf)
        self._double = double
        self.target = self.agent.copy()
        self.optimizer = sources.build_optimizer("DQNLearner", optimizer, self.agent.trainable_variables)
        self.jit_compile, self._compiles_step = inputs.xla_parts(jit_compile, self.agent.model)
        self._compiled = tf.function(self._updates, jit_compile=self.jit_compile or None)

    def __repr__(self) -> str:
        return described(self, "agent", "gamma", "n_step")

    @property
    def updates_done(self) -> int:
        """Number of optimizer steps; a loaded checkpoint of the optimizer restores it."""
        return int(np.asarray(self.optimizer.iterations))

    def update(self, batch: Mapping[str, Any]) -> DQNUpdate:
        """Does one update for a batch `[row, ...]`, or k updates in order for batches `[k, row, ...]`.

        Args:
            batch: columns `state`, `action`, `reward`, `state_new`, `terminal` (or `discount`, see `n_step`), as
                `buffer.sample((k, n))` gives them; `action_mask_new` if masks come with `info`. A column `weight`,
                which batches of prioritized replay have, is the weight of each row in the loss (Schaul et al. 2016,
                section 3.4).

        Raises:
            InvalidValueError, InvalidTypeError: a column is missing or invalid; the weights have not changed then.
        """
        return DQNUpdate(*inputs.results(self._compiled, self._checked(batch)))

    # ------------------------------------------------------------------------------------------ compiled

    def _updates(self, batches: dict[str, Any]) -> tuple[Any, Any, Any]:
        """Does one update for each `batches[name][at]`, in order; returns stacked losses, TD errors and q-values."""
        count = batches["reward"].shape[0]
        losses, errors, values = (tf.TensorArray(tf.float32, size=count) for _ in range(3))
        for at in tf.range(count):
            loss, error, value = self._update({name: rows[at] for name, rows in batches.items()})
            losses, errors, values = losses.write(at, loss), errors.write(at, error), values.write(at, value)
        return losses.stack(), errors.stack(), values.stack()

    def _update(self, batch: dict[str, Any]) -> tuple[Any, Any, Any]:
        target = batch["reward"] + batch["discount"] * self._next_value(batch)
        variables = self.agent.trainable_variables
        with tf.GradientTape() as tape:
            q = tf.gather(self._q_values(self.agent, batch, "state"), batch["action"], batch_dims=1)
            error = target - q
            loss = tf.reduce_mean(batch["weight"] * self._penalty(error))
        inputs.apply_gradients(self.optimizer, tape, loss, variables, jit_compile=self._compiles_step)
        self._move_target()
        return loss, error, q

    def _next_value(self, batch: dict[str, Any]) -> Any:
        """Q'(state_new, a*), `[row]`."""
        target = self._allowed_q_values(self.target, batch)
        if not self._double:
            return tf.reduce_max(target, axis=-1)
        best = tf.argmax(self._allowed_q_values(self.agent, batch), axis=-1)
        return tf.gather(target, best, batch_dims=1)

    def _q_values(self, agent: Agent, batch: dict[str, Any], key: str) -> Any:
        """Q-values of all actions, `[row, action]`."""
        return agent.outputs(inputs.state_of(agent, batch, key), "q_values")["q_values"]

    def _allowed_q_values(self, agent: Agent, batch: dict[str, Any]) -> Any:
        """Q-values of the next states, `[row, action]`; minus infinity for actions that are not allowed there."""
        return agent.q_values(inputs.state_of(agent, batch, "state_new"), batch.get(KEY_NEW))

    def _penalty(self, error: Any) -> Any:
        """Half the squared error up to delta, and its tangent beyond, `[row]`."""
        squared = 0.5 * tf.square(error)
        if self._delta is None:
            return squared
        size = tf.abs(error)
        return tf.where(size <= self._delta, squared, self._delta * (size - 0.5 * self._delta))

    def _move_target(self) -> None:
        pairs = list(zip(self.target.variables, self.agent.variables, strict=True))
        if self._rate is not None:
            for slow, fast in pairs:
                slow.assign(slow + self._rate * (fast - slow) if tf.as_dtype(fast.dtype).is_floating else fast)
        elif self.optimizer.iterations % self._every == 0:
            for slow, fast in pairs:
                slow.assign(fast)

    # ------------------------------------------------------------------------------------------ checks

    def _checked(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch's columns, with actions that count from 0."""
        self._check_steps()
        columns = inputs.replayed_columns("DQNLearner", batch, self._needed, self.agent, self.gamma, self.n_step)
        return columns | {"action": columns["action"] - self._start}

    def _needed(self, *floats: str) -> Spec:
        states = inputs.state_inputs(self.agent, "state") | inputs.state_inputs(self.agent, "state_new")
        masks = inputs.mask_inputs(self.agent, KEY_NEW)
        numbers = dict.fromkeys(floats, inputs.NUMBER)
        return {"reward": inputs.NUMBER, "action": inputs.INTEGER, **states, **masks, **numbers}

    def _check_steps(self) -> None:
        sources.check_buffer("DQNLearner", self._buffer(), self.gamma, self.n_step)
