"""Evaluation: plays greedy episodes as one batch, with seeds of its own, and measures them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really._utils.progress import advance, progress_bar
from really.data.normalisation import Normalisation
from really.envs.batch import EnvironmentBatch
from really.envs.spec import EnvironmentSpec
from really.errors import EnvironmentFailedError, ModelError
from really.evaluation.viewer import Viewer
from really.policies import inference
from really.policies.policy import Policy, check_finite
from really.policies.recurrent import RecurrentStates

MEASURES = ("time", "reward", "time_and_reward")
Forward = Callable[[Sequence[NDArray[Any]]], Mapping[str, NDArray[Any]]]


class Evaluation:
    """Plays greedy episodes of at most `max_steps` steps; of n environments, number i plays episodes i, i + n, ...

    Attributes:
        steps: int64 `[episode]`, steps taken in each episode.
        rewards: float64 `[episode, *reward_shape]`, undiscounted sum of rewards of each episode.
        finished: number of episodes that have ended.
    """

    def __init__(
        self,
        envs: EnvironmentBatch,
        forward: Forward,
        policy: Policy,
        episodes: int,
        max_steps: int,
        states: RecurrentStates | None = None,
    ) -> None:
        self._states = states
        self._envs, self._forward, self._policy, self._max_steps = envs, forward, policy, max_steps
        self.steps = np.zeros(episodes, np.int64)
        self.rewards = np.zeros((episodes, *envs.reward_shape))
        self.finished = 0
        self._playing = np.arange(envs.num_envs)
        self._active = np.flatnonzero(self._playing < episodes)

    def __str__(self) -> str:
        return (
            f"{len(self.steps)} episodes: mean {self.steps.mean():.1f} steps, "
            f"reward {self.rewards.mean():.2f} ± {self.rewards.std():.2f}"
        )

    def __repr__(self) -> str:
        return f"Evaluation({self})" if "rewards" in vars(self) else "Evaluation(not started)"

    def measured(self, measure: str) -> list[int] | list[float] | tuple[list[int], list[float]]:
        """A list with one value for each episode: steps (`time`), sum of rewards (`reward`), or both lists."""
        steps, rewards = self.steps.tolist(), self.rewards.tolist()
        values: dict[str, Any] = {"time": steps, "reward": rewards, "time_and_reward": (steps, rewards)}
        return values[measure]  # type: ignore[no-any-return]

    def run(self, each_step: Callable[[Evaluation], None] | None = None) -> None:
        """Plays all episodes and calls `each_step` after every step of the batch."""
        self._envs.reset()
        while self._active.size:
            self._step()
            if each_step is not None:
                each_step(self)

    def _step(self) -> None:
        envs, active = self._envs, self._active
        outputs = self._forward(envs.observations)
        try:
            check_finite(outputs, self._policy.required_outputs)
        except ModelError:
            envs.check_observations(range(envs.num_envs))
            raise
        if envs.masks is not None:
            masks = envs.checked_masks(active, range(envs.num_envs), int(self.steps[self._playing[active]].max()))
            outputs = dict(self._policy.masked(outputs, masks))
        actions = self._policy.to_environment(self._policy.greedy(outputs))
        envs.step(actions, None if active.size == envs.num_envs else active)
        if self._states is not None:
            self._states.advance(active)
        episodes = self._playing[active]
        self.steps[episodes] += 1
        self.rewards[episodes] += envs.rewards[active]
        ended = (envs.terminated | envs.truncated)[active]
        too_long = ~ended & (self.steps[episodes] >= self._max_steps)
        if ended.any() or too_long.any():
            self._start_next_episodes(active, ended | too_long, active[too_long])

    def _start_next_episodes(
        self, active: NDArray[np.intp], ended: NDArray[np.bool_], unfinished: NDArray[np.intp]
    ) -> None:
        if unfinished.size:
            self._envs.reset(unfinished)
        if self._states is not None:
            self._states.reset(active[ended])
        self._playing[active[ended]] += self._envs.num_envs
        self.finished += int(ended.sum())
        self._active = np.flatnonzero(self._playing < len(self.steps))


def evaluate(
    environment: EnvironmentSpec,
    policy: Policy,
    exported: inference.Exported,
    weights: Sequence[NDArray[Any]],
    normalisation: Normalisation | None,
    *,
    episodes: int,
    max_steps: int,
    seed: np.random.SeedSequence,
    viewer: Viewer,
    vector: str = "auto",
    progress: bool | None = None,
) -> Evaluation:
    """Plays greedy episodes with an exported model and these weights; the viewer shows them.

    If an environment fails while a window shows it, the episodes are played again without the window.

    Args:
        environment: the environment to play in.
        policy: chooses the best action from the model's outputs.
        exported: the exported model.
        weights: the model's weights.
        normalisation: normalises observations; None if the model takes them as the environment shows them.
        episodes: number of episodes.
        max_steps: steps after which an episode is ended.
        seed: the seed from which the environments' seeds are derived.
        viewer: decides how many environments are stepped at once.
        vector: as in `make_batch`.
        progress: show a progress bar; by default on a terminal if it takes longer than two seconds.
    """

    def play(viewer: Viewer) -> Evaluation:
        size = min(episodes, viewer.at_once)
        # Equal seeds if the episodes are played again.
        seeds = np.random.SeedSequence(seed.entropy, spawn_key=seed.spawn_key).spawn(size)
        with (
            contextlib.closing(viewer.batch(environment, seeds, vector)) as envs,
            viewer.showing(),
            progress_bar("testing", episodes, "episode", progress) as bar,
        ):
            model = inference.load(exported, size)
            model.set_weights(weights)
            states = None if exported.recurrent is None else RecurrentStates(exported.recurrent, size)
            forward: Forward = model if states is None else states.before(model)
            forward = forward if normalisation is None else normalisation.before(forward)
            evaluation = Evaluation(envs, forward, policy, episodes, max_steps, states)

            def after_step(run: Evaluation) -> None:
                advance(bar, run.finished)
                viewer.after_step()

            evaluation.run(after_step)
        return evaluation

    try:
        return play(viewer)
    except EnvironmentFailedError as error:
        unseen = viewer.unseen(error)
        if unseen is None:
            raise
    return play(unseen)
