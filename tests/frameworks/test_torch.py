"""Modules of PyTorch as models: acting, weights, differentiable methods, files, and what is refused."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest
from gymnasium import spaces

from really import SampleManager
from really.agents.agent import Agent
from really.agents.models import build_model
from really.checkpoints.torch_optimizers import TorchOptimizerArrays
from really.errors import InvalidTypeError, ModelError
from really.policies.inference import load
from really.policies.states import state_of

torch = pytest.importorskip("torch")
nn = torch.nn
BOX, TWO = spaces.Box(-np.inf, np.inf, (4,), np.float32), spaces.Discrete(2)
STATES = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
OPTIONS = {"num_steps": 10, "use_ray": False, "epsilon": 0.0, "action_sampling_type": "epsilon_greedy"}


class QNet(nn.Module):
    def __init__(self, num_actions=2, hidden=16):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, num_actions))

    def forward(self, x):
        return {"q_values": self.net(x)}


class Trained(nn.Module):
    """Dropout and running statistics, which only training may change."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 2))

    def forward(self, x):
        return {"q_values": self.net(x), "v_estimate": self.net(x).mean(-1)}


class Gaussian(nn.Module):
    """A `sigma` without a batch axis."""

    def __init__(self):
        super().__init__()
        self.mu, self.log_std = nn.Linear(4, 2), nn.Parameter(torch.zeros(2))

    def forward(self, x):
        return {"mu": self.mu(x), "sigma": self.log_std.exp()}


class Several(nn.Module):
    """Logits for a space of this many numbers."""

    def __init__(self, width, name="policy"):
        super().__init__()
        self.head, self.name = nn.Linear(4, width), name

    def forward(self, x):
        return {self.name: self.head(x)}


def agent_of(model, actions=TWO, kind=None, space=BOX, **options):
    return Agent(build_model(model, {}, None, space), space, actions, kind, **options)


def loaded(manager):
    return manager._current.exported.exported


def test_a_class_acts_in_runners_as_the_module_itself():
    with SampleManager(QNet, "CartPole-v1", 3, 60, returns=["log_prob"], seed=1, **OPTIONS) as manager:
        data, agent = manager.get_data(), manager.get_agent()
        with torch.no_grad():
            q_values = agent.model(torch.from_numpy(data["state"]))["q_values"]
        np.testing.assert_array_equal(data["action"], q_values.argmax(1))
        np.testing.assert_array_equal(agent.act(data["state"]), data["action"])
        info = manager.info()
        assert info["framework"] == "torch"
        assert info["inference"] == "numpy"
        assert "on one thread" in info["inference_report"]["torch"]
        assert not info["runners"][0]["tensorflow"] or "tensorflow" in sys.modules


def test_equal_seeds_give_equal_modules_and_leave_the_generator_alone():
    state = torch.get_rng_state()
    weights = []
    for _ in range(2):
        with SampleManager(QNet, "CartPole-v1", 2, 20, seed=3, **OPTIONS) as manager:
            weights.append(manager.get_agent().get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("form", ["list", "state_dict"])
def test_new_weights_reach_the_runners_once_per_change(form):
    module = QNet()
    with SampleManager(module, "CartPole-v1", 2, 40, **OPTIONS) as manager:
        agent = manager.get_agent()
        assert agent.model is module
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.zero_()
            module.net[-1].bias.copy_(torch.tensor([0.0, 1.0]))
        version = manager.info()["policy_version"]
        for _ in range(2):
            manager.set_agent(agent.get_weights() if form == "list" else module.state_dict())
        assert manager.info()["policy_version"] == version + 1
        assert manager.get_data()["action"].all()
        assert list(agent.parameters()) == list(module.state_dict())


def test_acting_leaves_mode_and_statistics_as_they_are():
    module = Trained().train()
    module.net[1].eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with SampleManager(module, "CartPole-v1", 2, 40, **OPTIONS) as manager:
        data, agent = manager.get_data(), manager.get_agent()
        agent.act(STATES)
        assert torch.equal(agent.max_q(STATES), agent.max_q(STATES))
        manager.test(50, 2)
    assert [module.training, module.net[1].training, module.net[2].training] == [True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    module.eval()
    with torch.no_grad():
        expected = module(torch.from_numpy(data["state"]))["q_values"].argmax(1)
    np.testing.assert_array_equal(data["action"], expected)


POLICIES = {
    "epsilon_greedy": ("epsilon_greedy", TWO, lambda: Several(2, "q_values")),
    "thompson": ("thompson", spaces.Discrete(3, start=-1), lambda: Several(3, "q_values")),
    "categorical": ("discrete_policy", TWO, lambda: Several(2)),
    "multi-discrete": ("discrete_policy", spaces.MultiDiscrete([2, 3]), lambda: Several(5)),
    "multi-binary": ("discrete_policy", spaces.MultiBinary(3), lambda: Several(3)),
    "normal": (None, spaces.Box(-9, 9, (2,)), Gaussian),
    "squashed": ("continuous_squashed_normal", spaces.Box(-9, 9, (2,)), Gaussian),
}


@pytest.mark.parametrize("name", POLICIES)
def test_the_log_probability_is_exact_and_passes_gradients(name):
    kind, actions, make = POLICIES[name]
    agent = agent_of(make, actions, kind, epsilon=0.3, temperature=2.0)
    taken = agent.act(STATES)
    log_prob, entropy = agent.flowing_log_prob(STATES, taken, return_entropy=True)
    with torch.no_grad():
        outputs = {key: value.numpy() for key, value in agent.model(torch.from_numpy(STATES)).items()}
    np.testing.assert_allclose(log_prob.detach(), agent.policy.log_prob(outputs, taken), rtol=1e-4, atol=1e-5)
    (log_prob.sum() + entropy.sum()).backward()
    gradients = [parameter.grad for parameter in agent.model.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)
    assert any(gradient.abs().max() > 0 for gradient in gradients) == (name != "epsilon_greedy")


def test_values_are_those_of_the_module_and_pass_gradients():
    agent = agent_of(QNet, kind="epsilon_greedy")
    q_values = agent.model(torch.from_numpy(STATES))["q_values"]
    actions = np.arange(16) % 2
    assert torch.equal(agent.max_q(STATES), q_values.amax(1))
    assert torch.equal(agent.v(STATES), q_values.amax(1))
    assert torch.equal(agent.q_val(STATES, actions), q_values[torch.arange(16), torch.as_tensor(actions)])
    assert agent.q_val(STATES[0], 1).shape == ()
    agent.q_val(torch.from_numpy(STATES), torch.as_tensor(actions)).mean().backward()
    assert agent.model.net[0].weight.grad.abs().max() > 0


class Keeps(QNet):
    """Leaves what it computed in its attributes, as many modules do for a look at it."""

    def forward(self, x):
        self.seen = self.net[0](x)
        self.shown = {"relu": [self.net[1](self.seen)]}
        return {"q_values": self.net[2](self.shown["relu"][0])}


@pytest.mark.parametrize("model", [Keeps, Keeps()])
def test_a_module_may_keep_what_it_computed(model):
    with SampleManager(model, "CartPole-v1", 2, 40, **OPTIONS) as manager:
        data, agent = manager.get_data(), manager.get_agent()
        agent.q_val(data["state"], data["action"]).sum().backward()
        assert type(agent.model.seen) is type(agent.model.shown["relu"][0]) is torch.Tensor
        assert agent.model.seen.requires_grad
        other = agent.copy()
        assert torch.equal(other.max_q(data["state"]), agent.max_q(data["state"]))
        manager.set_agent(agent.get_weights())
        assert len(manager.get_data()["action"]) == 40


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.LazyLinear(2)

    def forward(self, x):
        return {"q_values": self.head(x)}


@pytest.mark.parametrize("model", [Lazy, lambda: Lazy()])
def test_runners_act_with_a_lazy_module(model):
    with SampleManager(model, "CartPole-v1", 2, 20, **OPTIONS) as manager:
        data = manager.get_data()
        np.testing.assert_array_equal(manager.get_agent().act(data["state"]), data["action"])


def test_a_copy_shares_nothing():
    agent = agent_of(QNet)
    target = agent.copy()
    assert torch.equal(target.max_q(STATES), agent.max_q(STATES))
    with torch.no_grad():
        agent.model.net[0].weight.add_(1)
    assert not torch.equal(target.max_q(STATES), agent.max_q(STATES))
    target.set_weights(agent.parameters())
    assert torch.equal(target.max_q(STATES), agent.max_q(STATES))


def test_observations_of_several_parts_and_integers():
    space = spaces.Dict({"image": spaces.Box(0, 255, (8, 8, 1), np.uint8), "speed": spaces.Box(-1, 1, (2,))})

    class Parts(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.LazyLinear(3)

        def forward(self, x):
            assert x["image"].dtype == torch.uint8
            flat = x["image"].flatten(1).float() / 255
            return {"policy": self.head(torch.cat([flat, x["speed"]], 1))}

    agent = agent_of(Parts, spaces.Discrete(3), space=space)
    state = space.sample()
    assert agent.act(state).shape == ()
    assert agent.flowing_log_prob(state, 1).shape == ()


@pytest.mark.parametrize("kind", ["bfloat16", "float64"])
def test_weights_of_other_widths_keep_their_values(kind):
    class Other(QNet):
        def forward(self, x):
            return {"q_values": self.net(x.to(self.net[0].weight.dtype))}

    module = Other().to(getattr(torch, kind))
    with SampleManager(module, "CartPole-v1", 2, 40, **OPTIONS) as manager:
        data, agent = manager.get_data(), manager.get_agent()
        np.testing.assert_array_equal(agent.act(data["state"]), data["action"])
        before = [value.clone() for value in module.state_dict().values()]
        manager.set_agent(agent.get_weights())
        assert all(torch.equal(*pair) for pair in zip(before, module.state_dict().values(), strict=True))
        assert agent.max_q(STATES).dtype == torch.float32


def test_weights_in_64_bits_without_a_cast_say_what_to_do():
    with pytest.raises(ModelError, match=r"observations are float32 and its weights are float64: call .float\(\)"):
        build_model(QNet().double(), None, None, BOX)


class Random(QNet):
    def forward(self, x):
        return {"q_values": self.net(x) + torch.rand(2)}


def test_a_module_that_draws_random_numbers_is_told(caplog):
    with SampleManager(Random, "CartPole-v1", 2, 40, seed=0, **OPTIONS) as manager:
        assert "random numbers of its own" in manager.info()["inference_report"]["torch"]
        assert len(manager.get_data()["action"]) >= 40
    assert "seed= repeats the environments" in caplog.text


class NamesDevice(QNet):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (lambda found: found[:-1], r"weights: expected 4 arrays of shapes .* got 3"),
        (
            lambda found: [found[0].T, *found[1:]],
            r"weights\[0\] \(net.0.weight\): expected shape \[16, 4\], got \[4, 16\]",
        ),
        (
            lambda found: {"net.0.weight": found[0], "other": found[1]},
            "state_dict of this QNet with 4 keys, got one with missing: 'net.0.bias', .*; unexpected: 'other'",
        ),
        (
            lambda found: QNet().state_dict() | {"net.0.bias": torch.zeros(16, device="meta")},
            r"weights\[1\] \(net.0.bias\): expected a tensor of numbers, got NotImplementedError: .*meta tensor",
        ),
        (
            lambda found: QNet().state_dict() | {"net.0.bias": None},
            r"weights\[1\] \(net.0.bias\): expected a tensor of numbers, got NoneType None",
        ),
        (
            lambda found: QNet().state_dict() | {"net.0.bias": torch.zeros(16).to_sparse()},
            r"weights\[1\] \(net.0.bias\): expected a tensor of numbers, got TypeError: .*to_dense",
        ),
    ],
)
def test_weights_that_do_not_fit_change_nothing(weights, message):
    agent = agent_of(QNet)
    before = agent.get_weights()
    with pytest.raises(ModelError, match=message):
        agent.set_weights(weights(before))
    assert all(map(np.array_equal, before, agent.get_weights()))


def test_a_module_that_cannot_be_copied_says_what_to_do():
    with pytest.raises(ModelError, match=r"got an instance of NamesDevice: .*lock.*give its class, or a function"):
        SampleManager(NamesDevice(), "CartPole-v1", 2, 20, **OPTIONS)
    with SampleManager(NamesDevice, "CartPole-v1", 2, 20, **OPTIONS) as manager:
        assert len(manager.get_data()["action"]) == 20


def test_outputs_that_are_no_dict_are_refused():
    with pytest.raises(ModelError, match=r"model output: expected a dict .* got Tensor"):
        build_model(nn.Linear(4, 2), None, None, BOX)
    with pytest.raises(ModelError, match=r"expected QNet to take observations .* got RuntimeError"):
        build_model(QNet, None, None, spaces.Box(-1, 1, (5,)))


def test_a_replaced_part_is_exported_again():
    with SampleManager(QNet, "CartPole-v1", 2, 40, **OPTIONS) as manager:
        agent = manager.agent
        agent.model.net[2] = nn.Linear(16, 2)
        with torch.no_grad():
            agent.model.net[2].weight.zero_()
            agent.model.net[2].bias.copy_(torch.tensor([0.0, 1.0]))
        manager.set_agent(agent.get_weights())
        assert manager.get_data()["action"].all()


def test_a_runners_model_is_none_of_the_learners():
    with SampleManager(QNet(), "CartPole-v1", 2, 40, **OPTIONS) as manager:
        forward = load(loaded(manager), 2)
        forward.set_weights([weight + 1 for weight in manager.agent.get_weights()])
        own = state_of(manager.agent.model)
        assert not any(np.array_equal(a, a + 1) for a in own.get())


SCRIPT = """
import sys
import numpy as np, torch
from really import SampleManager
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.q = torch.nn.Linear(4, 2)
    def forward(self, x):
        return {"q_values": self.q(x)}
with SampleManager(Net, "CartPole-v1", 2, 20, use_ray=False) as manager:
    manager.initialize_buffer(100)
    manager.collect()
    agent, batch = manager.get_agent(), manager.sample(4)
    agent.act(batch["state"]), agent.max_q(batch["state"]), agent.copy()
    manager.set_agent(agent.get_weights())
    manager.test(20, 2)
found = [name for name in ("tensorflow", "keras", "jax") if name in sys.modules]
assert not found, found
"""


def test_only_pytorch_is_imported():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def trained(module, optimizer, steps):
    states = torch.from_numpy(STATES)
    for _ in range(steps):
        optimizer.zero_grad()
        (module(states)["q_values"] - 1).pow(2).mean().backward()
        optimizer.step()
    return [value.clone() for value in module.state_dict().values()]


@pytest.mark.parametrize("kind", ["Adam", "AdamW", "SGD", "RMSprop"])
def test_a_checkpoint_resumes_module_target_and_optimizer_to_the_bit(kind, tmp_path):
    def parts(rate):
        module = QNet()
        options = {"SGD": {"momentum": 0.9}, "AdamW": {"amsgrad": True}}.get(kind, {})
        return module, QNet(), getattr(torch.optim, kind)(module.parameters(), rate, **options)

    module, target, optimizer = parts(0.01)
    with SampleManager(module, "CartPole-v1", 2, 40, seed=0, **OPTIONS) as manager:
        trained(module, optimizer, 3)
        manager.save_checkpoint(tmp_path, target=target, optimizer=optimizer, counters={"steps": 3})
        expected = trained(module, optimizer, 3)
    other, other_target, other_optimizer = parts(0.5)
    with SampleManager(other, "CartPole-v1", 2, 40, seed=0, **OPTIONS) as manager:
        assert manager.load_checkpoint(tmp_path, target=other_target, optimizer=other_optimizer) == {"steps": 3}
        assert other_optimizer.param_groups[0]["lr"] == 0.01
        assert all(map(torch.equal, trained(other, other_optimizer, 3), expected))
        assert torch.equal(other_target.net[0].weight, target.net[0].weight)
        with pytest.raises(ModelError, match=r"expected shapes|expected class"):
            manager.load_checkpoint(tmp_path, target=target, optimizer=torch.optim.Adam([nn.Parameter(torch.zeros(3))]))
        assert all(map(torch.equal, other.state_dict().values(), expected))


def test_saved_models_are_state_dicts_in_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    options = {**OPTIONS, "normalize_observations": True}
    with SampleManager(QNet, "CartPole-v1", 2, 40, **options) as manager:
        manager.get_data()
        manager.set_agent([weight + 1 for weight in manager.get_agent().get_weights()])
        folder = manager.save_model(tmp_path, 7)
        weights, state = manager.get_agent().get_weights(), np.ones(4, np.float32)
        normal = manager.get_agent().normalize(state)
    QNet().load_state_dict(safetensors.load_file(f"{folder}/model.safetensors"))
    with SampleManager(QNet, "CartPole-v1", 2, 40, **options) as manager:
        agent, epoch = manager.load_model(tmp_path)
        assert epoch == 7
        assert all(map(np.array_equal, agent.get_weights(), weights))
        np.testing.assert_array_equal(agent.normalize(state), normal)

    def callable_model(state):
        return {"q_values": state[:, :2]}

    with (
        SampleManager(callable_model, "CartPole-v1", 2, 40, **options) as manager,
        pytest.raises(ModelError, match="expected a model of callable, as this one, got one of torch"),
    ):
        manager.load_model(tmp_path)


def test_a_target_or_optimizer_of_another_framework_is_refused(tmp_path):
    def table(state):
        return {"q_values": state[:, :2]}

    with SampleManager(table, "CartPole-v1", 2, 40, **OPTIONS) as manager:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(3))], 0.1)
        with pytest.raises(InvalidTypeError, match=r"optimizer: expected the framework 'callable' of .* got 'torch'"):
            manager.save_checkpoint(tmp_path, optimizer=optimizer)


def test_an_optimizer_whose_state_is_no_tensors_is_named(tmp_path):
    module = QNet()
    optimizer = torch.optim.LBFGS(module.parameters(), 0.1)

    def closure():
        optimizer.zero_grad()
        loss = module(torch.from_numpy(STATES))["q_values"].pow(2).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    with (
        SampleManager(module, "CartPole-v1", 2, 40, **OPTIONS) as manager,
        pytest.raises(ModelError, match=r"expected a state of tensors and numbers, got list at '0.al' of LBFGS"),
    ):
        manager.save_checkpoint(tmp_path, optimizer=optimizer)
    assert not list(tmp_path.glob("checkpoint_*"))


def test_a_saved_optimizer_of_another_framework_is_named(tmp_path):
    of_torch = TorchOptimizerArrays("optimizer", torch.optim.Adam(QNet().parameters(), 0.1))
    assert of_torch.about()["framework"] == "torch"
    for other in ("jax", "tensorflow"):
        saved = {**of_torch.about(), "framework": other}
        with pytest.raises(ModelError, match=f"expected an optimizer of torch, as this one, got one of {other}"):
            of_torch.read(tmp_path / "optimizer.safetensors", saved)


def test_methods_are_functions_of_given_parameters():
    agent = agent_of(QNet, kind="epsilon_greedy")
    given = {name: value.detach().clone() for name, value in agent.parameters().items()}
    actions = np.arange(16) % 2

    def loss(parameters):
        return agent.with_parameters(parameters).q_val(STATES, actions).mean()

    gradients = torch.func.grad(loss)(given)
    agent.q_val(STATES, actions).mean().backward()
    for name, parameter in agent.model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad)
    with pytest.raises(ModelError, match=r"agent.with_parameters: expected a model of JAX or PyTorch"):
        agent_of(lambda state: {"q_values": state[:, :2]}).with_parameters({})


def test_given_parameters_are_those_of_the_module():
    agent = agent_of(Trained, kind="epsilon_greedy")
    given = dict(agent.model.named_parameters())
    assert torch.equal(agent.with_parameters(given).max_q(STATES), agent.max_q(STATES))
    assert torch.equal(agent.with_parameters(agent.parameters()).max_q(STATES), agent.max_q(STATES))
    renamed = {f"module.{name}" if name == "net.0.bias" else name: value for name, value in given.items()}
    message = r"parameters of this Trained by their names, got missing: 'net.0.bias'; unexpected: 'module.net.0.bias'$"
    with pytest.raises(ModelError, match=message):
        agent.with_parameters(renamed)
    with pytest.raises(ModelError, match=r"as dict\(module.named_parameters\(\)\) .* gives them, got list$"):
        agent.with_parameters(list(given.values()))
