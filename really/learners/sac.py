"""SACLearner: soft actor-critic, off-policy learning of continuous actions, many updates in one compiled call."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from really._utils.checks import checked_bool, checked_integer, checked_number, checked_positive
from really._utils.names import OF_LEARNERS, tells_names
from really._utils.reprs import described
from really.data.schema import ColumnSpec, Spec
from really.learners import inputs, sources

if TYPE_CHECKING:
    from really.agents.agent import Agent
    from really.manager.sample_manager import SampleManager

_LOG_2PI, _LOG_2 = math.log(2.0 * math.pi), math.log(2.0)


class SACUpdate(NamedTuple):
    """Results of an update, from before it changed the weights; `[update, ...]` for several updates.

    `critic_loss`, `actor_loss`, `entropy` (of actions in [-1, 1], in nats) and `temperature`: float32 `[]`.
    `td_error`: float32 `[row]`, target minus the mean of all critics; its absolute value is the priority of
    prioritized replay. `q_value`: float32 `[row]`, that mean, of the actions taken.
    """

    critic_loss: NDArray[np.float32]
    actor_loss: NDArray[np.float32]
    entropy: NDArray[np.float32]
    temperature: NDArray[np.float32]
    td_error: NDArray[np.float32]
    q_value: NDArray[np.float32]


class Critic(keras.Model):  # type: ignore[misc]
    """Q(s, a): a network with hidden layers of ReLU, for states that are arrays or dicts or tuples of arrays.

    With `layer_norm` each hidden layer is normalised before its ReLU (Ba et al. 2016), which bounds what the critic
    gives for actions that no row has (Ball et al. 2023, section 4.2).
    """

    def __init__(self, hidden: tuple[int, ...] = (256, 256), *, layer_norm: bool = False) -> None:
        super().__init__()
        if layer_norm:
            made = [(keras.layers.Dense(n), keras.layers.LayerNormalization(), keras.layers.ReLU()) for n in hidden]
            self.hidden = [layer for layers in made for layer in layers]
        else:
            self.hidden = [keras.layers.Dense(units, activation="relu") for units in hidden]
        self.value = keras.layers.Dense(1)

    def call(self, inputs: tuple[Any, Any]) -> Any:
        """Q-values `[row, 1]` of `(states, actions)`."""
        flat = [tf.reshape(tf.cast(leaf, tf.float32), [tf.shape(leaf)[0], -1]) for leaf in tf.nest.flatten(inputs)]
        features = tf.concat(flat, axis=-1)
        features.set_shape([None, sum(math.prod(leaf.shape[1:]) for leaf in tf.nest.flatten(inputs))])
        for layer in self.hidden:
            features = layer(features)
        return self.value(features)


class SACNetworks(keras.Model):  # type: ignore[misc]
    """All that a SACLearner trains besides the agent: critics, their targets and the logarithm of the temperature.

    It is one model, so that a checkpoint saves it as a `target`.
    """

    def __init__(self, make_critic: Callable[[], Any], num_critics: int, temperature: float) -> None:
        super().__init__()
        self.critics = [make_critic() for _ in range(num_critics)]
        self.targets = [make_critic() for _ in range(num_critics)]
        initial = keras.initializers.Constant(math.log(temperature))
        self.log_temperature = self.add_weight(shape=(), initializer=initial, name="log_temperature")


@tells_names(OF_LEARNERS)
class SACLearner:
    """Soft actor-critic (Haarnoja et al. 2018, "Algorithms and Applications"); trains the agent's own model.

    The model has outputs `mu` and `sigma`, and the manager `action_sampling_type="continuous_squashed_normal"`. The
    target of a row is `reward + discount * (min Q'(s', a') - temperature * log π(a'|s'))`, where a' is drawn from the
    policy, Q' are slowly moving copies of the critics, and `discount` is `gamma * (1 - terminal)`. A time limit is
    no termination. The policy minimises `temperature * log π(a|s) - min Q(s, a)` by the gradient through a drawn
    action. The temperature grows while the policy's entropy is below `target_entropy`, and falls while it is above.
    Critics and entropy see actions scaled to [-1, 1].

    Args:
        source: the manager whose agent is trained, or an `Agent`.
        optimizer, critic_optimizer, temperature_optimizer: Keras optimizers that train nothing else, of the policy, of
            the critics, and of the temperature (Adam with a rate of 3e-4 by default).
        make_critic: returns a new Keras model that takes a pair (states, actions) and returns q-values `[row]` or
            `[row, 1]`; by default `Critic`, two hidden layers of 256.
        num_critics: number of critics.
        target_critics: number of critics, drawn anew for each update, whose least value is the target, as in REDQ
            (Chen et al. 2021, algorithm 1) and RLPD (Ball et al. 2023), which have 10 critics and draw 2. The policy
            then follows the mean of all critics. By default the least value of all is for both.
        gamma: discount factor; by default the manager's, from which it may not differ.
        target_rate: fraction by which the targets approach the critics after each update.
        temperature: initial weight of the entropy.
        learn_temperature: False keeps it.
        target_entropy: entropy of actions in [-1, 1] at which the temperature rests, in nats; by default minus the
            number of dimensions of an action.
        n_step: number of steps over which a batch sums rewards, as for `DQNLearner`. The entropy of the steps between
            is left out.
        seed: seed of the drawn actions.
        jit_compile: whether XLA compiles the updates, again for each shape of a batch. By default it does if the
            networks have no convolutions; otherwise it compiles the steps of the critics' and the actor's optimizers
            alone. False compiles nothing.

    Attributes:
        agent: the agent that is trained.
        networks: critics, targets and temperature, for `manager.save_checkpoint(target=...)`.
        optimizers: name -> optimizer, for `manager.save_checkpoint(optimizer=...)`.

    Raises:
        ModelError: the agent draws actions otherwise, or a critic returns something else than q-values.
        InvalidValueError, InvalidTypeError: an argument is invalid.
    """

    def __init__(
        self,
        source: SampleManager | Agent,
        optimizer: Any,
        critic_optimizer: Any,
        *,
        make_critic: Callable[[], Any] = Critic,
        num_critics: int = 2,
        target_critics: int | None = None,
        gamma: float | None = None,
        target_rate: float = 0.005,
        temperature: float = 1.0,
        learn_temperature: bool = True,
        temperature_optimizer: Any = None,
        target_entropy: float | None = None,
        n_step: int = 1,
        seed: int = 0,
        jit_compile: bool | None = None,
    ) -> None:
        self.agent, self._policy = sources.with_squashed_policy("SACLearner", sources.agent_of("SACLearner", source))
        self.gamma = sources.gamma_of("SACLearner", source, gamma)
        self.n_step = checked_integer("n_step", n_step)
        self._buffer = sources.buffer_of(source)
        sources.check_keys("SACLearner", self._buffer(), list(self._needed("terminal")))
        self._check_steps()
        self._rate = checked_number("target_rate", target_rate, 1e-6, 1)
        self._seed = checked_integer("seed", seed, least=0, most=2**31 - 1)
        self._learns_temperature = checked_bool("learn_temperature", learn_temperature)
        dimensions = self._policy.noise_width
        wanted = -dimensions if target_entropy is None else target_entropy
        self.target_entropy = checked_number("target_entropy", wanted, -1e6, 1e6)
        num_critics = checked_integer("num_critics", num_critics)
        self._drawn_critics = (
            None if target_critics is None else checked_integer("target_critics", target_critics, most=num_critics)
        )
        self.networks = SACNetworks(make_critic, num_critics, checked_positive("temperature", temperature))
        self._build_critics()
        given = keras.optimizers.Adam(3e-4) if temperature_optimizer is None else temperature_optimizer
        trained = {
            "actor": (optimizer, self.agent.trainable_variables),
            "critics": (critic_optimizer, self._critic_variables),
            "temperature": (given, [self.networks.log_temperature]),
        }
        self.optimizers = {
            name: sources.build_optimizer("SACLearner", each, variables) for name, (each, variables) in trained.items()
        }
        models = (self.agent.model, *self.networks.critics)
        self.jit_compile, self._compiles_steps = inputs.xla_parts(jit_compile, *models)
        self._compiled = tf.function(self._updates, jit_compile=self.jit_compile or None)

    def __repr__(self) -> str:
        return described(self, "agent", "gamma", "n_step")

    @property
    def updates_done(self) -> int:
        """Number of updates; a loaded checkpoint of the optimizers restores it."""
        return int(np.asarray(self.optimizers["critics"].iterations))

    @property
    def temperature(self) -> float:
        """The weight of the entropy."""
        return math.exp(float(np.asarray(self.networks.log_temperature)))

    def update(self, batch: Mapping[str, Any]) -> SACUpdate:
        """Does one update for a batch `[row, ...]`, or k updates in order for batches `[k, row, ...]`.

        Args:
            batch: columns `state`, `action`, `reward`, `state_new`, `terminal` (or `discount`, see `n_step`), as
                `buffer.sample((k, n))` gives them. A column `weight`, which batches of prioritized replay have, is the
                weight of each row in the loss of the critics (Schaul et al. 2016, section 3.4).

        Raises:
            InvalidValueError, InvalidTypeError: a column is missing or invalid; the weights have not changed then.
        """
        self._check_steps()
        columns = inputs.replayed_columns("SACLearner", batch, self._needed, self.agent, self.gamma, self.n_step)
        inputs.check_within("SACLearner", columns["action"], self.agent.action_space)
        return SACUpdate(*inputs.results(self._compiled, columns))

    # ------------------------------------------------------------------------------------------ compiled

    def _updates(self, batches: dict[str, Any]) -> tuple[Any, ...]:
        """Does one update for each `batches[name][at]`, in order; returns the stacked results."""
        count = batches["reward"].shape[0]
        results = [tf.TensorArray(tf.float32, size=count) for _ in SACUpdate._fields]
        for at in tf.range(count):
            found = self._update({name: rows[at] for name, rows in batches.items()})
            results = [array.write(at, result) for array, result in zip(results, found, strict=True)]
        return tuple(array.stack() for array in results)

    def _update(self, batch: dict[str, Any]) -> tuple[Any, ...]:
        temperature = tf.exp(inputs.values_of([self.networks.log_temperature])[0])
        shape = [2, tf.shape(batch["reward"])[0], self._policy.noise_width]
        noise = tf.random.stateless_normal(
            shape, [self._seed, tf.cast(self.optimizers["critics"].iterations, tf.int32)]
        )
        critic_loss, error, q = self._update_critics(batch, temperature, noise[0])
        actor_loss, entropy = self._update_actor(batch, temperature, noise[1])
        if self._learns_temperature:
            # The gradient of log temperature * (entropy - target entropy).
            slope = tf.reshape(entropy - self.target_entropy, [])
            self.optimizers["temperature"].apply([slope], [self.networks.log_temperature])
        return critic_loss, actor_loss, entropy, temperature, error, q

    def _update_critics(self, batch: dict[str, Any], temperature: Any, noise: Any) -> tuple[Any, Any, Any]:
        next_state, state = (inputs.state_of(self.agent, batch, key) for key in ("state_new", "state"))
        next_action, log_prob = self._drawn(next_state, noise)
        next_value = self._target_value(next_state, next_action) - temperature * log_prob
        target = batch["reward"] + batch["discount"] * next_value
        with tf.GradientTape() as tape:
            values = [self._q_values(critic, state, self._scaled(batch["action"])) for critic in self.networks.critics]
            losses = [tf.reduce_mean(batch["weight"] * 0.5 * tf.square(target - q)) for q in values]
            loss = tf.add_n(losses)
        self._apply("critics", tape, loss, self._critic_variables)
        self._move_targets()
        q = tf.add_n(values) / len(values)
        return loss, target - q, q

    def _apply(self, name: str, tape: tf.GradientTape, loss: Any, variables: Sequence[Any]) -> None:
        inputs.apply_gradients(self.optimizers[name], tape, loss, variables, jit_compile=self._compiles_steps)

    def _move_targets(self) -> None:
        for critic, target in zip(self.networks.critics, self.networks.targets, strict=True):
            for fast, slow in zip(critic.variables, target.variables, strict=True):
                slow.assign(slow + self._rate * (fast - slow) if tf.as_dtype(fast.dtype).is_floating else fast)

    def _update_actor(self, batch: dict[str, Any], temperature: Any, noise: Any) -> tuple[Any, Any]:
        state = inputs.state_of(self.agent, batch, "state")
        with tf.GradientTape() as tape:
            action, log_prob = self._drawn(state, noise)
            loss = tf.reduce_mean(temperature * log_prob - self._policy_value(state, action))
        self._apply("actor", tape, loss, self.agent.trainable_variables)
        return loss, -tf.reduce_mean(log_prob)

    def _drawn(self, state: Any, noise: Any) -> tuple[Any, Any]:
        """Actions in [-1, 1], `[row, dimension]`, and their log-densities there, `[row]`; both have gradients.

        log(1 - tanh(u)²) is 2 (log 2 - u - softplus(-2u)).
        """
        outputs = self.agent.outputs(state, "mu", "sigma")
        mu, sigma = (tf.reshape(outputs[name], [-1, self._policy.noise_width]) for name in ("mu", "sigma"))
        u = mu + sigma * noise
        log_normal = -0.5 * tf.square(noise) - tf.math.log(sigma) - 0.5 * _LOG_2PI
        log_slope = 2.0 * (_LOG_2 - u - tf.math.softplus(-2.0 * u))
        return tf.tanh(u), tf.reduce_sum(log_normal - log_slope, axis=-1)

    def _target_value(self, state: Any, action: Any) -> Any:
        """The least q-value of the target networks (Fujimoto et al. 2018, clipped double Q-learning), `[row]`."""
        values = [self._q_values(critic, state, action) for critic in self.networks.targets]
        if self._drawn_critics is not None:
            number = tf.cast(self.optimizers["critics"].iterations, tf.int32)
            drawn = drawn_positions(self._seed, number, len(values), self._drawn_critics)
            return tf.reduce_min(tf.gather(tf.stack(values), drawn), axis=0)
        return functools.reduce(tf.minimum, values)

    def _policy_value(self, state: Any, action: Any) -> Any:
        """What the policy maximises besides its entropy, `[row]`."""
        values = [self._q_values(critic, state, action) for critic in self.networks.critics]
        return functools.reduce(tf.minimum, values) if self._drawn_critics is None else tf.add_n(values) / len(values)

    def _q_values(self, critic: Any, state: Any, action: Any) -> Any:
        return tf.reshape(tf.cast(critic((state, action)), tf.float32), [-1])

    def _scaled(self, actions: Any) -> Any:
        """Stored actions as `[row, dimension]` in [-1, 1]."""
        flat = tf.reshape(tf.cast(actions, tf.float32), [-1, self._policy.noise_width])
        return (flat - self._policy.low) / self._policy.half_range - 1.0

    # ------------------------------------------------------------------------------------------ building and checks

    def _build_critics(self) -> None:
        """Calls each critic with two rows of zeros; lets the targets start as the critics."""
        leaves = {name: np.zeros((2, *spec.shape), spec.dtype) for name, spec in self._states("state").items()}
        state, action = (
            inputs.state_of(self.agent, leaves, "state"),
            np.zeros((2, self._policy.noise_width), np.float32),
        )
        for critic in (*self.networks.critics, *self.networks.targets):
            sources.check_critic("SACLearner", critic, critic((tf.nest.map_structure(tf.constant, state), action)))
        for critic, target in zip(self.networks.critics, self.networks.targets, strict=True):
            target.set_weights(critic.get_weights())
        self._critic_variables = [each for critic in self.networks.critics for each in critic.trainable_variables]

    def _states(self, key: str) -> Spec:
        return inputs.state_inputs(self.agent, key)

    def _needed(self, *floats: str) -> Spec:
        """The columns that an update takes, `floats` among them."""
        action = ColumnSpec(self._policy.action_dtype, self._policy.action_shape)
        numbers = dict.fromkeys(floats, inputs.NUMBER)
        return {
            "reward": inputs.NUMBER,
            "action": action,
            **self._states("state"),
            **self._states("state_new"),
            **numbers,
        }

    def _check_steps(self) -> None:
        sources.check_buffer("SACLearner", self._buffer(), self.gamma, self.n_step)


def drawn_positions(seed: int, number: Any, of: int, size: int) -> Any:
    """Positions of `size` different ones of `of` critics, int32 `[size]`, each set equally likely; update `number`'s.

    They are independent of the noise of the update's actions, which has the key `[seed, number]`.
    """
    key = tf.random.fold_in(tf.stack([tf.constant(seed), number]), 1)
    return tf.math.top_k(tf.random.stateless_uniform([of], key), size).indices
