"""Building: makes the parts of a SampleManager from its settings: runners, agent, exported policy, collector."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from really.collectors.collector import Collector
from really.collectors.episodes import EpisodeLog
from really.collectors.fleet import Fleet
from really.collectors.local_fleet import LocalFleet
from really.collectors.messages import ExportedPolicy, RunnerSpec
from really.collectors.ray_fleet import RayFleet
from really.collectors.seeds import AGENT_STREAM, MODEL_STREAM, manager_seed
from really.data.moments import Statistics
from really.data.normalisation import Normalisation, NormalisationOptions, RunningStatistics
from really.data.schema import Spec, row_nbytes
from really.data.spaces import observation_leaves
from really.data.transitions import schema
from really.envs.observed import asked_shape
from really.envs.spec import EnvironmentSpec
from really.errors import ModelError
from really.evaluation.viewer import Notices
from really.manager.arguments import Settings
from really.policies.jax_state import kept
from really.policies.policy import VALUE_OUTPUTS
from really.policies.recurrent import RECURRENT_STATE
from really.replay.hindsight import Hindsight
from really.replay.n_step import NSteps
from really.replay.single_steps import Transitions

if TYPE_CHECKING:
    from really.agents.agent import Agent

# Settings that a runner needs as they are.
RUNNER_SETTINGS = (
    "returns",
    "num_steps",
    "num_episodes",
    "gamma",
    "gae_lambda",
    "recurrent_state_every",
    "vector",
    "total_steps",
)

# Sample units whose batches have single steps.
SINGLE_STEPS = (None, "transition", "n_step", "hindsight", Transitions, NSteps, Hindsight)

# What a model is told whose outputs depend on more than a state.
ODDITIES = {
    "mixed": "the same numbers for a state alone and among others, got others: the model mixes the states of a batch, "
    "as a softmax or a mean over axis 0 does, or batch normalisation in training mode. So actions depend on how many "
    "environments a runner has.",
    "drawn": "equal numbers for equal observations, got others in each call: the model draws random numbers of its "
    "own, or changes its state, while it acts. seed= repeats the environments and the random numbers of actions, but "
    "not those.",
}

# Columns that runners compute from the model's values of states.
VALUE_COLUMNS = ("value_estimate", "monte_carlo", "advantage")


class Builder:
    """Builds the parts of a manager from its settings.

    Attributes:
        environment: the specification of the environment.
        probe: the environment's name and spaces, taken from an instance of it.
        entropy: the number from which all seeds are derived.
        notices: tells once what cannot be shown.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings, self._model = settings, kept(settings["model"])
        self.entropy: Any = np.random.SeedSequence(settings["seed"]).entropy
        shape = asked_shape(settings["input_shape"])
        names = ("environment", "env_config", "action_masks", "reward_shape")
        environment, config, masks, reward_shape = (settings[name] for name in names)
        self.environment = EnvironmentSpec(environment, config, shape, masks, reward_shape)
        self.probe = self.environment.probe()
        self.notices = Notices()
        self._leaves = observation_leaves(self.probe.observation_space)
        self._normalisation = NormalisationOptions.of(settings)

    def seed(self, stream: int, *number: int) -> np.random.SeedSequence:
        """The seed of one of the manager's own streams."""
        return manager_seed(self.entropy, stream, *number)

    def statistics(self) -> RunningStatistics:
        """Statistics of the columns that are normalised, without a row so far."""
        return RunningStatistics(self._normalisation, self._leaves)

    def normalisation(self, statistics: Statistics) -> Normalisation | None:
        """The normalisation of observations with these statistics. Returns None if they are not normalised."""
        if not self._normalisation.normalize_observations:
            return None
        return Normalisation(self._normalisation, self._leaves, statistics)

    def fleet(self) -> Fleet:
        """Starts the runners."""
        settings = {name: self._settings[name] for name in RUNNER_SETTINGS}
        spec = RunnerSpec(
            self.environment,
            entropy=self.entropy,
            normalisation=self._normalisation,
            seeded=self._settings["seed"] is not None,
            max_runner_memory=self._settings["max_runner_memory"] or math.inf,
            **settings,
        )
        given = self._settings
        if not given["use_ray"]:
            return LocalFleet(spec, given["num_parallel"], given["num_workers"])
        extra = {"GPU": given["num_gpus"], **given["resources"]}
        return RayFleet(
            spec,
            given["num_parallel"],
            given["num_workers"],
            extra={name: amount for name, amount in extra.items() if amount},
            runtime_env=given["runtime_env"],
        )

    def collector(self, fleet: Fleet, statistics: RunningStatistics, episodes: EpisodeLog, columns: Spec) -> Collector:
        """A collector for a fleet whose runners deliver these columns. It adds to the log of episodes."""
        settings = self._settings
        return Collector(
            fleet,
            settings["num_parallel"],
            statistics,
            episodes,
            num_steps=settings["num_steps"],
            row_bytes=row_nbytes(columns),
            min_agents=settings["remote_min_returns"],
            time_out=settings["remote_time_out"],
            max_staleness=settings["max_staleness"],
        )

    def agent(self, statistics: Statistics) -> Agent:
        """An agent with a new model, which normalises observations with these statistics."""
        from really.agents.agent import Agent
        from really.agents.models import build_model
        from really.agents.seeding import seeded_initialisers

        given, spaces = self._settings, (self.probe.observation_space, self.probe.action_space)
        make_model = functools.partial(
            build_model, self._model, given["model_kwargs"], given["input_shape"], spaces[0], device=given["device"]
        )
        with seeded_initialisers(self.seed(MODEL_STREAM) if given["seed"] is not None else None):
            model = make_model(weights=given["weights"])
        return Agent(
            model,
            *spaces,
            given["action_sampling_type"],
            rng=np.random.default_rng(self.seed(AGENT_STREAM)),
            make_model=make_model,
            normalization=self.normalisation(statistics),
            masks=self.probe.masks,
        )

    def export(self, agent: Agent, batch_size: int) -> ExportedPolicy:
        """The agent's policy as runners act with it, in the form that is fastest for batches of this size.

        Raises:
            ModelError: `returns` needs state values, and the model has none, or others than one for each state; or the
                model has to run as Python, and runners of this process cannot have a copy of it.
        """
        from really.agents.frameworks.protocol import ExportRequest
        from really.agents.models import ModelBuilder

        space, given = self.probe.observation_space, self._settings
        value = self._value_output(agent)
        state = agent.recurrent.names if agent.recurrent else ()
        read = (*agent.policy.required_outputs, *([value] if value else []))
        self._notice_oddity(agent, read)
        names = dict.fromkeys((*read, *state))
        made, kwargs = (self._model, given["model_kwargs"]) if agent.architecture is None else (agent.model, {})
        name, layout = agent.framework.name, agent.recurrent
        build = ModelBuilder(made, kwargs, given["input_shape"], space, agent.model, name, layout)
        repeatable = given["seed"] is not None
        calls = max(given["num_steps"] or 1, given["total_steps"] // given["num_parallel"])
        request = ExportRequest(agent.input_space, batch_size, build, repeatable, agent.forms, list(names), calls)
        exported = agent.framework.export(agent.model, request)
        if exported.kind == "eager":
            build.check()
        agent.compiled = exported.kind != "eager"
        return ExportedPolicy(exported, agent.policy.sampling_type, value)

    def _notice_oddity(self, agent: Agent, names: Sequence[str]) -> None:
        """Warns once of a model whose outputs depend on more than a state: on other states, or on earlier calls."""
        from really.agents.recurrent import called
        from really.agents.verification import oddity

        framework, model = agent.framework, called(agent.model, agent.recurrent)
        # What the model does not take, export and runners tell.
        with contextlib.suppress(Exception), framework.building():
            found = oddity(functools.partial(framework.call, model), agent.input_space, agent.forms, names)
            if found is not None:
                kind, name = found
                self.notices.warn(kind, f"model output {name!r}: expected {ODDITIES[kind]}")

    def _value_output(self, agent: Agent) -> str | None:
        """The output that runners take values from. Returns None if there is none, or nobody asks for a bad one."""
        name = next((name for name in VALUE_OUTPUTS if name in agent.output_names), None)
        asked = [column for column in self._settings["returns"] if column in VALUE_COLUMNS]
        if name is None and (needed := sorted({"value_estimate", "advantage"} & set(asked))):
            raise ModelError(
                f"returns={needed}: expected a model with an output {' or '.join(VALUE_OUTPUTS)}, "
                f"got one with {', '.join(agent.output_names)}"
            )
        if name is None or name not in agent.forms.refused:
            return name
        if asked:
            raise ModelError(f"returns={asked}: {agent.forms.refused[name]}")
        return None

    def notice_unit(self, agent: Agent, unit: Any) -> None:
        """Warns once if batches have single steps of a recurrent model, which learns from consecutive ones."""
        given = unit[0] if isinstance(unit, tuple | list) and unit else unit
        if agent.recurrent is not None and (given in SINGLE_STEPS or type(given) in SINGLE_STEPS):
            self.notices.warn(
                "unit",
                "initialize_buffer: expected unit=Sequences(length, burn_in) or unit=Episodes(), as the model is "
                f"recurrent, got {'none' if given is None else given}, whose batches have single steps: from them a "
                f"learner has no recurrent state but the one that is stored with returns=['{RECURRENT_STATE}'].",
            )

    def columns(self, agent: Agent) -> Spec:
        """The columns that runners deliver when they act with this agent.

        Raises:
            ModelError: `returns` asks for the recurrent state of a model that has none.
        """
        returns, probe, policy = self._settings["returns"], self.probe, agent.policy
        if RECURRENT_STATE in returns and agent.recurrent is None:
            raise ModelError(
                f"returns=['{RECURRENT_STATE}']: expected a recurrent model, whose call takes {RECURRENT_STATE}, "
                f"got one without"
            )
        state = agent.recurrent.columns if agent.recurrent else {}
        action = policy.action_shape, policy.action_dtype
        every = self._settings["recurrent_state_every"]
        return schema(self._leaves, *action, returns, probe.masks, probe.reward_shape, state, every)
