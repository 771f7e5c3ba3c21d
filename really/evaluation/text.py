"""Text: prints the episodes of an environment whose `render` returns text (render mode 'ansi')."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from really.envs.batch import EnvironmentBatch
from really.envs.environment import Environment, logged_warnings
from really.envs.spec import EnvironmentSpec
from really.evaluation.rendering import render_modes
from really.evaluation.viewer import Viewer, Watcher, watched_batch

MODE = "ansi"


class Text(Viewer):
    """Prints each state of the episodes as the environment writes it, one episode after the other."""

    at_once = 1

    def batch(
        self, spec: EnvironmentSpec, seeds: Sequence[np.random.SeedSequence], vector: str = "auto"
    ) -> EnvironmentBatch:
        """Makes one environment, which is printed."""
        with logged_warnings():
            environment = spec.make(MODE)
        return watched_batch(spec, seeds[0], environment, Printer())


class Printer(Watcher):
    """Prints each state, and an empty line before each episode."""

    def __init__(self) -> None:
        # The first state of an episode, until its first step: a batch resets once more after the last episode.
        self._start = ""

    def see(self, environment: Environment, is_start: bool) -> None:
        """Prints the state."""
        text = str(environment.render(MODE)).rstrip("\n")
        if is_start:
            self._start = f"\n{text}\n"
        else:
            print(f"{self._start}{text}")
            self._start = ""


def declares_text(spec: EnvironmentSpec) -> bool:
    """Whether an environment can render text: it declares the render mode 'ansi'. Makes one to look."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            environment = spec.make(MODE)
    except Exception:
        return False  # what makes it for the episodes raises the error
    try:
        is_in_mode = getattr(environment.env, "render_mode", MODE) == MODE
        return is_in_mode and MODE in (render_modes(environment) or ())
    finally:
        environment.close()
