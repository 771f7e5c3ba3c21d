"""Sources of a learner: the manager or agent that it trains, and checks that their settings agree with its own."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from gymnasium import spaces

from really._utils.checks import checked_number
from really._utils.keras_versions import as_optimizer
from really.data.transitions import REQUESTABLE
from really.errors import InvalidTypeError, InvalidValueError, ModelError
from really.learners.inputs import listed
from really.policies.policy import VALUE_OUTPUTS, SquashedNormal

if TYPE_CHECKING:
    from really.agents.agent import Agent
    from really.manager.sample_manager import SampleManager

POLICY_TYPES = ("discrete_policy", "continuous_normal_diagonal")


def agent_of(learner: str, source: SampleManager | Agent) -> Agent:
    """The agent to train: the manager's own, or the given one."""
    given: Any = source
    agent = given.agent if hasattr(given, "get_agent") else given
    if not hasattr(agent, "output_names"):
        raise InvalidTypeError(f"{learner}: expected a SampleManager or an Agent, got {type(source).__name__}")
    if not hasattr(agent.model, "trainable_variables"):
        raise ModelError(f"{learner}: expected a Keras model to train, got {type(agent.model).__name__}")
    if agent.recurrent is not None:
        raise ModelError(
            f"{learner}: expected a model without a recurrent state, as it learns from single steps, got "
            f"{type(agent.model).__name__}; docs/recurrent.md shows a learner of sequences"
        )
    return agent  # type: ignore[no-any-return]


def gamma_of(learner: str, source: SampleManager | Agent, gamma: float | None) -> float:
    """The discount factor of manager and learner. Raises InvalidValueError if they differ, or if there is none."""
    managers = getattr(source, "kwargs", {}).get("gamma")
    if gamma is None and managers is None:
        raise InvalidValueError(f"{learner}: expected gamma with an Agent, which has none of its own, got None")
    given = checked_number("gamma", managers if gamma is None else gamma, 0, 1)
    if managers not in (None, given):
        raise InvalidValueError(f"{learner}: expected gamma={managers}, which the manager was made with, got {given}")
    return given


def build_optimizer(learner: str, optimizer: Any, variables: Sequence[Any]) -> Any:
    """Creates an optimizer's variables for those that it trains; a compiled function must not create variables."""
    optimizer = as_optimizer(optimizer)
    if not hasattr(optimizer, "apply"):
        raise InvalidTypeError(f"{learner}: expected a Keras optimizer, got {type(optimizer).__name__}")
    if optimizer.built:
        raise InvalidValueError(
            f"{learner}: expected an optimizer that trains nothing yet, got a {type(optimizer).__name__} in use"
        )
    optimizer.build(variables)
    return optimizer


def check_output(learner: str, agent: Agent, names: Sequence[str]) -> None:
    """Raises ModelError unless the model has one of these outputs, with a row for each state."""
    found = next((name for name in names if name in agent.output_names), None)
    if found is None:
        raise ModelError(
            f"{learner}: expected a model with output {' or '.join(map(repr, names))}, "
            f"got one with {listed(agent.output_names)}"
        )
    if found in agent.forms.refused:
        raise ModelError(f"{learner}: {agent.forms.refused[found]}")


def with_q_values(learner: str, agent: Agent) -> Agent:
    """Returns the agent. Raises ModelError unless its model has one q-value for each action."""
    if not isinstance(agent.action_space, spaces.Discrete):
        raise ModelError(f"{learner}: expected a Discrete action space, got {agent.action_space}")
    check_output(learner, agent, ("q_values",))
    return agent


def with_squashed_policy(learner: str, agent: Agent) -> tuple[Agent, SquashedNormal]:
    """Returns the agent and its policy. Raises ModelError if this is not `continuous_squashed_normal`."""
    policy = agent.policy
    if not isinstance(policy, SquashedNormal):
        raise ModelError(
            f"{learner}: expected action_sampling_type 'continuous_squashed_normal', got {policy.sampling_type!r}"
        )
    return agent, policy


def check_critic(learner: str, critic: Any, values: Any) -> None:
    """Raises ModelError unless a critic returned one q-value for each of two rows."""
    shape = tuple(getattr(values, "shape", ()))
    if shape not in ((2,), (2, 1)):
        raise ModelError(
            f"{learner}: expected a critic whose call returns q-values [row] or [row, 1], "
            f"got {list(shape)} for two rows from {type(critic).__name__}"
        )


def with_policy_and_value(learner: str, agent: Agent) -> Agent:
    """Returns the agent. Raises ModelError unless its model has a policy output and a value output."""
    if agent.policy.sampling_type not in POLICY_TYPES:
        raise ModelError(
            f"{learner}: expected action_sampling_type {listed(POLICY_TYPES)}, got {agent.policy.sampling_type!r}"
        )
    check_output(learner, agent, VALUE_OUTPUTS)
    return agent


def check_returns(learner: str, source: SampleManager | Agent, names: Sequence[str]) -> None:
    """Raises InvalidValueError if the manager's `returns` lacks a column that the learner needs."""
    asked = getattr(source, "kwargs", {}).get("returns")
    if asked is not None and (missing := [name for name in names if name in REQUESTABLE and name not in asked]):
        raise InvalidValueError(
            f"{learner}: expected a manager that delivers {listed(names)}, got one with returns={list(asked)}; "
            f"missing: {listed(missing)}"
        )


def buffer_of(source: SampleManager | Agent) -> Callable[[], Any]:
    """Returns a function that gives the manager's current buffer, or None; it does not keep the manager alive."""
    manager = weakref.ref(source)
    return lambda: getattr(manager(), "buffer", None)


def check_buffer(learner: str, buffer: Any, gamma: float, n_step: int) -> None:
    """Raises InvalidValueError if the manager's buffer has another n_step or gamma than the learner."""
    if buffer is None or (buffer.n_step == n_step and buffer.gamma in (None, gamma)):
        return
    steps_differ = buffer.n_step != n_step
    name, wanted, got = ("n_step", buffer.n_step, n_step) if steps_differ else ("gamma", buffer.gamma, gamma)
    raise InvalidValueError(
        f"{learner}: expected {name}={wanted}, which the manager's buffer was made with, got {got}; "
        f"to learn from other batches, give the learner manager.get_agent()"
    )


def check_keys(learner: str, buffer: Any, names: Sequence[str]) -> None:
    """Raises InvalidValueError if the manager's buffer lacks a column that the learner needs."""
    keys = None if buffer is None else buffer.keys
    if keys is not None and (missing := [name for name in names if name not in keys]):
        raise InvalidValueError(
            f"{learner}: expected a buffer with {listed(names)}, got the manager's with {listed(keys)}; "
            f"missing: {listed(missing)}"
        )
