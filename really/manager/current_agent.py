"""The current agent: built from the settings, and published to the runners as policy versions.

The agent's model holds the weights that a learner changes. The fleet holds the weights of the current policy version,
with which runners act. `publish` is the one way from the model to the fleet.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from really._utils.interrupts import HeldInterrupts
from really.checkpoints import saved_models
from really.checkpoints.training_state import ManagerState, Restored
from really.collectors.episodes import EpisodeLog
from really.collectors.fleet import Fleet
from really.collectors.messages import PolicySettings
from really.collectors.seeds import EVALUATION_STREAM
from really.data.normalisation import RunningStatistics
from really.evaluation.evaluation import Evaluation, evaluate
from really.evaluation.viewer import Viewer
from really.manager.arguments import Settings, same
from really.manager.building import Builder
from really.metrics.aggregator import Aggregator

if TYPE_CHECKING:
    from really.agents.agent import Agent

# Settings that a checkpoint saves, besides what is set once and for all in the constructor.
SAVED_SETTINGS = ("epsilon", "temperature", "total_steps")


class CurrentAgent:
    """The agent of a manager, kept in step with its settings and its runners.

    Attributes:
        lender: owns the agent, and lends agents with its weights.
        exported: its policy as the runners have it.
        columns: the columns that the runners deliver.
    """

    def __init__(
        self,
        builder: Builder,
        settings: Settings,
        fleet: Fleet,
        statistics: RunningStatistics,
        episodes: EpisodeLog,
        report: Callable[[str], None],
    ) -> None:
        self._builder, self._settings, self._fleet, self._statistics = builder, settings, fleet, statistics
        self._episodes, self._evaluations = episodes, 0
        self.build(report)

    @property
    def agent(self) -> Agent:
        """The manager's own agent."""
        return self.lender.own

    @property
    def is_outdated(self) -> bool:
        """Whether `model_kwargs` have changed since the agent was built."""
        return not same(self._settings["model_kwargs"], self._model_kwargs)

    def build(self, report: Callable[[str], None]) -> None:
        """Builds the agent and gives the runners its policy. `report` is called with the name of each step.

        If a setting is refused, the agent and the runners keep what they have.
        """
        report("building the model")
        model_kwargs, weights = dict(self._settings["model_kwargs"]), self._settings["weights"]
        from really.agents.lending import Lender

        agent = self._builder.agent(self._statistics.frozen)
        columns = self._builder.columns(agent)
        report("choosing the fastest form of the model for runners")
        exported = self._builder.export(agent, self._fleet.most_agents)
        self.columns = columns
        self.lender, self.exported = Lender(agent), exported
        self._architecture = agent.architecture
        self._model_kwargs, self._weights_setting = model_kwargs, weights
        self._fleet.set_policy(exported)
        self.publish()

    def apply_settings(self) -> PolicySettings:
        """Applies the settings `weights`, `epsilon` and `temperature`; returns the last two for the runners."""
        weights = self._settings["weights"]
        if weights is not self._weights_setting:
            self.set_weights(weights)
            self._weights_setting = weights
        policy = self.agent.policy
        policy.epsilon, policy.temperature = self._settings["epsilon"], self._settings["temperature"]
        return PolicySettings.of(self._settings)

    def set_weights(self, weights: Sequence[NDArray[Any]]) -> None:
        """Sets the weights of the manager's own agent, and publishes them."""
        self.lender.set_weights(weights)
        self.publish()

    def publish(self) -> None:
        """Makes a policy version of the model's weights and the statistics so far, unless both are as they were.

        A model of which a part was replaced is exported again.
        """
        weights, published = self.agent.get_weights(), self._fleet.weights.arrays
        if self.agent.architecture is not self._architecture:
            self.exported = self._builder.export(self.agent, self._fleet.most_agents)
            self._architecture = self.agent.architecture
            self._fleet.set_policy(self.exported)
        if len(published) and not self._statistics.changed and same(weights, published):
            return
        self._fleet.set_weights(weights, self._statistics.freeze())
        self.agent.normalization = self._builder.normalisation(self._statistics.frozen)

    def evaluate(self, episodes: int, max_steps: int, viewer: Viewer, progress: bool | None) -> Evaluation:
        """Plays greedy episodes with the published weights, in environments with new seeds."""
        self._evaluations += 1
        return evaluate(
            self._builder.environment,
            self.agent.policy,
            self.exported.exported,
            self._fleet.weights.arrays,
            self.agent.normalization,
            episodes=episodes,
            max_steps=max_steps,
            seed=self._builder.seed(EVALUATION_STREAM, self._evaluations),
            viewer=viewer,
            vector=self._settings["vector"],
            progress=progress,
        )

    def save(
        self, path: str | os.PathLike[str], epoch: int, model_name: str, score: Mapping[str, float] | None = None
    ) -> Path:
        """Saves the model with what it needs to act alone, and a score; returns its folder."""
        from really.agents.loading import description_of

        about = description_of(self.agent) | ({} if score is None else {"score": dict(score)})
        return saved_models.save_model(
            self.agent.model, path, epoch, model_name, self._statistics.frozen, about_agent=about
        )

    def load(self, path: str | os.PathLike[str], model_name: str | None = None) -> Agent:
        """Loads the newest saved model in `path`, with its epoch and statistics, and publishes it."""
        folder = saved_models.newest_checkpoint(path, model_name)
        statistics = saved_models.load_statistics(folder)
        self._statistics.check(statistics, str(folder))
        with self.lender.elsewhere() as agent:
            agent.epoch = saved_models.load_model(agent.model, folder)
        self._statistics.replace(statistics)
        self.publish()
        return self.lender.lend()

    def state(self) -> ManagerState:
        """The manager's own numbers, for a checkpoint."""
        settings = {name: self._settings[name] for name in SAVED_SETTINGS}
        counts = {"evaluations": self._evaluations, "steps": self._episodes.steps, "epoch": self.agent.epoch}
        streams = {"entropy": self._builder.entropy, "restarts": self._fleet.restarts}
        return ManagerState(settings, self._fleet.version, **counts, **streams)

    @contextlib.contextmanager
    def resuming(self, restored: Restored) -> Iterator[Aggregator | None]:
        """Continues the run of a checkpoint with new random streams; yields the run's aggregator.

        All that runs before the block, and the start of new runners, may fail; so may the block. The agent, its
        settings, the runners and the parts of the run are then as before.
        """
        state = restored.state
        with (
            HeldInterrupts() as interrupts,
            self._fleet.replacing_all(state.entropy, state.restarts + 1),
            self._undone_on_error(),
            self._statistics.undone_on_error(),
            restored.applied() as aggregator,
        ):
            self._statistics.replace(restored.frozen)
            with restored.naming_description():
                self._settings.update(state.settings)
            self._set_numbers(state)
            self.publish()
            self._fleet.version = state.version
            # After `publish`: these statistics take effect with the next policy version, as they did in the saved run.
            self._statistics.add(0, restored.pending)
            self.apply_settings()
            interrupts.hold_back()  # the block returns a buffer on disk, which cannot be undone
            yield aggregator
        self.lender.refresh()

    @contextlib.contextmanager
    def _undone_on_error(self) -> Iterator[None]:
        """Sets the numbers of `state` back to what they are now if the block raises."""
        before, normalization = self.state(), self.agent.normalization
        try:
            yield
        except BaseException:
            self._settings.update(before.settings)
            self._set_numbers(before)
            self.agent.normalization = normalization
            self.apply_settings()
            raise

    def _set_numbers(self, state: ManagerState) -> None:
        self._builder.entropy, self._episodes.steps = state.entropy, state.steps
        self._evaluations, self.agent.epoch = state.evaluations, state.epoch

    def info(self) -> dict[str, Any]:
        """Describes the environment, the policy, its form for runners, and the columns."""
        probe, exported = self._builder.probe, self.exported.exported
        return {
            "environment": probe.name,
            "observation_space": str(probe.observation_space),
            "action_space": str(probe.action_space),
            "action_sampling_type": self.exported.sampling_type,
            "framework": self.agent.framework.name,
            "inference": exported.kind,
            "inference_report": exported.report,
            "columns": {name: f"{column.dtype}{list(column.shape)}" for name, column in self.columns.items()},
        }
