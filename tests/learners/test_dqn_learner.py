"""DQNLearner: updates against a slow NumPy reference and against single updates, and refused arguments."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

import really
from really import ReplayBuffer, SampleManager
from really.agents.agent import Agent
from really.agents.models import build_model
from really.errors import InvalidTypeError, InvalidValueError, ModelError
from really.learners import DQNLearner, inputs
from tests import models

BOX = spaces.Box(-np.inf, np.inf, (4,))
THREE = spaces.Discrete(3, start=5)
GAMMA, RATE = 0.9, 0.1


def agent_of(maker=models.QNet, action_space=THREE, space=BOX, kind="epsilon_greedy", **kwargs):
    tf.keras.utils.set_random_seed(0)
    make = lambda: build_model(maker, {"num_actions": 3, **kwargs}, None, space)  # noqa: E731
    return Agent(make(), space, action_space, kind, make_model=make)


def learner_of(agent=None, optimizer=None, **settings):
    settings = {"gamma": GAMMA, "target_every": 3, "huber_delta": None, **settings}
    return DQNLearner(agent or agent_of(), optimizer or tf.keras.optimizers.SGD(RATE), **settings)


def batch_of(*lead, seed=0):
    """Rows with every combination of flags; the learner must ignore `truncated`."""
    rng = np.random.default_rng(seed)
    flags = rng.random((2, *lead)) < 0.4
    return {
        "state": rng.standard_normal((*lead, 4)).astype(np.float32),
        "action": rng.integers(5, 8, lead),
        "reward": rng.standard_normal(lead).astype(np.float32),
        "state_new": rng.standard_normal((*lead, 4)).astype(np.float32),
        "terminal": flags[0].astype(np.float32),
        "truncated": (flags[1] & ~flags[0]).astype(np.float32),
    }


def move_apart(learner, seed=1):
    """Gives the target network other weights, so that the two networks have different q-values."""
    rng = np.random.default_rng(seed)
    learner.target.set_weights([w + 0.3 * rng.standard_normal(w.shape) for w in learner.target.get_weights()])


def q_of(agent, state):
    return agent.model(state[None])["q_values"].numpy()[0].astype(np.float64)


def targets_by_hand(learner, batch, double, discounts):
    """r + discount * Q'(s', a*) for each row, where a* comes from the model or from the target network."""
    found = []
    for row in range(len(batch["reward"])):
        target = q_of(learner.target, batch["state_new"][row])
        chooser = q_of(learner.agent, batch["state_new"][row]) if double else target
        found.append(batch["reward"][row] + discounts[row] * target[int(np.argmax(chooser))])
    return np.array(found)


@pytest.mark.parametrize("double", [True, False])
def test_td_errors_equal_the_reference_and_a_time_limit_is_no_termination(double):
    learner, batch = learner_of(double=double), batch_of(40)
    move_apart(learner)
    assert batch["truncated"].any()
    assert batch["terminal"].any()
    discounts = [GAMMA if terminal == 0 else 0.0 for terminal in batch["terminal"]]
    goals = targets_by_hand(learner, batch, double, discounts)
    q = np.array([q_of(learner.agent, s)[a - 5] for s, a in zip(batch["state"], batch["action"], strict=True)])
    found = learner.update(batch)
    np.testing.assert_allclose(found.td_error, goals - q, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.q_value, q, rtol=1e-4, atol=1e-5)
    assert found.loss == pytest.approx(0.5 * np.mean((goals - q) ** 2), rel=1e-4)


def test_double_and_plain_targets_differ_in_these_tests():
    pair = [learner_of(double=double) for double in (True, False)]
    for learner in pair:
        move_apart(learner)
    errors = [learner.update(batch_of(40)).td_error for learner in pair]
    assert np.abs(errors[0] - errors[1]).max() > 0.01


def test_n_step_discounts_are_used_unchanged():
    learner, batch = learner_of(n_step=3), batch_of(40)
    move_apart(learner)
    steps = np.random.default_rng(2).integers(1, 4, 40)
    discounts = np.where(batch.pop("terminal") == 1, 0.0, GAMMA**steps)
    goals = targets_by_hand(learner, batch, True, discounts)
    found = learner.update({**batch, "discount": discounts.astype(np.float32)})
    np.testing.assert_allclose(found.td_error + found.q_value, goals, rtol=1e-4, atol=1e-5)


def test_a_step_follows_the_gradient_of_the_weighted_huber_loss():
    """Compared with finite differences of a NumPy loss, for the bias of the last layer."""
    delta, weight = 0.5, np.random.default_rng(3).random(20).astype(np.float32)
    learner, batch = learner_of(huber_delta=delta), batch_of(20)
    move_apart(learner)
    discounts = GAMMA * (1 - batch["terminal"])
    goals = targets_by_hand(learner, batch, True, discounts)
    q = np.stack([q_of(learner.agent, state) for state in batch["state"]])

    def loss(bias):
        total = 0.0
        for row, action in enumerate(batch["action"] - 5):
            error = goals[row] - (q[row, action] + bias[action])
            small = abs(error) <= delta
            total += weight[row] * (0.5 * error**2 if small else delta * abs(error) - 0.5 * delta**2)
        return total / len(weight)

    slope = [(loss(step) - loss(-step)) / 2e-5 for step in 1e-5 * np.eye(3)]
    before = learner.agent.get_weights()[-1]
    found = learner.update({**batch, "weight": weight})
    np.testing.assert_allclose(learner.agent.get_weights()[-1], before - RATE * np.array(slope), atol=1e-5)
    assert found.loss == pytest.approx(loss(np.zeros(3)), rel=1e-4)
    assert (np.abs(found.td_error) > delta).any()
    assert (np.abs(found.td_error) < delta).any()


@pytest.mark.parametrize("target", [{"target_every": 2}, {"target_rate": 0.3, "target_every": None}])
def test_many_updates_in_one_call_equal_single_updates(target):
    batches = batch_of(5, 8)
    together, plain, apart = (
        learner_of(optimizer=tf.keras.optimizers.Adam(0.01), jit_compile=jit_compile, **target)
        for jit_compile in (True, False, False)
    )
    together_found, found = together.update(batches), plain.update(batches)
    singles = [apart.update({name: rows[at] for name, rows in batches.items()}) for at in range(5)]
    for name in found._fields:
        expected = np.stack([getattr(single, name) for single in singles])
        np.testing.assert_allclose(getattr(together_found, name), expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-4, atol=1e-5)
    for one, other in zip(
        together.agent.get_weights() + together.target.get_weights(),
        apart.agent.get_weights() + apart.target.get_weights(),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert together.updates_done == apart.updates_done == 5


def test_target_every_copies_the_model_at_its_interval():
    learner = learner_of(target_every=3)
    first = learner.target.get_weights()[0]
    for done in range(1, 7):
        learner.update(batch_of(8, seed=done))
        current, target = learner.agent.get_weights()[0], learner.target.get_weights()[0]
        assert np.array_equal(target, current) == (done % 3 == 0)
        assert np.array_equal(target, first) == (done < 3)


def test_target_rate_moves_the_target_by_its_fraction():
    learner = learner_of(target_every=None, target_rate=0.25)
    move_apart(learner)
    before = learner.target.get_weights()
    learner.update(batch_of(8))
    for old, new, model in zip(before, learner.target.get_weights(), learner.agent.get_weights(), strict=True):
        np.testing.assert_allclose(new, 0.75 * old + 0.25 * model, rtol=1e-5, atol=1e-6)


def test_integer_weights_are_copied_to_the_target():
    learner = learner_of(agent_of(models.IntegerWeights), target_every=None, target_rate=0.25)
    integers = [at for at, weight in enumerate(learner.agent.get_weights()) if weight.dtype == np.int32]
    learner.target.set_weights([w + 3 if w.dtype == np.int32 else w for w in learner.target.get_weights()])
    learner.update(batch_of(8))
    assert integers
    for at in integers:
        np.testing.assert_array_equal(learner.target.get_weights()[at], learner.agent.get_weights()[at])


IMAGE_AND_SPEED = spaces.Dict(image=spaces.Box(0, 255, (8, 8, 1), np.uint8), speed=spaces.Box(-1, 1, (3,)))


def images_of(*lead, seed=0):
    """A batch of states that are images and speeds."""
    rng, batch = np.random.default_rng(seed), batch_of(*lead)
    states = {
        f"{key}.{name}": value
        for key in ("state", "state_new")
        for name, value in (
            ("image", rng.integers(0, 256, (*lead, 8, 8, 1), np.uint8)),
            ("speed", rng.random((*lead, 3))),  # float64: the model takes float32
        )
    }
    return {**states, **{name: batch[name] for name in ("action", "reward", "terminal")}}


def has_xla(learner, batch):
    """Whether XLA compiles a function that the updates call."""
    graph = learner._compiled.get_concrete_function(learner._checked(batch)).graph.as_graph_def()
    return any(function.attr["_XlaMustCompile"].b for function in graph.library.function)


def test_images_and_dicts_are_learned_from_unchanged():
    agent, batch = agent_of(models.DictModel, space=IMAGE_AND_SPEED), images_of(2, 6)
    learner = learner_of(agent)
    nested = {name: batch[f"state.{name}"][0].astype(leaf.dtype) for name, leaf in IMAGE_AND_SPEED.spaces.items()}
    q = agent.model(nested)["q_values"].numpy()
    found = learner.update(batch)
    np.testing.assert_allclose(found.q_value[0], q[range(6), batch["action"][0] - 5], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: tf.keras.optimizers.Adam(0.01, global_clipnorm=0.5),
        lambda: tf.keras.optimizers.RMSprop(tf.keras.optimizers.schedules.ExponentialDecay(0.01, 2, 0.5)),
        lambda: tf.keras.optimizers.SGD(0.01, momentum=0.9, use_ema=True, ema_overwrite_frequency=2),
    ],
)
def test_the_optimizer_makes_the_same_steps_with_xla(optimizer):
    """By default XLA compiles them, and nothing else, for a model with convolutions."""
    compiled, plain = (
        learner_of(agent_of(models.DictModel, space=IMAGE_AND_SPEED), optimizer(), **options)
        for options in ({}, {"jit_compile": False})
    )
    for seed in range(2):
        found, expected = (learner.update(images_of(4, 6, seed=seed)) for learner in (compiled, plain))
        np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-4)
    assert compiled.updates_done == plain.updates_done == 8
    for one, other in zip(compiled.optimizer.variables, plain.optimizer.variables, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
    for one, other in zip(compiled.agent.get_weights(), plain.agent.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert has_xla(compiled, images_of(4, 6))
    assert not has_xla(plain, images_of(4, 6))


def test_xla_compiles_convolutions_only_if_asked():
    space = spaces.Box(0, 255, (84, 84, 4), np.uint8)
    images = agent_of(models.NatureCNN, space=space)
    assert learner_of(images).jit_compile is False
    assert learner_of(images, jit_compile=True).jit_compile is True
    assert learner_of().jit_compile is True
    assert learner_of(jit_compile=False).jit_compile is False


def test_a_value_output_that_the_loss_does_not_read_is_allowed():
    learner = learner_of(agent_of(models.QNet, value=True))
    before = learner.agent.v(np.ones(4, np.float32)).numpy()
    assert np.isfinite(learner.update(batch_of(8)).loss)
    assert learner.agent.v(np.ones(4, np.float32)).numpy() != before  # through the shared layers only


def test_update_takes_batches_of_a_buffer_tensors_and_column_vectors():
    buffer = ReplayBuffer(100, ["state", "action", "reward", "state_new", "terminal"], seed=0)
    buffer.put(batch_of(100))
    batches = buffer.sample((3, 16))
    expected = learner_of().update(batches)
    assert expected.loss.shape == (3,)
    assert expected.td_error.shape == expected.q_value.shape == (3, 16)
    tensors = {name: tf.constant(rows) for name, rows in batches.items()}
    tensors["action"] = tensors["action"][..., tf.newaxis]
    np.testing.assert_allclose(learner_of().update(tensors).td_error, expected.td_error, rtol=1e-5)


def placed(array, offset):
    """A copy of an array that starts `offset` bytes after a multiple of the alignment."""
    memory = np.empty(array.nbytes + 2 * inputs.ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % inputs.ALIGNMENT + offset
    copied = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copied[...] = array
    return copied


def test_large_columns_are_shared_with_tensorflow_and_stay_as_they_are():
    batch = batch_of(2, 40_000)
    states = batch["state"]
    read_only = placed(states, 0)
    read_only.flags.writeable = False
    strided = np.repeat(states, 2, axis=-1)[..., ::2]
    kinds = {"shared": placed(states, 0), "unaligned": placed(states, 4), "read-only": read_only, "strided": strided}
    found = {}
    for kind, column in kinds.items():
        (given,) = inputs.shared({"state": column}).values()
        assert isinstance(given, tf.Tensor) == (kind == "shared"), kind
        found[kind] = learner_of().update({**batch, "state": column})
        np.testing.assert_array_equal(column, batch_of(2, 40_000)["state"], kind)
    for kind, update in found.items():
        for one, other in zip(update, found["unaligned"], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6, err_msg=kind)
    kinds["shared"][0, 0, 0] = 7.0
    assert inputs.shared({"state": kinds["shared"]})["state"].numpy()[0, 0, 0] == 7.0


def test_agent_and_gamma_come_from_the_manager():
    with SampleManager(models.QNet, "CartPole-v1", 2, 40, num_steps=20, gamma=0.8, seed=0, use_ray=False) as manager:
        learner = DQNLearner(manager, tf.keras.optimizers.Adam(), target_rate=0.01)
        assert learner.agent is manager.agent
        assert learner.gamma == 0.8
        assert learner.update(manager.get_data()).td_error.shape == (40,)
        with pytest.raises(InvalidValueError, match=r"expected gamma=0\.8, which the manager was made with, got 0\.9"):
            DQNLearner(manager, tf.keras.optimizers.Adam(), target_rate=0.01, gamma=0.9)


def manager_of(**settings):
    settings = {"num_steps": 20, "gamma": GAMMA, "seed": 0, "use_ray": False, "returns": ["episode_end"], **settings}
    return SampleManager(models.QNet, "CartPole-v1", 2, 40, **settings)


KEYS = ["state", "action", "reward", "state_new", "terminal", "episode_end"]


@pytest.mark.parametrize(("buffers", "learners"), [(3, 1), (1, 3), (2, 3), (3, 2)])
@pytest.mark.parametrize("buffer_first", [True, False])
def test_n_step_of_buffer_and_learner_must_agree(buffers, learners, buffer_first):
    with manager_of() as manager:
        make_buffer = lambda: manager.initialize_buffer(100, KEYS, n_step=buffers)  # noqa: E731
        make = lambda: DQNLearner(manager, tf.keras.optimizers.SGD(), target_rate=0.01, n_step=learners)  # noqa: E731
        message = f"expected n_step={buffers}, which the manager's buffer was made with, got {learners}"
        if buffer_first:
            make_buffer()
            with pytest.raises(InvalidValueError, match=message):
                make()
            return
        learner = make()
        make_buffer()
        manager.collect()
        with pytest.raises(InvalidValueError, match=message):
            learner.update(manager.sample(32))
        assert learner.updates_done == 0


def test_prioritized_n_step_batches_use_the_managers_gamma():
    with manager_of() as manager:
        manager.initialize_buffer(100, KEYS, n_step=3, alpha=0.6)
        assert manager.buffer.gamma == GAMMA
        learner = DQNLearner(manager, tf.keras.optimizers.SGD(RATE), target_rate=0.01, n_step=3)
        manager.collect()
        with manager.batches((2, 16), beta=lambda number: 0.4) as batches:
            batch = next(batches)
            found = learner.update(batch)
        assert manager.buffer.update_priorities(batch["index"], np.abs(found.td_error)) == 32


def test_a_gamma_that_differs_from_the_managers_is_refused():
    with manager_of() as manager:
        with pytest.raises(InvalidValueError, match=r"gamma: expected 0\.9, which the manager was made with, got 0\.8"):
            manager.initialize_buffer(100, KEYS, n_step=3, gamma=0.8)
        manager.buffer = ReplayBuffer(100, KEYS, n_step=3, gamma=0.8)
        with pytest.raises(InvalidValueError, match=r"expected gamma=0\.8, which the manager's buffer was .* got 0\.9"):
            DQNLearner(manager, tf.keras.optimizers.SGD(), target_rate=0.01, n_step=3)


def test_a_buffer_without_the_columns_is_refused_before_anything_is_collected():
    with manager_of() as manager:
        with pytest.raises(InvalidValueError, match=r"n_step: expected the keys .*; managers deliver 'episode_end'"):
            manager.initialize_buffer(100, n_step=3)
        manager.initialize_buffer(100, ["state", "action", "reward", "state_new", "not_done"])
        with pytest.raises(InvalidValueError, match=r"expected a buffer with .* missing: 'terminal'"):
            DQNLearner(manager, tf.keras.optimizers.SGD(), target_rate=0.01)


SETTINGS = [
    ({"target_rate": 0.1}, "expected one of target_every and target_rate, got 3 and 0.1"),
    ({"target_every": None}, "expected one of target_every and target_rate, got None and None"),
    ({"target_every": 0}, "target_every: expected an integer >= 1, got 0"),
    ({"target_every": None, "target_rate": 1.5}, "target_rate: expected a number from 1e-06 to 1, got 1.5"),
    ({"gamma": None}, "expected gamma with an Agent, which has none of its own, got None"),
    ({"gamma": 1.5}, "gamma: expected a number from 0 to 1, got 1.5"),
    ({"n_step": 0}, "n_step: expected an integer >= 1, got 0"),
    ({"huber_delta": 0}, "huber_delta: expected a finite number >= 1e-06, got 0"),
]


@pytest.mark.parametrize(("settings", "message"), SETTINGS)
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(InvalidValueError) as caught:
        learner_of(**settings)
    assert message in str(caught.value)


def policy_agent():
    make = lambda: build_model(models.Policy, {"num_logits": 3}, None, BOX)  # noqa: E731
    return Agent(make(), BOX, THREE, "discrete_policy", make_model=make)


class TwoHeads(tf.keras.Model):
    """A policy for three actions, and two q-values; acting reads only the policy."""

    def __init__(self):
        super().__init__()
        self.q, self.logits = tf.keras.layers.Dense(2), tf.keras.layers.Dense(3)

    def call(self, x):
        return {"q_values": self.q(x), "policy": self.logits(x)}


def test_models_that_do_not_fit_are_refused():
    with pytest.raises(ModelError, match=r"expected a model with output 'q_values', got one with 'policy', 'v_estim"):
        learner_of(policy_agent())
    box = Agent(build_model(models.ActorCritic, {}, None, BOX), BOX, spaces.Box(-1, 1, (2,)))
    with pytest.raises(ModelError, match=r"DQNLearner: expected a Discrete action space, got Box"):
        learner_of(box)
    two = Agent(build_model(TwoHeads, {}, None, BOX), BOX, THREE, "discrete_policy")
    with pytest.raises(ModelError, match=r"DQNLearner: .* 'q_values': expected shape \[1, 3\], got \[1, 2\]"):
        learner_of(two)
    table = Agent(models.Table(6, 2), spaces.Discrete(6), spaces.Discrete(2))
    with pytest.raises(ModelError, match="expected a Keras model to train, got Table"):
        learner_of(table)
    with pytest.raises(InvalidTypeError, match="expected a SampleManager or an Agent, got str"):
        learner_of("agent")


def test_an_optimizer_that_trains_another_model_is_refused():
    optimizer = tf.keras.optimizers.Adam()
    learner_of(optimizer=optimizer)
    with pytest.raises(InvalidValueError, match="expected an optimizer that trains nothing yet, got a Adam in use"):
        learner_of(optimizer=optimizer)
    with pytest.raises(InvalidTypeError, match="expected a Keras optimizer, got float"):
        learner_of(optimizer=0.001)


def without(name):
    return {key: rows for key, rows in batch_of(8).items() if key != name}


N_STEP = {**without("terminal"), "discount": np.full(8, GAMMA**2, np.float32)}
BATCHES = [
    ([], {}, InvalidTypeError, "DQNLearner.update: expected a dict of columns, got list"),
    (without("state_new"), {}, InvalidValueError, "missing: 'state_new'"),
    (without("terminal"), {}, InvalidValueError, "missing: 'terminal'"),
    (batch_of(8), {"n_step": 3}, InvalidValueError, "missing: 'discount'; a buffer with n_step=3 gives 'discount'"),
    (
        {**batch_of(8), "index": np.arange(8)},
        {},
        InvalidValueError,
        "expected a column 'weight' beside 'index', as batches drawn by priority have, got none",
    ),
    (
        {**batch_of(8), "weight": np.full(8, -1.0)},
        {},
        InvalidValueError,
        "column 'weight': expected numbers >= 0, got -1.0",
    ),
    (
        {**batch_of(8), "weight": np.full(8, math.nan)},
        {},
        InvalidValueError,
        "'weight': expected finite numbers, got nan",
    ),
    (
        {**batch_of(8), "reward": np.where(np.arange(8) == 3, math.inf, 0.0)},
        {},
        InvalidValueError,
        "column 'reward': expected finite numbers, got inf",
    ),
    (
        {**batch_of(8), "terminal": np.full(8, 1.5)},
        {},
        InvalidValueError,
        "column 'terminal': expected numbers from 0 to 1, got 1.5",
    ),
    (
        {**batch_of(8), "terminal": np.full(8, math.nan)},
        {},
        InvalidValueError,
        "expected numbers from 0 to 1, got nan",
    ),
    (batch_of(0), {}, InvalidValueError, "expected 'reward' of shape [row] or [update, row], not empty, got [0]"),
    (batch_of(2, 3, 4), {}, InvalidValueError, "of shape [row] or [update, row], not empty, got [2, 3, 4]"),
    (
        {**batch_of(8), "state": np.zeros((8, 5), np.float32)},
        {},
        InvalidValueError,
        "column 'state': expected shape [8, 4], as 'reward' has [8], got [8, 5]",
    ),
    (
        {**batch_of(8), "weight": np.ones(7, np.float32)},
        {},
        InvalidValueError,
        "column 'weight': expected shape [8], as 'reward' has [8], got [7]",
    ),
    (
        {**batch_of(8), "action": np.ones(8, np.float32)},
        {},
        InvalidTypeError,
        "column 'action': expected int64, got float32, which it cannot hold",
    ),
    (
        {**batch_of(8), "action": np.arange(8)},
        {},
        InvalidValueError,
        "column 'action': expected numbers from 5 to 7, got 0 to 7",
    ),
    (
        N_STEP,
        {},
        InvalidValueError,
        "column 'discount': expected 0 or gamma^k with gamma=0.9 and k from 1 to n_step=1, got 0.81; "
        "were the batches made with another gamma or n_step?",
    ),
    (
        {**N_STEP, "discount": np.full(8, 0.95**2, np.float32)},
        {"n_step": 3},
        InvalidValueError,
        "expected 0 or gamma^k with gamma=0.9 and k from 1 to n_step=3, got 0.9025",
    ),
    ({**N_STEP, "discount": np.full(8, math.nan)}, {"n_step": 3}, InvalidValueError, "got nan"),
]


@pytest.mark.parametrize(("name", "n_step"), [("action", 1), ("reward", 3)])
def test_n_step_is_named_only_if_it_gives_what_is_missing(name, n_step):
    batch = without(name) | {"discount": np.full(8, GAMMA, np.float32)}
    with pytest.raises(InvalidValueError, match=f"missing: '{name}'$"):
        learner_of(n_step=n_step).update(batch)


@pytest.mark.parametrize(("batch", "settings", "error", "message"), BATCHES)
def test_invalid_batches_are_refused_and_change_nothing(batch, settings, error, message):
    learner = learner_of(**settings)
    before = learner.agent.get_weights()
    with pytest.raises(error) as caught:
        learner.update(batch)
    assert message in str(caught.value)
    assert isinstance(caught.value, really.ReallyError)
    for old, new in zip(before, learner.agent.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert learner.updates_done == 0
