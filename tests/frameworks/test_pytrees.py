"""Checkpoints of runs in JAX: states of optimizers and target parameters come back to the bit, and to nothing else."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from really import SampleManager
from really.checkpoints import Pytree
from really.errors import InvalidTypeError, ModelError

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")
jnp = jax.numpy
STATES = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
OPTIONS = {"num_steps": 10, "use_ray": False, "epsilon": 0.0, "action_sampling_type": "epsilon_greedy"}
OPTIMIZERS = {
    "adam": lambda: optax.adam(optax.linear_schedule(1e-2, 1e-3, 10)),
    "chain": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.rmsprop(1e-2, momentum=0.9)),
    "half": lambda: optax.adam(1e-2, mu_dtype=jnp.bfloat16),
    "hyperparameters": lambda: optax.inject_hyperparams(optax.adamw)(learning_rate=1e-2),
    "noise": lambda: optax.add_noise(0.1, 0.5, key=jax.random.key(3)),
    "sgd": lambda: optax.sgd(1e-2),
}


def q_network(parameters, state):
    hidden = jnp.tanh(state @ parameters["hidden"])
    return {"q_values": hidden @ parameters["q"]}


def begin(seed=0):
    one, two = jax.random.split(jax.random.key(seed))
    return {"hidden": jax.random.normal(one, (4, 8)), "q": jax.random.normal(two, (8, 2))}


def trained(optimizer, parameters, state, steps):
    for _ in range(steps):
        gradients = jax.grad(lambda given: jnp.mean((q_network(given, STATES)["q_values"] - 1) ** 2))(parameters)
        changes, state = optimizer.update(gradients, state, parameters)
        parameters = optax.apply_updates(parameters, changes)
    return parameters, state


def manager_of(parameters):
    return SampleManager((q_network, parameters), "CartPole-v1", 2, 40, seed=0, **OPTIONS)


def numbers(tree):
    leaves = jax.tree.leaves(tree)
    return [np.asarray(jax.random.key_data(leaf) if "key<" in str(leaf.dtype) else leaf) for leaf in leaves]


def equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    return all(map(np.array_equal, numbers(one), numbers(other)))


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_checkpoint_resumes_parameters_targets_and_optimizer_to_the_bit(kind, tmp_path):
    optimizer, target = OPTIMIZERS[kind](), begin(1)
    parameters, state = trained(optimizer, begin(), optimizer.init(begin()), 3)
    with manager_of(parameters) as manager:
        manager.save_checkpoint(tmp_path, target=Pytree(target), optimizer=Pytree(state), counters={"steps": 3})
    expected = trained(optimizer, parameters, state, 3)
    held, held_target = Pytree(optimizer.init(begin(5))), Pytree(begin(6))
    with manager_of(begin(5)) as manager:
        assert manager.load_checkpoint(tmp_path, target=held_target, optimizer=held) == {"steps": 3}
        assert equal(held_target.value, target)
        assert equal(held.value, state)
        assert [leaf.dtype for leaf in jax.tree.leaves(held.value)] == [leaf.dtype for leaf in jax.tree.leaves(state)]
        found = trained(optimizer, manager.get_agent().parameters(), held.value, 3)
    assert all(map(equal, found, expected))


def test_an_optimizer_of_flax_resumes_to_the_bit(tmp_path):
    nnx = pytest.importorskip("flax.nnx")

    class Net(nnx.Module):
        def __init__(self, seed):
            self.q = nnx.Linear(4, 2, rngs=nnx.Rngs(seed))

        def __call__(self, x):
            return {"q_values": self.q(x)}

    def steps(net, optimizer):
        for _ in range(3):
            optimizer.update(net, nnx.grad(lambda given: jnp.mean((given(STATES)["q_values"] - 1) ** 2))(net))
        return nnx.state(net)

    def parts(seed):
        net = Net(seed)
        return net, nnx.Optimizer(net, optax.adam(1e-2), wrt=nnx.Param)

    net, optimizer = parts(0)
    steps(net, optimizer)
    with SampleManager(net, "CartPole-v1", 2, 40, **OPTIONS) as manager:
        manager.save_checkpoint(tmp_path, optimizer=optimizer)
    expected = steps(net, optimizer)
    other, other_optimizer = parts(7)
    with SampleManager(other, "CartPole-v1", 2, 40, **OPTIONS) as manager:
        manager.load_checkpoint(tmp_path, optimizer=other_optimizer)
    assert equal(steps(other, other_optimizer), expected)


def test_files_hold_arrays_by_their_paths_and_no_pickle(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    state = optax.adam(1e-3).init(begin())
    with manager_of(begin()) as manager:
        folder = manager.save_checkpoint(tmp_path, optimizer=Pytree(state))
    found = safetensors.load_file(f"{folder}/optimizer.safetensors")
    assert sorted(found) == [
        "[0].count",
        *(f"[0].{kind}['{name}']" for kind in ("mu", "nu") for name in ("hidden", "q")),
    ]
    with open(f"{folder}/optimizer.safetensors", "rb") as file, pytest.raises(pickle.UnpicklingError):
        pickle.load(file)


WRONG = {
    "another optimizer": (
        lambda: optax.sgd(1e-2, momentum=0.9).init(begin()),
        r"expected weights of this optimizer \(\[0\].trace\['hidden'\] \[4, 8\], .*first difference",
    ),
    "another shape": (
        lambda: optax.adam(1e-2).init({"hidden": jnp.zeros((4, 9)), "q": jnp.zeros((9, 2))}),
        r"expected \[0\].mu\['hidden'\] \[4, 9\], got \[0\].mu\['hidden'\] \[4, 8\]",
    ),
    "another kind of numbers": (
        lambda: jax.tree.map(lambda leaf: leaf.astype(jnp.int32), optax.adam(1e-2).init(begin())),
        r"\[0\].mu\['hidden'\]: expected int32, got float32",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_pytree_of_another_optimizer_changes_nothing(name, tmp_path):
    make, message = WRONG[name]
    with manager_of(begin()) as manager:
        manager.save_checkpoint(tmp_path, optimizer=Pytree(optax.adam(1e-2).init(begin())))
        manager.set_agent(begin(3))
        held = Pytree(make())
        before = held.value
        with pytest.raises(ModelError, match=message):
            manager.load_checkpoint(tmp_path, optimizer=held)
        assert held.value is before
        assert equal(manager.get_agent().parameters(), begin(3))


def test_what_is_no_pytree_of_numbers_is_told(tmp_path):
    with manager_of(begin()) as manager:
        with pytest.raises(InvalidTypeError, match=r"optimizer: .* as really.checkpoints.Pytree\(state\), got tuple"):
            manager.save_checkpoint(tmp_path, optimizer=optax.adam(1e-2).init(begin()))
        with pytest.raises(
            InvalidTypeError, match=r"target.hidden: .* as really.checkpoints.Pytree\(parameters\), got "
        ):
            manager.save_checkpoint(tmp_path, target=begin())
        with pytest.raises(ModelError, match=r"optimizer: expected a pytree of numbers, got str at \['name'\]"):
            manager.save_checkpoint(tmp_path, optimizer=Pytree({"name": "adam"}))
    assert not list(tmp_path.glob("checkpoint_*"))


def test_a_pytree_beside_a_model_of_another_framework_is_refused(tmp_path):
    def table(state):
        return {"q_values": state[:, :2]}

    with (
        SampleManager(table, "CartPole-v1", 2, 40, **OPTIONS) as manager,
        pytest.raises(InvalidTypeError, match=r"optimizer: expected the framework 'callable' of .* got 'jax'"),
    ):
        manager.save_checkpoint(tmp_path, optimizer=Pytree({"step": 1}))
