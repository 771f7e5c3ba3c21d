"""PPOLearner: learns a policy and a value on-policy, several epochs of minibatches in one compiled call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from really._utils.checks import checked_integer, checked_number
from really._utils.names import OF_POLICY_LEARNERS, tells_names
from really._utils.reprs import described
from really.data.masks import KEY
from really.errors import InvalidValueError
from really.learners import inputs, sources

if TYPE_CHECKING:
    from really.agents.agent import Agent
    from really.manager.sample_manager import SampleManager

TINY = 1e-8


class PPOUpdate(NamedTuple):
    """Losses of each minibatch before it changed the weights, float32 `[minibatch]`.

    `policy_loss`: minus the clipped objective. `value_loss`: mean squared error of the values. `entropy`: mean over
    states. `approx_kl`: divergence from the policy that acted, by Schulman's estimate r - 1 - log r.
    `clip_fraction`: fraction of the rows whose probability ratio is outside of the clip range.
    """

    policy_loss: NDArray[np.float32]
    value_loss: NDArray[np.float32]
    entropy: NDArray[np.float32]
    approx_kl: NDArray[np.float32]
    clip_fraction: NDArray[np.float32]


@tells_names(OF_POLICY_LEARNERS)
class PPOLearner:
    """Proximal policy optimisation (Schulman et al. 2017, algorithm 1) on whole results of `get_data()`.

    With r = pi(a|s) / pi_acted(a|s) and advantages A, each minibatch takes a gradient step that reduces

        -mean min(r A, clip(r, 1 - clip_range, 1 + clip_range) A)            (equation 7)
        + value_coefficient * mean (V(s) - R)^2 - entropy_coefficient * mean H(pi(.|s))   (equation 9)

    The gradient is clipped by its global norm, and advantages are normalised within a minibatch, as in Huang et al.
    2022, "The 37 implementation details of proximal policy optimization", numbers 11 and 7.

    Args:
        source: the manager whose agent is trained, or an `Agent`. Its sampling type is `discrete_policy` or
            `continuous_normal_diagonal`, and its model has a value output.
        optimizer: a Keras optimizer that trains nothing else.
        epochs: number of passes over the rows, each in another order.
        minibatch_size: rows of a gradient step. An epoch leaves out the rows that do not fill its last minibatch.
        advantages: `gae` reads A from column `advantage` and takes R = A + V_acted(s), the lambda-return, so gamma and
            lambda are the manager's. `monte_carlo` reads R from that column and takes A = R - V_acted(s).
        clip_range: distance of the probability ratio from 1 beyond which the objective does not improve.
        value_coefficient: weight of the value loss.
        entropy_coefficient: weight of the entropy bonus.
        max_gradient_norm: a gradient with a larger global norm is scaled down to it; None never scales.
        normalize_advantages: False uses advantages as they are.
        seed: seed of the order of rows.
        jit_compile: False turns off XLA. XLA compiles the step of a minibatch, so calls may have any number of rows.

    Raises:
        ModelError: the model has no policy of these types, or no value output.
        InvalidValueError, InvalidTypeError: an argument is invalid, or the manager does not deliver a column.
    """

    def __init__(
        self,
        source: SampleManager | Agent,
        optimizer: Any,
        *,
        epochs: int = 10,
        minibatch_size: int = 64,
        advantages: str = "gae",
        clip_range: float = 0.2,
        value_coefficient: float = 0.5,
        entropy_coefficient: float = 0.0,
        max_gradient_norm: float | None = 0.5,
        normalize_advantages: bool = True,
        seed: int | None = None,
        jit_compile: bool = True,
    ) -> None:
        self.agent = sources.with_policy_and_value("PPOLearner", sources.agent_of("PPOLearner", source))
        self.epochs = checked_integer("epochs", epochs)
        self.minibatch_size = checked_integer("minibatch_size", minibatch_size, 2 if normalize_advantages else 1)
        self._estimates = inputs.estimates_of(advantages)
        sources.check_returns("PPOLearner", source, ["log_prob", *self._estimates])
        self._clip = checked_number("clip_range", clip_range, 1e-6, 1e6)
        self._value_coefficient = checked_number("value_coefficient", value_coefficient, 0, 1e6)
        self._entropy_coefficient = checked_number("entropy_coefficient", entropy_coefficient, 0, 1e6)
        self._max_norm = inputs.checked_norm(max_gradient_norm)
        self._normalise = normalize_advantages
        self._rng = np.random.default_rng(seed)
        self.optimizer = sources.build_optimizer("PPOLearner", optimizer, self.agent.trainable_variables)
        self._step = tf.function(self._update, jit_compile=jit_compile or None)
        self._compiled = tf.function(self._updates, reduce_retracing=True)

    def __repr__(self) -> str:
        return described(self, "agent", "epochs", "minibatch_size")

    def update(self, data: Mapping[str, Any]) -> PPOUpdate:
        """Learns from rows that the agent collected with its current weights; do not use them again afterwards.

        Args:
            data: columns `[row, ...]` `state`, `action`, `log_prob`, `value_estimate`, and `advantage` or
                `monte_carlo`, as `get_data()` gives them with `returns=["log_prob", "value_estimate", "advantage"]`;
                `action_mask` if masks come with `info`.

        Raises:
            InvalidValueError, InvalidTypeError: a column is missing or invalid, or there are fewer rows than in a
                minibatch; the weights have not changed then.
        """
        columns = inputs.policy_columns("PPOLearner", data, self.agent, ["log_prob", *self._estimates])
        rows = len(columns["log_prob"])
        if rows < self.minibatch_size:
            raise InvalidValueError(
                f"PPOLearner.update: expected at least minibatch_size={self.minibatch_size} rows, got {rows}"
            )
        columns |= inputs.advantages_and_returns(columns)
        found = self._compiled(columns, self._orders(rows)).numpy()
        return PPOUpdate(*found.T)

    def _orders(self, rows: int) -> NDArray[np.int32]:
        """The rows of each minibatch of each epoch, `[minibatch, row]`."""
        count = rows // self.minibatch_size
        orders = np.stack([self._rng.permutation(rows)[: count * self.minibatch_size] for _ in range(self.epochs)])
        return orders.reshape(self.epochs * count, self.minibatch_size).astype(np.int32)

    # ------------------------------------------------------------------------------------------ compiled

    def _updates(self, columns: dict[str, Any], orders: Any) -> Any:
        """Takes one step for each minibatch, in order; returns the numbers of `PPOUpdate`, `[minibatch, number]`."""
        found = tf.TensorArray(tf.float32, size=tf.shape(orders)[0], element_shape=[len(PPOUpdate._fields)])
        for at in tf.range(tf.shape(orders)[0]):
            batch = {name: tf.gather(column, orders[at]) for name, column in columns.items()}
            found = found.write(at, self._step(batch))
        return found.stack()

    def _update(self, batch: dict[str, Any]) -> Any:
        variables = self.agent.trainable_variables
        with tf.GradientTape() as tape:
            state = inputs.state_of(self.agent, batch, "state")
            mask = batch.get(KEY)
            log_prob, entropies = self.agent.flowing_log_prob(state, batch["action"], True, action_mask=mask)
            log_ratio = log_prob - batch["log_prob"]
            policy_loss = -tf.reduce_mean(self._objective(tf.exp(log_ratio), self._normalised(batch["advantage"])))
            value_loss = tf.reduce_mean(tf.square(self.agent.v(state) - batch["return"]))
            entropy = tf.reduce_mean(entropies)
            loss = policy_loss + self._value_coefficient * value_loss - self._entropy_coefficient * entropy
        inputs.apply_gradients(self.optimizer, tape, loss, variables, self._max_norm)
        kl = tf.reduce_mean(tf.exp(log_ratio) - 1.0 - log_ratio)
        clipped = tf.reduce_mean(tf.cast(tf.abs(tf.exp(log_ratio) - 1.0) > self._clip, tf.float32))
        return tf.stack([policy_loss, value_loss, entropy, kl, clipped])

    def _objective(self, ratio: Any, advantage: Any) -> Any:
        """The clipped surrogate objective (equation 7), `[row]`."""
        return tf.minimum(ratio * advantage, tf.clip_by_value(ratio, 1.0 - self._clip, 1.0 + self._clip) * advantage)

    def _normalised(self, advantage: Any) -> Any:
        if not self._normalise:
            return advantage
        return (advantage - tf.reduce_mean(advantage)) / (tf.math.reduce_std(advantage) + TINY)
