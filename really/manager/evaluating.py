"""The verbs of a SampleManager that evaluate its agent: greedy episodes, apart from training."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NamedTuple

from really._utils.checks import checked_bool, checked_file_name, checked_integer, checked_path
from really._utils.names import OF_EVALUATION, tells_names
from really._utils.notebook import ShownFile, show
from really.checkpoints import saved_models
from really.errors import InvalidValueError, one_of
from really.evaluation.evaluation import MEASURES
from really.evaluation.viewer import Viewer
from really.evaluation.viewers import viewer_of
from really.manager.lifetime import Lifetime


class Best(NamedTuple):
    """What `evaluate_best` found.

    Attributes:
        mean: mean return of the episodes, undiscounted and of the environment's own rewards.
        std: standard deviation of their returns.
        is_best: whether no model saved in the folder has a mean as high, so that this one was saved.
        best: the highest mean so far, this one included.
        path: folder of the model with that mean.
        returns: return of each episode.
        lengths: steps of each episode.
    """

    mean: float
    std: float
    is_best: bool
    best: float
    path: str
    returns: list[float]
    lengths: list[int]


@tells_names(OF_EVALUATION, "test", "evaluate_best")
class Evaluating(Lifetime):
    """What `SampleManager` inherits: it plays greedy episodes. `film` is the path of the last film, or None."""

    film: Path | None

    def test(
        self,
        max_steps: int,
        test_episodes: int = 100,
        evaluation_measure: str = "time",
        render: bool | str | os.PathLike[str] = False,
        do_print: bool = False,
        progress: bool | None = None,
    ) -> list[int] | list[float] | tuple[list[int], list[float]]:
        """Plays greedy episodes of at most `max_steps` steps with the current agent, and does not affect training.

        Rewards are the environment's own, even if delivered rewards are normalised, scaled or clipped.

        Args:
            max_steps: steps after which an episode is ended.
            test_episodes: number of episodes.
            evaluation_measure: `time`, `reward` or `time_and_reward`.
            render: True shows a window if there is a display, and else prints the text of an environment with render
                mode 'ansi'. A path that ends in .gif or .mp4 makes a film of all episodes one after the other; "gif" or
                "mp4" names it after the environment, in the current folder. `manager.film` is its path. A rendered
                environment is stepped alone and not in a batch, so its episodes differ from those of a test without
                rendering.
            do_print: print mean and standard deviation.
            progress: show a progress bar; by default on a terminal if the call takes longer than two seconds.

        Returns:
            One value per episode: steps taken (`time`), sum of rewards (`reward`), or both lists. With `reward_shape`
            a sum of rewards is a list of as many numbers.
        """
        if evaluation_measure not in MEASURES:
            raise InvalidValueError(one_of("evaluation_measure", evaluation_measure, MEASURES))
        max_steps = checked_integer("max_steps", max_steps)
        test_episodes = checked_integer("test_episodes", test_episodes)
        checked_bool("do_print", do_print)
        environment = self._builder.environment
        viewer = viewer_of(render, environment.name, self._builder.notices, environment)
        self._sync()
        evaluation = self._current.evaluate(test_episodes, max_steps, viewer, progress)
        if viewer.path is not None:
            self.film = ShownFile(viewer.path)
            show(self.film)
        if do_print:
            print(evaluation)
        return evaluation.measured(evaluation_measure)

    def evaluate_best(
        self,
        path: str | os.PathLike[str],
        max_steps: int,
        test_episodes: int = 20,
        *,
        epoch: int | None = None,
        model_name: str = "best",
        do_print: bool = False,
        progress: bool | None = None,
    ) -> Best:
        """Plays greedy episodes as `test` does, and keeps the model in `path` if its mean return is the highest so far.

        The score is saved with the model, so a run that resumes goes on to compare with it. The model before is removed
        once the better one is complete. `load_model(path)` and `Agent.load(path)` read it.

        Args:
            path: folder of the best model; it is made if it is missing.
            max_steps: steps after which an episode is ended.
            test_episodes: number of episodes.
            epoch: epoch with which the model is saved; by default the policy version.
            model_name: name of the model; models of other names in `path` are left alone.
            do_print: print mean and standard deviation, and whether the model was kept.
            progress: show a progress bar; by default on a terminal if the call takes longer than two seconds.

        Raises:
            InvalidFileError: the best model so far is damaged; nothing is played.
        """
        folder, episodes = checked_path("path", path), checked_integer("test_episodes", test_episodes)
        checked_file_name("model_name", model_name)
        checked_bool("do_print", do_print)
        epoch = self._fleet.version if epoch is None else checked_integer("epoch", epoch, 0)
        before, score = saved_models.best_so_far(folder, model_name)
        self._sync()
        saved_models.check_packages(self._current.agent.model, folder)
        run = self._current.evaluate(episodes, checked_integer("max_steps", max_steps), Viewer(), progress)
        mean, std = float(run.rewards.mean()), float(run.rewards.std())
        is_best = before is None or mean > score
        if is_best:
            kept = self._current.save(folder, epoch, model_name, {"mean": mean, "std": std, "episodes": episodes})
            if before is not None:
                shutil.rmtree(before)
            before, score = kept, mean
        if do_print:
            print(f"{run}; {'the best so far, kept' if is_best else f'the best so far has {score:.2f}'}")
        return Best(mean, std, is_best, score, str(before), run.rewards.tolist(), run.steps.tolist())
