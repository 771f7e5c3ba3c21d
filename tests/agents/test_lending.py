"""Lent agents: each name has weights of its own, and an agent that is got again keeps its variables."""

import copy
import gc

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from really import SampleManager
from really.agents.agent import Agent
from really.agents.lending import Lender
from really.agents.models import build_model
from really.errors import ModelError
from really.learners import DQNLearner
from tests import models

BOX, TWO = spaces.Box(-1, 1, (1,)), spaces.Discrete(2)
STATE = np.ones((1, 4), np.float32)


class Tiny(keras.Model):
    def __init__(self):
        super().__init__()
        self.q = self.add_weight(shape=(2,), initializer="zeros")

    def call(self, x):
        return {"q_values": 0 * x + self.q}


def lender_of():
    make = lambda: build_model(Tiny, {}, None, BOX)  # noqa: E731
    return Lender(Agent(make(), BOX, TWO, make_model=make))


def train(agent, by=1.0):
    for variable in agent.model.trainable_variables:
        variable.assign_add(tf.fill(variable.shape, by))


def values(agent):
    return agent.get_weights()[0].tolist()


NAMES = st.sampled_from("abc")


class Names(RuleBasedStateMachine):
    """Names get agents, are trained, copied from and deleted in any order; an oracle holds what each must have."""

    @initialize()
    def start(self):
        self.lender, self.own = lender_of(), [0.0, 0.0]
        # What each name has. None for an agent that was trained: what the owner has by then is open.
        self.names, self.expected, self.count = {}, {}, 0

    def check(self):
        for name, expected in self.expected.items():
            if name in self.used:
                assert values(self.names[name]) == expected
        used = [id(self.names[name].model) for name in self.names if name in self.used]
        assert len(used) == len(set(used))

    used: set

    @initialize()
    def none_used(self):
        self.used = set()

    @rule(name=NAMES)
    def get(self, name):
        self.names[name] = self.lender.lend("here")
        self.used.discard(name)
        self.expected[name] = self.lender.own.get_weights()[0].tolist()
        self.check()

    @rule(name=NAMES)
    def train(self, name):
        if name in self.names:
            before = self.expected[name]
            assert values(self.names[name]) == before
            self.count += 1
            train(self.names[name], self.count)
            self.used.add(name)
            self.expected[name] = [value + self.count for value in before]
            self.check()

    @rule(name=NAMES)
    def read(self, name):
        if name in self.names:
            assert values(self.names[name]) == self.expected[name]
            assert np.asarray(self.names[name].model(STATE[:, :1])["q_values"])[0].tolist() == self.expected[name]
            self.used.add(name)
            self.check()

    @rule(name=NAMES)
    def hand_over(self, name):
        if name in self.names:
            self.lender.set_weights(self.names[name].get_weights())
            assert values(self.lender.own) == self.expected[name]
            self.check()

    @rule()
    def set_others(self):
        self.count += 1
        self.lender.set_weights([np.full(2, self.count, np.float32)])
        assert values(self.lender.own) == [self.count, self.count]
        self.check()

    @rule(source=NAMES, name=NAMES)
    def copy_weights(self, source, name):
        if {source, name} <= self.names.keys():
            self.names[name].set_weights(self.names[source].get_weights())
            self.expected[name] = list(self.expected[source])
            self.used.add(name)
            self.check()

    @rule(source=NAMES, name=NAMES)
    def rename(self, source, name):
        """`target = agent`: two names of one agent, which the script sees. The first name is given up."""
        if source in self.names and source != name:
            self.names[name], self.expected[name] = self.names.pop(source), self.expected.pop(source)
            self.used.discard(name)
            if source in self.used:
                self.used = (self.used - {source}) | {name}
            self.check()

    @precondition(lambda self: self.names)
    @rule()
    def temporary(self):
        expected = values(self.lender.own)
        assert values(self.lender.lend("there")) == expected
        self.count += 1
        train(self.lender.lend("there"), self.count)
        self.check()

    @rule(name=NAMES)
    def delete(self, name):
        self.names.pop(name, None)
        self.expected.pop(name, None)
        self.used.discard(name)
        self.check()


TestNames = Names.TestCase
TestNames.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
ORDERS = {"agent first": ("agent", "target"), "target first": ("target", "agent")}


@pytest.mark.parametrize("first_got", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("first_used", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("again", [("agent",), ("agent", "target"), ("target",)])
def test_an_agent_that_is_got_again_each_epoch_keeps_its_variables(first_got, first_used, again):
    """One optimizer trains the agent of each epoch: Keras binds an optimizer to the variables that it first saw."""
    lender, optimizer = lender_of(), keras.optimizers.SGD(1.0)
    names = {name: lender.lend(name) for name in first_got}
    for name in first_used:
        names[name].max_q(STATE[:, :1])
    target = values(names["target"])
    for epoch in range(4):
        for name in again:
            names[name] = lender.lend(name)
        target = [-float(epoch)] * 2 if "target" in again else target
        variables = names["agent"].model.trainable_variables
        optimizer.apply([tf.ones_like(variable) for variable in variables], variables)
        assert values(names["agent"]) == [-epoch - 1.0] * 2
        assert values(names["target"]) == target
        lender.set_weights(names["agent"].get_weights())
        assert values(names["target"]) == target


def test_agents_of_a_function_that_is_called_each_epoch_keep_their_variables():
    lender, seen = lender_of(), {"agent": set(), "target": set()}

    def epoch():
        lender.lend("peek").max_q(STATE[:, :1])
        target, agent = lender.lend("target"), lender.lend("agent")
        target.max_q(STATE[:, :1])
        train(agent)
        lender.lend("peek").max_q(STATE[:, :1])
        lender.set_weights(agent.get_weights())
        seen["agent"].add(id(agent.model))
        seen["target"].add(id(target.model))

    for _ in range(4):
        epoch()
    assert len(seen["agent"]) == 1
    assert values(lender.own) == [4.0, 4.0]


def test_compiled_functions_stay_with_the_model_and_release_the_agent():
    lender = lender_of()
    for _ in range(3):
        agent = lender.lend()
        agent.max_q(STATE[:, :1])
        agent.v(STATE[:, :1])
    assert {function.num_traces for function in lender.own.network.functions.values()} == {1}
    gc.disable()
    try:
        del agent
        lender.lend().max_q(STATE[:, :1])
        assert len(lender._idle) <= 1
    finally:
        gc.enable()


def test_methods_that_outlive_their_agents_name_keep_the_model():
    lender = lender_of()
    act = lender.lend().max_q
    train(lender.lend(), 5.0)
    assert float(act(STATE[:, :1])[0]) == 0.0


def test_weights_are_read_without_a_model_and_a_copy_is_independent():
    lender = lender_of()
    used = lender.lend()
    used.max_q(STATE[:, :1])
    reader = lender.lend()
    assert values(reader) == [0.0, 0.0]
    assert reader.loan.body is None
    for duplicate in (copy.deepcopy, copy.copy):
        twin = duplicate(used)
        train(twin)
        assert values(used) == [0.0, 0.0]


def test_attributes_that_are_set_before_the_first_use_stay():
    agent = lender_of().lend()
    agent.epoch = 7
    assert (agent.epoch, agent.policy.sampling_type) == (7, "thompson")
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = agent.nothing


def test_wrong_weights_change_nothing():
    lender = lender_of()
    agent = lender.lend()
    agent.max_q(STATE[:, :1])
    with pytest.raises(ModelError, match=r"weights\[0\]"):
        lender.set_weights([np.zeros(3)])
    assert lender.own.model is agent.model


def make(**changes):
    given = {"num_steps": 10, "use_ray": False, "seed": 0, "model_kwargs": {"hidden": 4}, **changes}
    return SampleManager(models.QNet, "CartPole-v1", 2, 20, **given)


def q(agent):
    return np.asarray(agent.max_q(STATE)).tolist()


def test_the_two_loops_of_scripts():
    """The agent is got again each epoch, with one optimizer; a target that was got once stays as it was."""
    with make() as manager:
        optimizer = keras.optimizers.Adam(0.01)
        target = manager.get_agent()
        before = q(target)
        for _ in range(3):
            agent = manager.get_agent()
            data = manager.get_data()
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(agent.q_val(data["state"], data["action"]) ** 2)
            variables = agent.model.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
            manager.set_agent(agent.get_weights())
            assert q(manager.get_agent()) == q(agent) != before
        assert q(target) == before
        target = manager.get_agent()
        assert q(target) == q(agent)


def test_a_learner_trains_the_managers_own_agent_openly():
    with make() as manager:
        agent, other = manager.get_agent(), manager.get_agent()
        before = q(agent), q(other)
        assert before[0] == before[1]
        learner = DQNLearner(manager, keras.optimizers.SGD(0.01), target_every=10, jit_compile=False)
        assert learner.agent is manager.agent
        learner.update(manager.get_data())
        assert q(agent) == q(learner.agent) != before[0]
        assert q(other) == before[1]
        manager.set_agent(agent.get_weights())
        manager.initialize_buffer(100)
        assert q(manager.get_agent()) == q(learner.agent)


def test_models_loaded_one_after_the_other_are_two_agents(tmp_path):
    with make() as manager:
        agent = manager.get_agent()
        expected = []
        for epoch in range(2):
            train(agent)
            manager.set_agent(agent.get_weights())
            manager.save_model(tmp_path, epoch, f"player{epoch}")
            expected.append(q(agent))
        one, two = (manager.load_model(tmp_path, f"player{epoch}") for epoch in range(2))
        assert [q(one), q(two)] == expected
        assert (one.epoch, two.epoch) == (0, 1)
        assert q(agent) == expected[1]
        data = manager.get_data()
        assert data["state"].shape == (20, 4)


@pytest.mark.parametrize("first_used", [("agent", "target"), ("target", "agent"), ()])
def test_a_checkpoint_tells_agent_and_target_apart(tmp_path, first_used):
    with make() as manager:
        agent, target, optimizer = manager.get_agent(), manager.get_agent(), keras.optimizers.Adam(0.1)
        for name in first_used:
            q({"agent": agent, "target": target}[name])
        variables = agent.model.trainable_variables
        optimizer.apply([tf.ones_like(variable) for variable in variables], variables)
        manager.set_agent(agent.get_weights())
        manager.save_checkpoint(tmp_path, target=target, optimizer=optimizer)
        expected = q(agent), q(target)
        assert expected[0] != expected[1]
    with make() as manager:
        agent, target, optimizer = manager.get_agent(), manager.get_agent(), keras.optimizers.Adam(0.1)
        for name in first_used:
            q({"agent": agent, "target": target}[name])
        manager.load_checkpoint(tmp_path, target=target, optimizer=optimizer)
        assert (q(agent), q(target)) == expected
        variables = agent.model.trainable_variables
        optimizer.apply([tf.ones_like(variable) for variable in variables], variables)
        assert q(target) == expected[1]


def test_agents_that_are_used_first_within_a_graph_have_models_of_their_own():
    lender = lender_of()
    agent, target = lender.lend(), lender.lend()

    @tf.function
    def difference(state):
        return agent.q_values(state) - target.q_values(state)

    states = tf.ones((3, 1))
    assert difference(states).numpy().tolist() == [[0, 0]] * 3
    train(agent)
    assert difference(states).numpy().tolist() == [[1, 1]] * 3
