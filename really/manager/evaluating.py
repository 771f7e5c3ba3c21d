"""The verbs of a SampleManager that evaluate its agent: greedy episodes, apart from training."""

from __future__ import annotations

import os
from pathlib import Path

from really._utils.checks import checked_integer
from really.errors import InvalidValueError, one_of
from really.evaluation.evaluation import MEASURES
from really.evaluation.viewers import viewer_of
from really.manager.lifetime import Lifetime


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
            render: True shows a window if there is a display. A path that ends in .gif or .mp4 makes a film of all
                episodes one after the other; "gif" or "mp4" names it after the environment, in the current folder.
                `manager.film` is its path. A rendered environment is stepped alone and not in a batch, so its episodes
                differ from those of a test without rendering.
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
        viewer = viewer_of(render, self._builder.environment.name, self._builder.notices)
        self._sync()
        evaluation = self._current.evaluate(test_episodes, max_steps, viewer, progress)
        self.film = viewer.path or self.film
        if do_print:
            print(evaluation)
        return evaluation.measured(evaluation_measure)
