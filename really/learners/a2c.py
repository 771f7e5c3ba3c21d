"""A2CLearner: learns a policy and a value on-policy, with one step along the plain policy gradient for all rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import tensorflow as tf

from really._utils.checks import checked_number
from really._utils.names import OF_POLICY_LEARNERS, tells_names
from really._utils.reprs import described
from really.data.masks import KEY
from really.learners import inputs, sources

if TYPE_CHECKING:
    from really.agents.agent import Agent
    from really.manager.sample_manager import SampleManager


class A2CUpdate(NamedTuple):
    """Losses before the weights were changed, float32 `[]`; `entropy` is the mean over states."""

    policy_loss: np.float32
    value_loss: np.float32
    entropy: np.float32


@tells_names(OF_POLICY_LEARNERS)
class A2CLearner:
    """Advantage actor-critic: the synchronous form of Mnih et al. 2016, algorithm S3.

    With advantages A and returns R, an update is one gradient step that reduces

        -mean log pi(a|s) A + value_coefficient * mean (V(s) - R)^2 - entropy_coefficient * mean H(pi(.|s))

    This is also the first step of a `PPOLearner` whose minibatch is all rows (Huang et al. 2022, "A2C is a special case
    of PPO"). So collect few rows at a time, and often.

    Args:
        source: the manager whose agent is trained, or an `Agent`. Its sampling type is `discrete_policy` or
            `continuous_normal_diagonal`, and its model has a value output.
        optimizer: a Keras optimizer that trains nothing else.
        advantages: `gae` reads A from column `advantage` and takes R = A + V_acted(s), the lambda-return, so gamma and
            lambda are the manager's. `monte_carlo` reads R from that column and takes A = R - V_acted(s).
        value_coefficient: weight of the value loss.
        entropy_coefficient: weight of the entropy bonus.
        max_gradient_norm: a gradient with a larger global norm is scaled down to it; None never scales.
        jit_compile: False turns off XLA, which compiles again for each number of rows.

    Raises:
        ModelError: the model has no policy of these types, or no value output.
        InvalidValueError, InvalidTypeError: an argument is invalid, or the manager does not deliver a column.
    """

    def __init__(
        self,
        source: SampleManager | Agent,
        optimizer: Any,
        *,
        advantages: str = "gae",
        value_coefficient: float = 0.5,
        entropy_coefficient: float = 0.0,
        max_gradient_norm: float | None = 0.5,
        jit_compile: bool = True,
    ) -> None:
        self.agent = sources.with_policy_and_value("A2CLearner", sources.agent_of("A2CLearner", source))
        self._estimates = inputs.estimates_of(advantages)
        sources.check_returns("A2CLearner", source, self._estimates)
        self._value_coefficient = checked_number("value_coefficient", value_coefficient, 0, 1e6)
        self._entropy_coefficient = checked_number("entropy_coefficient", entropy_coefficient, 0, 1e6)
        self._max_norm = inputs.checked_norm(max_gradient_norm)
        self.optimizer = sources.build_optimizer("A2CLearner", optimizer, self.agent.trainable_variables)
        self._compiled = tf.function(self._update, jit_compile=jit_compile or None)

    def __repr__(self) -> str:
        return described(self, "agent")

    def update(self, data: Mapping[str, Any]) -> A2CUpdate:
        """Learns from rows that the agent collected with its current weights; do not use them again afterwards.

        Args:
            data: columns `[row, ...]` `state`, `action`, `value_estimate`, and `advantage` or `monte_carlo`, as
                `get_data()` gives them with `returns=["value_estimate", "advantage"]`; `action_mask` if masks come
                with `info`.

        Raises:
            InvalidValueError, InvalidTypeError: a column is missing or invalid; the weights have not changed then.
        """
        columns = inputs.policy_columns("A2CLearner", data, self.agent, self._estimates)
        return A2CUpdate(*self._compiled(columns | inputs.advantages_and_returns(columns)).numpy())

    def _update(self, batch: dict[str, Any]) -> Any:
        variables = self.agent.trainable_variables
        with tf.GradientTape() as tape:
            state = inputs.state_of(self.agent, batch, "state")
            mask = batch.get(KEY)
            log_prob, entropies = self.agent.flowing_log_prob(state, batch["action"], True, action_mask=mask)
            policy_loss = -tf.reduce_mean(log_prob * batch["advantage"])
            value_loss = tf.reduce_mean(tf.square(self.agent.v(state) - batch["return"]))
            entropy = tf.reduce_mean(entropies)
            loss = policy_loss + self._value_coefficient * value_loss - self._entropy_coefficient * entropy
        inputs.apply_gradients(self.optimizer, tape, loss, variables, self._max_norm)
        return tf.stack([policy_loss, value_loss, entropy])
