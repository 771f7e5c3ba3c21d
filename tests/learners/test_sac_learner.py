"""SACLearner: updates against a slow NumPy reference and against single updates, checkpoints, and refused arguments."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from scipy import stats

from really import ReplayBuffer, SampleManager
from really.agents.agent import Agent
from really.agents.models import build_model
from really.errors import InvalidTypeError, InvalidValueError, ModelError
from really.learners import Critic, SACLearner
from really.learners.sac import drawn_positions
from tests import models

BOX = spaces.Box(-np.inf, np.inf, (4,))
ACTIONS = spaces.Box(np.array([-2.0, 1.0], np.float32), np.array([2.0, 5.0], np.float32))
GAMMA, RATE, SEED = 0.9, 0.1, 5
SETTINGS = {"gamma": GAMMA, "target_rate": 0.3, "temperature": 0.4, "seed": SEED, "jit_compile": False}


def small_critic():
    return Critic((8,))


def agent_of(kind="continuous_squashed_normal", space=ACTIONS, maker=models.ActorCritic, **kwargs):
    tf.keras.utils.set_random_seed(0)
    kwargs = kwargs or {"dimensions": 2}
    return Agent(build_model(maker, kwargs, None, BOX), BOX, space, kind)


def learner_of(agent=None, **settings):
    optimizers = [tf.keras.optimizers.SGD(RATE) for _ in range(3)]
    given = {"make_critic": small_critic, "temperature_optimizer": optimizers[2], **SETTINGS, **settings}
    return SACLearner(agent or agent_of(), optimizers[0], optimizers[1], **given)


def batch_of(*lead, seed=0):
    """Rows with every combination of flags; the learner must ignore `truncated`."""
    rng = np.random.default_rng(seed)
    flags = rng.random((2, *lead)) < 0.4
    return {
        "state": rng.standard_normal((*lead, 4)).astype(np.float32),
        "action": rng.uniform(ACTIONS.low, ACTIONS.high, (*lead, 2)).astype(np.float32),
        "reward": rng.standard_normal(lead).astype(np.float32),
        "state_new": rng.standard_normal((*lead, 4)).astype(np.float32),
        "terminal": flags[0].astype(np.float32),
        "truncated": (flags[1] & ~flags[0]).astype(np.float32),
    }


def noise_of(update, rows):
    """The noise of an update: for the next actions, and for the actor's."""
    return tf.random.stateless_normal([2, rows, 2], [SEED, update]).numpy().astype(np.float64)


def drawn(model, state, noise):
    """Actions in [-1, 1] and their log-densities by the change of variables, row by row."""
    outputs = model(state)
    mu, sigma = (np.broadcast_to(outputs[name], noise.shape).astype(np.float64) for name in ("mu", "sigma"))
    u = mu + sigma * noise
    log_normal = -0.5 * noise**2 - np.log(sigma) - 0.5 * math.log(2 * math.pi)
    return np.tanh(u), (log_normal - np.log(1 - np.tanh(u) ** 2)).sum(1)


def values_of(critics, state, action):
    return [critic((state, action.astype(np.float32))).numpy()[:, 0].astype(np.float64) for critic in critics]


@pytest.fixture
def eagerly():
    """Runs Python instead of compiling it, which takes longer than a few updates."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.usefixtures("eagerly")
def test_an_update_has_the_td_errors_losses_and_entropy_of_the_reference():
    learner, batch = learner_of(), batch_of(40)
    for target in learner.networks.targets:  # the targets of the reference are not the critics
        target.set_weights([weight + 0.1 for weight in target.get_weights()])
    rows, (next_noise, noise) = batch["reward"], noise_of(0, 40)
    next_action, next_log_prob = drawn(learner.agent.model, batch["state_new"], next_noise)
    next_value = np.minimum(*values_of(learner.networks.targets, batch["state_new"], next_action))
    goals = rows + GAMMA * (1 - batch["terminal"]) * (next_value - 0.4 * next_log_prob)
    scaled = np.stack([batch["action"][:, 0] / 2, (batch["action"][:, 1] - 3) / 2], axis=1)
    before = values_of(learner.networks.critics, batch["state"], scaled)
    action, log_prob = drawn(learner.agent.model, batch["state"], noise)

    found = learner.update(batch)

    np.testing.assert_allclose(found.td_error, goals - np.mean(before, axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.q_value, np.mean(before, axis=0), rtol=1e-4, atol=1e-5)
    assert found.critic_loss == pytest.approx(sum(0.5 * np.mean((goals - q) ** 2) for q in before), rel=1e-4)
    assert found.entropy == pytest.approx(-log_prob.mean(), rel=1e-4)
    assert found.temperature == pytest.approx(0.4)
    after = np.minimum(*values_of(learner.networks.critics, batch["state"], action))  # critics are updated first
    assert found.actor_loss == pytest.approx(np.mean(0.4 * log_prob - after), rel=1e-3, abs=1e-4)


@pytest.mark.usefixtures("eagerly")
def test_the_target_is_the_least_of_drawn_critics_and_the_policy_follows_their_mean():
    learner, batch = learner_of(num_critics=4, target_critics=2), batch_of(20)
    next_noise, noise = noise_of(0, 20)
    next_action, next_log_prob = drawn(learner.agent.model, batch["state_new"], next_noise)
    values = np.array(values_of(learner.networks.targets, batch["state_new"], next_action))
    least = values[drawn_positions(SEED, 0, 4, 2).numpy()].min(axis=0)
    assert (least > values.min(axis=0)).any()
    goals = batch["reward"] + GAMMA * (1 - batch["terminal"]) * (least - 0.4 * next_log_prob)
    action, log_prob = drawn(learner.agent.model, batch["state"], noise)

    found = learner.update(batch)

    np.testing.assert_allclose(found.td_error, goals - found.q_value, rtol=1e-4, atol=1e-5)
    mean = np.mean(values_of(learner.networks.critics, batch["state"], action), axis=0)
    assert found.actor_loss == pytest.approx(np.mean(0.4 * log_prob - mean), rel=1e-3, abs=1e-4)


def test_all_sets_of_critics_are_equally_likely():
    """Chi-square of 10,000 draws of 2 critics from 5 against 1 / 10 for each pair."""
    draws = 10_000
    pairs = tf.vectorized_map(lambda number: drawn_positions(3, number, 5, 2), tf.range(draws)).numpy()
    pairs.sort(axis=1)
    assert (pairs[:, 0] < pairs[:, 1]).all()
    counts = np.unique(pairs, axis=0, return_counts=True)[1]
    assert len(counts) == 10
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.usefixtures("eagerly")
def test_layers_of_a_critic_are_normalised_before_their_activation():
    critic = Critic((8,), layer_norm=True)
    pair = np.ones((3, 4), np.float32), np.linspace(-1, 1, 6, dtype=np.float32).reshape(3, 2)
    value = critic(pair).numpy()[:, 0]
    kernel, bias, _, _, out, out_bias = critic.get_weights()
    hidden = np.concatenate(pair, axis=1) @ kernel + bias
    normal = (hidden - hidden.mean(axis=1, keepdims=True)) / np.sqrt(hidden.var(axis=1, keepdims=True) + 1e-3)
    np.testing.assert_allclose(value, np.maximum(normal, 0) @ out[:, 0] + out_bias, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("eagerly")
def test_the_policy_follows_the_gradient_through_its_actions():
    """Compared with finite differences of a NumPy loss, for the bias of the mean."""
    learner, batch, (_, noise) = learner_of(), batch_of(30), noise_of(0, 30)
    model = learner.agent.model
    before = [np.array(weight, np.float64) for weight in model.get_weights()]
    learner.update(batch)
    after, critics = model.get_weights(), learner.networks.critics
    at = next(at for at, (weight, new) in enumerate(zip(before, after, strict=True)) if weight.shape == (2,))

    def loss(step):
        model.set_weights([weight + step if number == at else weight for number, weight in enumerate(before)])
        action, log_prob = drawn(model, batch["state"], noise)
        return np.mean(0.4 * log_prob - np.minimum(*values_of(critics, batch["state"], action)))

    for dimension in np.eye(2):
        slope = (loss(1e-3 * dimension) - loss(-1e-3 * dimension)) / 2e-3
        assert (after[at] - before[at]) @ dimension == pytest.approx(-RATE * slope, rel=2e-2, abs=2e-4)


@pytest.mark.usefixtures("eagerly")
def test_the_temperature_moves_towards_the_target_entropy_and_the_targets_towards_the_critics():
    learner = learner_of(target_entropy=-7.0)
    old = [target.get_weights() for target in learner.networks.targets]
    found = learner.update(batch_of(20))
    assert math.log(learner.temperature) == pytest.approx(math.log(0.4) - RATE * (found.entropy + 7.0), rel=1e-4)
    for critic, target, start in zip(learner.networks.critics, learner.networks.targets, old, strict=True):
        for fast, slow, first in zip(critic.get_weights(), target.get_weights(), start, strict=True):
            np.testing.assert_allclose(slow, first + 0.3 * (fast - first), rtol=1e-5, atol=1e-7)
    fixed = learner_of(learn_temperature=False)
    fixed.update(batch_of(20))
    assert fixed.temperature == pytest.approx(0.4)
    assert learner_of().target_entropy == -2


def test_many_updates_in_one_call_equal_single_updates_and_the_seed_decides_the_noise():
    batches, (together, single, other) = batch_of(3, 10), (learner_of(seed=seed) for seed in (SEED, SEED, 6))
    found = together.update(batches)
    parts = [single.update({name: rows[at] for name, rows in batches.items()}) for at in range(3)]
    for name, stacked in found._asdict().items():
        np.testing.assert_allclose(stacked, [getattr(part, name) for part in parts], rtol=1e-4, atol=1e-5)
    assert together.updates_done == single.updates_done == 3
    assert abs(other.update(batches).entropy[0] - found.entropy[0]) > 1e-6


@pytest.mark.usefixtures("eagerly")
def test_weights_of_rows_and_discounts_of_n_steps_are_used():
    batch = batch_of(40)
    weight = np.random.default_rng(1).random(40).astype(np.float32)
    found = learner_of().update({**batch, "weight": weight, "index": np.arange(40)})
    plain = learner_of().update(batch)
    np.testing.assert_allclose(found.td_error, plain.td_error, rtol=1e-5)
    assert found.critic_loss != pytest.approx(plain.critic_loss, rel=1e-3)
    discount = (GAMMA * (1 - batch.pop("terminal"))).astype(np.float32)
    steps = learner_of(n_step=3).update({**batch, "discount": discount})
    np.testing.assert_allclose(steps.td_error, plain.td_error, rtol=1e-4, atol=1e-6)


def test_the_optimizers_make_the_same_steps_with_xla(monkeypatch):
    """By default XLA compiles them, and nothing else, for networks with convolutions."""
    monkeypatch.setattr("really.learners.inputs.has_convolutions", lambda model: True)
    compiled, plain, batches = learner_of(jit_compile=None), learner_of(), batch_of(3, 8)
    assert compiled.jit_compile is False
    for found, expected in zip(compiled.update(batches), plain.update(batches), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    for one, other in zip(compiled.agent.get_weights(), plain.agent.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_resumes_with_the_losses_of_the_uninterrupted_run(tmp_path):
    def start():
        tf.keras.utils.set_random_seed(1)
        options = {"model_kwargs": {"dimensions": 1}, "action_sampling_type": "continuous_squashed_normal"}
        made = SampleManager(models.ActorCritic, "Pendulum-v1", 2, 20, num_steps=10, use_ray=False, seed=3, **options)
        made.initialize_buffer(100)
        given = [tf.keras.optimizers.Adam(0.01) for _ in range(2)]
        return made, SACLearner(made, *given, make_critic=small_critic, jit_compile=False)

    manager, learner = start()
    with manager:
        manager.collect()
        learner.update(manager.buffer.sample((2, 8)))
        parts = {"target": learner.networks, "optimizer": learner.optimizers}
        manager.save_checkpoint(tmp_path, **parts)
        expected = learner.update(manager.buffer.sample((2, 8)))
    resumed, again = start()
    with resumed:
        resumed.load_checkpoint(tmp_path, target=again.networks, optimizer=again.optimizers)
        found = again.update(resumed.buffer.sample((2, 8)))
    for name, value in expected._asdict().items():
        np.testing.assert_array_equal(getattr(found, name), value)


@pytest.mark.usefixtures("eagerly")
def test_critics_take_composite_observations():
    space = spaces.Dict(image=spaces.Box(0, 255, (2, 3), np.uint8), speed=spaces.Box(-1, 1, (1,)))
    inputs = {"image": tf.keras.Input((2, 3), name="image"), "speed": tf.keras.Input((1,), name="speed")}
    hidden = tf.keras.layers.Concatenate()(
        [tf.keras.layers.Flatten()(tf.keras.layers.Rescaling(1 / 255)(inputs["image"])), inputs["speed"]]
    )
    outputs = {"mu": tf.keras.layers.Dense(2)(hidden), "sigma": tf.keras.layers.Dense(2, "softplus")(hidden)}
    model = tf.keras.Model(inputs, outputs)
    learner = learner_of(Agent(model, space, ACTIONS, "continuous_squashed_normal"))
    rng = np.random.default_rng(0)
    batch = {name: batch_of(6)[name] for name in ("action", "reward", "terminal")}
    for key in ("state", "state_new"):
        batch[f"{key}.image"] = rng.integers(0, 256, (6, 2, 3), np.uint8)
        batch[f"{key}.speed"] = rng.standard_normal((6, 1)).astype(np.float32)
    assert np.isfinite(learner.update(batch).critic_loss)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"target_rate": 2}, InvalidValueError, "target_rate: expected a number from 1e-06 to 1, got 2"),
        ({"temperature": 0}, InvalidValueError, "temperature: expected a number > 0, got 0"),
        ({"learn_temperature": "no"}, InvalidTypeError, "learn_temperature: expected"),
        ({"seed": -1}, InvalidValueError, "seed: expected"),
        ({"num_critics": 0}, InvalidValueError, "num_critics: expected an integer >= 1, got 0"),
        ({"target_critics": 3}, InvalidValueError, "target_critics: expected an integer from 1 to 2, got 3"),
        ({"target_entropy": math.nan}, InvalidValueError, "target_entropy: expected"),
        ({"make_critic": lambda: tf.keras.layers.Lambda(lambda pair: pair[0])}, ModelError, r"row, 1\], got \[2, 4\]"),
        ({"temperature_optimizer": 3}, InvalidTypeError, "SACLearner: expected a Keras optimizer, got int"),
        ({"gamma": None}, InvalidValueError, "SACLearner: expected gamma with an Agent"),
    ],
)
def test_refused_arguments(change, error, message):
    with pytest.raises(error, match=message):
        learner_of(**change)


def test_refused_agents_and_batches():
    with pytest.raises(ModelError, match="'continuous_squashed_normal', got 'continuous_normal_diagonal'"):
        learner_of(agent_of("continuous_normal_diagonal"))
    learner, batch = learner_of(), batch_of(4)
    before = learner.networks.get_weights()
    with pytest.raises(
        InvalidValueError,
        match=r"SACLearner.update: column 'action': expected numbers from \[-2.0, 1.0\] to \[2.0, 5.0\], got",
    ):
        learner.update({**batch, "action": batch["action"] + 9})
    with pytest.raises(InvalidValueError, match=r"SACLearner.update: expected columns .* missing: 'reward'"):
        learner.update({name: rows for name, rows in batch.items() if name != "reward"})
    for old, new in zip(before, learner.networks.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_buffer_without_a_needed_column_is_refused_at_once():
    options = {"model_kwargs": {"dimensions": 1}, "action_sampling_type": "continuous_squashed_normal"}
    with SampleManager(models.ActorCritic, "Pendulum-v1", 1, 10, num_steps=10, use_ray=False, **options) as manager:
        manager.buffer = ReplayBuffer(10, ["state", "reward"])
        with pytest.raises(InvalidValueError, match=r"SACLearner: expected a buffer with .* missing: 'action'"):
            SACLearner(manager, *(tf.keras.optimizers.SGD(RATE) for _ in range(2)))
