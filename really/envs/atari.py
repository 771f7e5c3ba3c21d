"""atari: Atari games with the preprocessing of the published DQN, on ale_py's native vector environment."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really._utils.packages import needed
from really.envs.batch import EnvironmentBatch, seed_of
from really.envs.environment import Environment
from really.envs.results import StepResult
from really.envs.single_of_vector import SingleOfVector
from really.envs.spec import EnvironmentSpec
from really.errors import InvalidValueError, did_you_mean

# Height and width of most games' screens, and screens per second.
SCREEN, SCREENS_PER_SECOND = (210, 160), 60


@dataclass(frozen=True)
class Atari:
    """An Atari game with its preprocessing, as an environment for a manager; made by `atari`."""

    game: str
    options: tuple[tuple[str, Any], ...]

    @property
    def __name__(self) -> str:
        return f"atari({self.game!r})"

    def make_vector(self, num_envs: int) -> Any:
        """ale_py's vector environment with `num_envs` games, in mode SameStep: a new episode starts within the step."""
        import ale_py
        from ale_py.vector_env import AtariVectorEnv

        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        threads = min(num_envs, os.cpu_count() or 1)
        return AtariVectorEnv(self.game, num_envs, num_threads=threads, autoreset_mode="SameStep", **dict(self.options))


def atari(
    game: str,
    *,
    terminal_on_life_loss: bool = True,
    clip_rewards: bool = True,
    noop_max: int = 30,
    frame_skip: int = 4,
    frame_stack: int = 4,
    screen_size: int = 84,
    full_action_space: bool = False,
    sticky_actions: float = 0.0,
    fire_reset: bool = False,
    max_frames: int = 108_000,
) -> Atari:
    """An Atari game as the published DQN plays it (Mnih et al. 2015, Nature 518, Methods and table 1).

    Observations are `[frame_stack, screen_size, screen_size] uint8`, grey, the newest frame last. Each frame is the
    maximum of the last two screens of its action. Actions are the game's minimal set. Every default is the published
    value for training; to test as published, give `terminal_on_life_loss=False, clip_rewards=False`.

    Args:
        game: name of the game, such as 'pong', 'Pong', 'ms_pacman' or 'MsPacman'.
        terminal_on_life_loss: whether a lost life is a termination (the game itself continues).
        clip_rewards: whether rewards become -1, 0 or 1.
        noop_max: greatest number of actions without effect at the start of an episode.
        frame_skip: number of screens for which an action is repeated.
        frame_stack: number of frames in an observation.
        screen_size: height and width of a frame.
        full_action_space: all 18 actions instead of those that have an effect in this game.
        sticky_actions: probability that the last action is repeated instead (Machado et al. 2018: 0.25).
        fire_reset: whether an episode starts with the fire button, if the game waits for it.
        max_frames: screens after which an episode is truncated; the default is half an hour at 60 Hz.

    Raises:
        InvalidValueError: the game is unknown; the message names similar ones.
        MissingPackageError: ale_py is not installed.
    """
    options = {
        "episodic_life": terminal_on_life_loss,
        "reward_clipping": clip_rewards,
        "noop_max": noop_max,
        "frameskip": frame_skip,
        "stack_num": frame_stack,
        "img_height": screen_size,
        "img_width": screen_size,
        "full_action_space": full_action_space,
        "repeat_action_probability": sticky_actions,
        "use_fire_reset": fire_reset,
        "max_num_frames_per_episode": max_frames,
    }
    return Atari(_rom_of(game), tuple(options.items()))


def _rom_of(game: str) -> str:
    with needed("atari", "ale_py for Atari games", "atari"):
        from ale_py import roms
    known = roms.get_all_rom_ids()
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", game).lower()
    if name not in known:
        hint = did_you_mean(name, known)
        raise InvalidValueError(f"atari: expected the name of an Atari game as ale_py knows it, got {game!r}.{hint}")
    return name


class AtariBatch(EnvironmentBatch):
    """Games that are stepped in parallel, each in a native vector environment and a thread of its own.

    One native vector environment for all games takes 5 to 8 % less processor time, but always steps all of them. The
    game of an agent that waits for others would continue, and the data would depend on the other agents.
    """

    kind = "native"

    def __init__(
        self, spec: EnvironmentSpec, seeds: Sequence[np.random.SeedSequence], render_mode: str | None = None
    ) -> None:
        super().__init__(spec.probe(), len(seeds))
        self._make, self._sequences = partial(spec.environment.make_vector, 1), list(seeds)
        self._games = [self._make() for _ in seeds]
        self._seeds: list[int | None] = [seed_of(seed) for seed in seeds]
        # Games that may have an action whose result was not received.
        self._in_flight: Sequence[int] = ()
        self._all = range(self.num_envs)
        self._finals = self._empty()
        self._elapsed = 0

    def reset(self, which: NDArray[np.intp] | None = None) -> None:
        """Starts new episodes; a game's first reset uses its seed."""
        self._replace(self._in_flight)
        for i in self._all if which is None else which.tolist():
            seed, self._seeds[i] = self._seeds[i], None
            self.observations[0][i] = self._games[i].reset(seed=seed)[0][0]
        self.final_observations = self.observations

    def step(self, actions: NDArray[Any], active: NDArray[np.intp] | None = None) -> None:
        """Sends the actions to all active games, then receives their results."""
        numbers = self._all if active is None else active.tolist()
        games, shown = self._games, self.observations[0]
        actions = np.ascontiguousarray(actions, np.int64)
        self._in_flight = numbers
        for i in numbers:
            games[i].send(actions[i : i + 1])
        finals = {}
        for i in numbers:
            observation, reward, terminated, truncated, info = games[i].recv()
            shown[i] = observation[0]
            self.rewards[i], self.terminated[i], self.truncated[i] = reward[0], terminated[0], truncated[0]
            if terminated[0] or truncated[0]:
                finals[i] = info["final_obs"][0]
        self._in_flight = ()
        self.final_observations = self.observations
        if finals:
            np.copyto(self._finals[0], shown)
            for i, final in finals.items():
                self._finals[0][i] = final
            self.final_observations = self._finals

    def render(self) -> Any:
        """The newest preprocessed frame of game 0, `[height, width, 3] uint8`; `AtariInColour` renders the screen."""
        return np.repeat(self.observations[0][0, -1, :, :, None], 3, axis=2)

    def close(self) -> None:
        """Closes the games."""
        for game in self._games:
            game.close()

    def _replace(self, games: Sequence[int]) -> None:
        """Makes these games anew, with other seeds: an interrupt left them in the middle of a step."""
        for i in games:
            self._games[i].close()
            self._games[i], self._sequences[i] = self._make(), self._sequences[i].spawn(1)[0]
            self._seeds[i] = seed_of(self._sequences[i])
        self._in_flight = ()


class AtariInColour(Environment):
    """One game that renders its screen, which ale_py's vector environment cannot do.

    A second game without the preprocessing gets the same seeds and the same actions, so it shows the same game.
    """

    def __init__(self, atari: Atari) -> None:
        super().__init__(SingleOfVector(atari.make_vector(1)))
        screen = {"img_height": SCREEN[0], "img_width": SCREEN[1], "stack_num": 1, "grayscale": False}
        options = {**dict(atari.options), **screen}
        self._colour_game = SingleOfVector(replace(atari, options=tuple(options.items())).make_vector(1))
        self._screen: Any = None
        self.env.metadata = {"render_modes": ["rgb_array"], "render_fps": SCREENS_PER_SECOND / options["frameskip"]}
        self.step = self._step_both
        self.is_known = True

    def reset(self, seed: int | None = None) -> Any:
        """Starts an episode."""
        self._screen = self._colour_game.reset(seed=seed)[0]
        return super().reset(seed)

    def render(self, mode: str | None) -> Any:
        """The screen, `[210, 160, 3] uint8`: the maximum of the last two, as in the observation."""
        return self._screen[-1]

    def close(self) -> None:
        """Closes both games."""
        super().close()
        self._colour_game.close()

    def _step_both(self, action: Any) -> StepResult:
        self._screen = self._colour_game.step(action)[0]
        return self.env.step(action)  # type: ignore[no-any-return]
