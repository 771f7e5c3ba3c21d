"""Keras 3 on PyTorch and on JAX: these tests run with KERAS_BACKEND=torch or jax (make test-frameworks)."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from gymnasium import spaces

BACKEND = os.environ.get("KERAS_BACKEND", "tensorflow")
if BACKEND not in ("torch", "jax"):
    pytest.skip("needs KERAS_BACKEND=torch or jax", allow_module_level=True)
keras = pytest.importorskip("keras")

from really import SampleManager  # noqa: E402
from really.agents.agent import Agent  # noqa: E402
from really.agents.models import build_model  # noqa: E402
from really.checkpoints.variables import check_framework  # noqa: E402
from really.errors import ModelError  # noqa: E402

BOX, TWO = spaces.Box(-np.inf, np.inf, (4,), np.float32), spaces.Discrete(2)
STATES = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
OPTIONS = {"num_steps": 10, "use_ray": False, "epsilon": 0.0, "action_sampling_type": "epsilon_greedy"}
# Variables of Keras 3.15 do not know how NumPy 2 copies.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
on_torch = pytest.mark.skipif(BACKEND != "torch", reason="modules of PyTorch")
on_jax = pytest.mark.skipif(BACKEND != "jax", reason="functions of JAX")


class QNet(keras.Model):
    """A subclass without a configuration, with dropout that is off while it acts."""

    def __init__(self, width=2, name="q_values"):
        super().__init__()
        self.output_name = name
        self.hidden, self.dropout = keras.layers.Dense(16, activation="relu"), keras.layers.Dropout(0.5)
        self.head = keras.layers.Dense(width)

    def call(self, x):
        return {self.output_name: self.head(self.dropout(self.hidden(x)))}


class Gaussian(QNet):
    def call(self, x):
        mu = self.head(self.hidden(x))
        return {"mu": mu, "sigma": keras.ops.softplus(mu) + 0.1}


def functional():
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(16, activation="relu")(inputs)
    return keras.Model(inputs, {"q_values": keras.layers.Dense(2)(hidden)})


def agent_of(model, actions=TWO, kind=None, **options):
    return Agent(build_model(model, {}, None, BOX), BOX, actions, kind, **options)


def array(value):
    return keras.ops.convert_to_numpy(value)


def always_right(agent):
    weights = [0 * weight for weight in agent.get_weights()]
    weights[-1][:] = [0.0, 1.0]
    return weights


@pytest.mark.parametrize("model", [QNet, functional, "instance"])
def test_runners_act_as_the_model(model):
    model = QNet() if model == "instance" else model
    with SampleManager(model, "CartPole-v1", 3, 60, returns=["log_prob"], seed=1, **OPTIONS) as manager:
        data, agent = manager.get_data(), manager.get_agent()
        expected = array(agent.model(data["state"])["q_values"]).argmax(1)
        np.testing.assert_array_equal(data["action"], expected)
        np.testing.assert_array_equal(agent.act(data["state"]), expected)
        info = manager.info()
        assert (info["framework"], info["inference"]) == (f"keras_{BACKEND}", BACKEND)
        version = info["policy_version"]
        for _ in range(2):
            manager.set_agent(always_right(agent))
        assert manager.info()["policy_version"] == version + 1
        assert manager.get_data()["action"].all()
        assert len(manager.test(20, 2)) == 2
        assert all(map(np.array_equal, agent.get_weights(), map(array, agent.model.weights)))


def test_equal_seeds_give_equal_models():
    weights = []
    for _ in range(2):
        with SampleManager(QNet, "CartPole-v1", 2, 20, seed=3, **OPTIONS) as manager:
            weights.append(manager.get_agent().get_weights())
    assert all(map(np.array_equal, *weights))


POLICIES = {
    "epsilon_greedy": ("epsilon_greedy", TWO, QNet),
    "thompson": ("thompson", spaces.Discrete(3, start=-1), lambda: QNet(3)),
    "categorical": ("discrete_policy", TWO, lambda: QNet(2, "policy")),
    "multi-discrete": ("discrete_policy", spaces.MultiDiscrete([2, 3]), lambda: QNet(5, "policy")),
    "multi-binary": ("discrete_policy", spaces.MultiBinary(3), lambda: QNet(3, "policy")),
    "normal": (None, spaces.Box(-9, 9, (2,)), Gaussian),
}


def gradients_of(agent, taken):
    """Those of the log-probability in the trainable variables, by the backend's own means."""
    if BACKEND == "torch":
        agent.flowing_log_prob(STATES, taken).sum().backward()
        return [parameter.grad.numpy() for parameter in agent.parameters()]
    import jax

    @jax.jit
    @jax.grad
    def gradient(given):
        return agent.with_parameters(given).flowing_log_prob(STATES, taken).sum()

    return [np.asarray(each) for each in gradient(agent.parameters())]


@pytest.mark.parametrize("name", POLICIES)
def test_the_log_probability_is_exact_and_has_gradients(name):
    kind, actions, make = POLICIES[name]
    agent = agent_of(make, actions, kind, epsilon=0.3, temperature=2.0)
    taken = agent.act(STATES)
    outputs = {key: array(value) for key, value in agent.model(STATES).items()}
    log_prob = array(agent.flowing_log_prob(STATES, taken))
    np.testing.assert_allclose(log_prob, agent.policy.log_prob(outputs, taken), rtol=1e-4, atol=1e-5)
    gradients = gradients_of(agent, taken)
    assert len(gradients) == 4
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    assert any(np.abs(gradient).max() > 0 for gradient in gradients) == (name != "epsilon_greedy")


def test_methods_are_functions_of_given_parameters():
    agent = agent_of(QNet, kind="epsilon_greedy")
    doubled = [2 * each for each in agent.parameters()]
    before, given = array(agent.max_q(STATES)), array(agent.with_parameters(doubled).max_q(STATES))
    agent.set_weights(doubled)
    np.testing.assert_allclose(given, array(agent.max_q(STATES)), rtol=1e-5)
    assert not np.array_equal(given, before)
    with pytest.raises(ModelError, match=r"agent.with_parameters: expected 4 values, .* got 1"):
        agent.with_parameters(doubled[:1])


def test_a_copy_shares_nothing():
    agent = agent_of(QNet())
    target = agent.copy()
    before = array(target.max_q(STATES))
    np.testing.assert_array_equal(before, array(agent.max_q(STATES)))
    agent.set_weights([weight + 1 for weight in agent.get_weights()])
    np.testing.assert_array_equal(before, array(target.max_q(STATES)))
    assert not np.array_equal(before, array(agent.max_q(STATES)))


def test_weights_that_do_not_fit_change_nothing():
    agent = agent_of(QNet)
    before = agent.get_weights()
    with pytest.raises(ModelError, match=r"weights: expected 4 arrays of shapes .* got 3"):
        agent.set_weights(before[:-1])
    with pytest.raises(ModelError, match=r"weights\[0\] \(.*kernel\): expected shape \[4, 16\], got \[16, 4\]"):
        agent.set_weights([before[0].T, *before[1:]])
    assert all(map(np.array_equal, before, agent.get_weights()))


class Noisy(QNet):
    def __init__(self):
        super().__init__()
        self.noise = keras.random.SeedGenerator(0)

    def call(self, x):
        q_values = super().call(x)["q_values"]
        return {"q_values": q_values + keras.random.normal((2,), seed=self.noise)}


def test_a_model_that_draws_random_numbers_is_told(caplog):
    with SampleManager(Noisy, "CartPole-v1", 2, 40, seed=0, **OPTIONS) as manager:
        assert "random numbers of its own" in manager.info()["inference_report"][BACKEND]
        # A compiled function would add the same noise in each call.
        states = np.tile(STATES[:1], (2, 1))
        forward = loaded(manager)
        assert not np.array_equal(forward([states])["q_values"].copy(), forward([states])["q_values"])
    assert "seed= repeats the environments" in caplog.text


def loaded(manager):
    from really.policies.inference import load

    forward = load(manager._current.exported.exported, 2)
    forward.set_weights(manager.agent.get_weights())
    return forward


def trained(model, optimizer, steps):
    """Weights after steps of training with a loss of Keras, the same in each backend."""
    model.compile(optimizer, loss={"q_values": "mse"})
    for _ in range(steps):
        model.train_on_batch(STATES, {"q_values": np.ones((16, 2), np.float32)})
    return [array(weight).copy() for weight in model.weights]


def test_a_checkpoint_resumes_model_target_and_optimizer_to_the_bit(tmp_path):
    def parts(rate):
        model, target = functional(), functional()
        return model, target, keras.optimizers.Adam(rate)

    model, target, optimizer = parts(0.01)
    with SampleManager(model, "CartPole-v1", 2, 40, seed=0, **OPTIONS) as manager:
        trained(model, optimizer, 3)
        manager.save_checkpoint(tmp_path, target=target, optimizer=optimizer, counters={"steps": 3})
        expected = trained(model, optimizer, 3)
    other, other_target, other_optimizer = parts(0.5)
    with SampleManager(other, "CartPole-v1", 2, 40, seed=0, **OPTIONS) as manager:
        assert manager.load_checkpoint(tmp_path, target=other_target, optimizer=other_optimizer) == {"steps": 3}
        assert float(array(other_optimizer.learning_rate)) == pytest.approx(0.01)
        assert all(map(np.array_equal, trained(other, other_optimizer, 3), expected))
        assert all(map(np.array_equal, map(array, other_target.weights), map(array, target.weights)))


def test_saved_models_are_those_of_keras_on_any_backend(tmp_path):
    with SampleManager(functional, "CartPole-v1", 2, 40, **OPTIONS) as manager:
        weights = manager.get_agent().get_weights()
        folder = manager.save_model(tmp_path, 7)
        loaded = keras.models.load_model(f"{folder}/model.keras")
        assert all(map(np.array_equal, map(array, loaded.weights), weights))
        manager.set_agent([weight + 1 for weight in weights])
        agent, epoch = manager.load_model(tmp_path)
        assert epoch == 7
        assert all(map(np.array_equal, agent.get_weights(), weights))
    check_framework("x", "tensorflow", f"keras_{BACKEND}")
    with pytest.raises(ModelError, match=f"expected a model of keras_{BACKEND}, as this one, got one of {BACKEND}"):
        check_framework("x", BACKEND, f"keras_{BACKEND}")


def test_a_backend_that_is_changed_after_the_import_is_named(monkeypatch):
    other = "jax" if BACKEND == "torch" else "torch"
    monkeypatch.setenv("KERAS_BACKEND", other)
    with pytest.raises(ModelError, match=f"KERAS_BACKEND={BACKEND}, with which Keras was imported, got .*={other}: "):
        SampleManager(QNet, "CartPole-v1", 2, 20, **OPTIONS)
    monkeypatch.setattr(keras.config, "backend", lambda: other)
    with pytest.raises(ModelError, match=f"backend that Keras has now, '{other}', got one made with '{BACKEND}'"):
        SampleManager(QNet, "CartPole-v1", 2, 20, **OPTIONS)


@on_torch
def test_modules_of_pytorch_in_a_model_act_in_evaluation_mode_and_their_statistics_travel():
    import torch

    class Mixed(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm, self.drop = torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.5)
            self.head = keras.layers.Dense(2)
            self.scale = torch.nn.Parameter(torch.ones(2))

        def call(self, x):
            return {"q_values": self.head(self.drop(self.norm(x))) * self.scale}

    model = Mixed()
    with SampleManager(model, "CartPole-v1", 2, 40, **OPTIONS) as manager:
        weights = manager.get_agent().get_weights()
        assert [weight.shape for weight in weights] == [(4,), (4,), (4, 2), (2,), (2,), (4,), (4,), ()]
        weights[5][:] = [1.0, 2.0, 3.0, 4.0]
        manager.set_agent(weights)
        np.testing.assert_array_equal(model.norm.module.running_mean.numpy(), [1, 2, 3, 4])
        data, agent = manager.get_data(), manager.get_agent()
        np.testing.assert_array_equal(agent.act(data["state"]), data["action"])
        np.testing.assert_array_equal(model.norm.module.running_mean.numpy(), [1, 2, 3, 4])
        assert np.array_equal(agent.copy().get_weights()[5], [1, 2, 3, 4])
        with pytest.raises(ModelError, match=r"variables of Keras alone, got tensors of PyTorch: .*'scale'"):
            agent.with_parameters(agent.parameters())


@on_torch
def test_an_optimizer_of_pytorch_trains_the_parameters_and_is_saved(tmp_path):
    import torch

    model = functional()
    with SampleManager(model, "CartPole-v1", 2, 40, **OPTIONS) as manager:
        agent = manager.agent
        optimizer = torch.optim.Adam(agent.parameters(), 0.01)
        agent.max_q(STATES).mean().backward()
        optimizer.step()
        manager.save_checkpoint(tmp_path, optimizer=optimizer)
        manager.load_checkpoint(tmp_path, optimizer=optimizer)


@on_jax
def test_a_runner_calls_a_compiled_function():
    traced = []

    class Counted(QNet):
        def call(self, x):
            traced.append(len(traced))
            return super().call(x)

    with SampleManager(Counted, "CartPole-v1", 2, 40, **OPTIONS) as manager:
        manager.get_data()
        before = len(traced)
        manager.set_agent([weight + 1 for weight in manager.get_agent().get_weights()])
        manager.get_data()
        assert len(traced) == before


SCRIPT = """
import sys
import keras
from really import SampleManager
if __name__ == "__main__":
    inputs = keras.Input((4,))
    model = keras.Model(inputs, {"q_values": keras.layers.Dense(2)(inputs)})
    options = {"num_steps": 10, "epsilon": 0.0, "action_sampling_type": "epsilon_greedy"}
    # Ray's processes may have another environment than this one.
    import os, ray
    backend = os.environ.pop("KERAS_BACKEND")
    ray.init("local", num_cpus=1, include_dashboard=False)
    os.environ["KERAS_BACKEND"] = backend
    with SampleManager(model, "CartPole-v1", 2, 40, **options) as manager:
        data, agent = manager.get_data(), manager.get_agent()
        assert (agent.act(data["state"]) == data["action"]).all()
        assert not manager.info()["runners"][0]["tensorflow"]
"""


@pytest.mark.slow
def test_runners_with_a_process_of_their_own_have_the_same_backend(tmp_path):
    pytest.importorskip("ray")
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
