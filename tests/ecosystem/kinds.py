"""The kinds of environments and Keras layers that `make test-ecosystem` tries; no import here needs their packages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def tic_tac_toe() -> Any:
    """PettingZoo's tic-tac-toe as player 1 sees it; player 2 takes the first legal move."""
    from pettingzoo.classic import tictactoe_v3

    return single_agent_view(tictactoe_v3.env(), lambda observation, space: int(observation["action_mask"].argmax()))


def connect_four() -> Any:
    """PettingZoo's Connect Four as player 1 sees it; player 2 takes the first legal move."""
    from pettingzoo.classic import connect_four_v3

    return single_agent_view(connect_four_v3.env(), lambda observation, space: int(observation["action_mask"].argmax()))


def multiwalker() -> Any:
    """The first walker of PettingZoo's Multiwalker; the others stand still."""
    from pettingzoo.sisl import multiwalker_v9

    return single_agent_view(multiwalker_v9.env(), lambda observation, space: np.zeros(space.shape, space.dtype))


def single_agent_view(game: Any, play: Callable[[Any, Any], Any]) -> Any:
    """The first agent's view of a PettingZoo game in turns: `play` moves for all others."""
    import gymnasium

    class View(gymnasium.Env[Any, Any]):
        def __init__(self) -> None:
            self.agent = game.possible_agents[0]
            self.observation_space = game.observation_space(self.agent)
            self.action_space = game.action_space(self.agent)

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
            super().reset(seed=seed)
            game.reset(seed=seed)
            return self._next_turn()[0], {}

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            mask = self.observed.get("action_mask") if isinstance(self.observed, dict) else None
            legal = mask is None or mask[action]
            game.step(action if legal else int(mask.argmax()))
            observation, reward, terminated, truncated = self._next_turn()
            return observation, reward, terminated, truncated, {}

        def _next_turn(self) -> tuple[Any, float, bool, bool]:
            """Plays for the others until it is this agent's turn, or the game is over for it."""
            while game.agents and game.agent_selection != self.agent:
                observation, _, terminated, truncated, _ = game.last()
                over = terminated or truncated
                game.step(None if over else play(observation, game.action_space(game.agent_selection)))
            self.observed, reward, terminated, truncated, _ = game.last()
            return self.observed, float(reward), terminated, truncated

        def close(self) -> None:
            game.close()

    return View()


def mini_grid_image() -> Any:
    """MiniGrid without its mission, which is text."""
    import gymnasium
    import minigrid

    gymnasium.register_envs(minigrid)
    return minigrid.wrappers.ImgObsWrapper(gymnasium.make("MiniGrid-Empty-5x5-v0"))


def mini_grid_flat() -> Any:
    """MiniGrid with image and mission in one vector."""
    import gymnasium
    import minigrid

    gymnasium.register_envs(minigrid)
    return minigrid.wrappers.FlatObsWrapper(gymnasium.make("MiniGrid-DoorKey-5x5-v0"))


def pong() -> Any:
    """Pong as `really.atari` makes it."""
    from really import atari

    return atari("pong", max_frames=400)


def pool_of_pong() -> Any:
    """Pong in EnvPool."""
    from really.envs import envpool

    return envpool("Pong-v5", max_episode_steps=60)


def pool_of_cheetahs() -> Any:
    """A task of the DeepMind control suite in EnvPool."""
    from really.envs import envpool

    return envpool("CheetahRun-v1", max_episode_steps=60)


def stacked_pong() -> Any:
    """Pong in gymnasium's wrappers."""
    import ale_py
    import gymnasium
    from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

    gymnasium.register_envs(ale_py)
    game = gymnasium.make("ALE/Pong-v5", frameskip=1, max_episode_steps=400)
    return FrameStackObservation(AtariPreprocessing(game, frame_skip=4), 4)


# Kind: (distributions whose versions the table shows, module that registers the id, environment). An environment is an
# id, or a function above that makes one.
ENVIRONMENTS: dict[str, tuple[str, str | None, Any]] = {
    "MiniGrid-Empty-5x5-v0": ("minigrid", "minigrid", "MiniGrid-Empty-5x5-v0"),
    "MiniGrid, ImgObsWrapper": ("minigrid", None, mini_grid_image),
    "MiniGrid, FlatObsWrapper": ("minigrid", None, mini_grid_flat),
    "highway-fast-v0": ("highway-env", "highway_env", "highway-fast-v0"),
    "parking-v0": ("highway-env", "highway_env", "parking-v0"),
    "racetrack-v0": ("highway-env", "highway_env", "racetrack-v0"),
    "FetchReach-v4": ("gymnasium-robotics", "gymnasium_robotics", "FetchReach-v4"),
    "PointMaze_UMaze-v3": ("gymnasium-robotics", "gymnasium_robotics", "PointMaze_UMaze-v3"),
    "HandReach-v3": ("gymnasium-robotics", "gymnasium_robotics", "HandReach-v3"),
    "PettingZoo, tictactoe_v3": ("pettingzoo", None, tic_tac_toe),
    "PettingZoo, connect_four_v3": ("pettingzoo", None, connect_four),
    "PettingZoo, multiwalker_v9": ("pettingzoo", None, multiwalker),
    "HalfCheetah-v5": ("mujoco", None, "HalfCheetah-v5"),
    "Reacher-v5": ("mujoco", None, "Reacher-v5"),
    "Humanoid-v5": ("mujoco", None, "Humanoid-v5"),
    "ALE/Pong-v5": ("ale-py", None, "ALE/Pong-v5"),
    "ALE/Breakout-v5": ("ale-py", None, "ALE/Breakout-v5"),
    "really.atari": ("ale-py", None, pong),
    "really.envs.envpool, Pong-v5": ("envpool", None, pool_of_pong),
    "really.envs.envpool, CheetahRun-v1": ("envpool", None, pool_of_cheetahs),
    "AtariPreprocessing, FrameStackObservation": ("ale-py", None, stacked_pong),
    "LunarLander-v3": ("Box2D", None, "LunarLander-v3"),
    "LunarLanderContinuous-v3": ("Box2D", None, "LunarLanderContinuous-v3"),
    "BipedalWalker-v3": ("Box2D", None, "BipedalWalker-v3"),
    "CarRacing-v3": ("Box2D", None, "CarRacing-v3"),
    "CartPole-v1": ("gymnasium", None, "CartPole-v1"),
    "Pendulum-v1": ("gymnasium", None, "Pendulum-v1"),
    "FrozenLake-v1": ("gymnasium", None, "FrozenLake-v1"),
    "Taxi-v4": ("gymnasium", None, "Taxi-v4"),
    "Blackjack-v1": ("gymnasium", None, "Blackjack-v1"),
    "CartPole-v0": ("gymnasium", None, "CartPole-v0"),
}
# Kinds that are refused by name, with a part of the message.
REFUSED = {
    "Discretization, adapt": "Discretization 'layer' to have its vocabulary or boundaries from the constructor",
    "IntegerLookup, adapt": "IntegerLookup 'layer' to have its vocabulary or boundaries from the constructor",
}
# Ids of other packages that are also collected by a runner in another process.
IN_RUNNERS = ("MiniGrid, ImgObsWrapper", "highway-fast-v0", "FetchReach-v4", "PettingZoo, tictactoe_v3")
LAYERS = (
    "AdditiveAttention",
    "AlphaDropout",
    "Attention",
    "BatchNormalization",
    "Bidirectional",
    "CategoryEncoding",
    "Conv1D",
    "Conv1DTranspose",
    "Conv2D",
    "Conv2DTranspose",
    "Conv3D",
    "Conv3DTranspose",
    "ConvLSTM1D",
    "ConvLSTM2D",
    "Dense, int8",
    "Dense, LoRA",
    "DepthwiseConv1D",
    "DepthwiseConv2D",
    "Discretization",
    "Discretization, adapt",
    "Dropout",
    "EinsumDense",
    "Embedding",
    "GRU",
    "GaussianDropout",
    "GaussianNoise",
    "GroupNormalization",
    "GroupQueryAttention",
    "HashedCrossing",
    "Hashing",
    "IntegerLookup",
    "IntegerLookup, adapt",
    "LSTM",
    "Lambda",
    "LayerNormalization",
    "MultiHeadAttention",
    "Normalization",
    "PReLU",
    "Pipeline",
    "RMSNormalization",
    "RNN",
    "RandomBrightness",
    "RandomContrast",
    "RandomFlip",
    "ReversibleEmbedding",
    "STFTSpectrogram",
    "SeparableConv1D",
    "SeparableConv2D",
    "SimpleRNN",
    "SpatialDropout1D",
    "SpectralNormalization",
    "StackedRNNCells",
    "TimeDistributed",
    "UnitNormalization",
    "tf.Variable attribute",
)
