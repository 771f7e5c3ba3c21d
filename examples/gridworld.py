"""A custom gridworld with the old API of gym and a known optimum, learned with Boltzmann sampling (`thompson`).

`python examples/gridworld.py [--seed N] [--out DIR]` trains for at most 40,000 steps and stops early at weights that
walk the best path. Then it saves and loads the model and plays 100 greedy episodes. It writes `result.json`,
`progress/` with the curves and `models/` to DIR (by default `runs/gridworld_<seed>`).

Any class with `reset` and `step` works, without a base class or registration. The model is a table with one row of
q-values per cell. The temperature falls, so that actions are nearly random at first and nearly greedy at the end. The
task is so small that it is done before Ray would have started, hence `use_ray=False`.
"""

from __future__ import annotations

import experiment
import numpy as np
import tensorflow as tf
from gymnasium import spaces

from really import SampleManager
from really.learners import DQNLearner

# S start, G goal, # wall, ~ mud. A step into mud costs five times as much: the shortest path leads through mud,
# the best path does not.
MAP = (
    "S#......",
    ".#.####.",
    ".##.....",
    ".##.###.",
    "....###.",
    ".######.",
    ".######.",
    "....~~.G",
)
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left
TIME_LIMIT = 100


class Gridworld:
    """Walks to the goal; an observation is the number of a cell. `step` returns four values, as in gym before 0.26."""

    observation_space = spaces.Discrete(len(MAP) * len(MAP[0]))
    action_space = spaces.Discrete(len(MOVES))

    def reset(self) -> int:
        self.cell, self.steps = cell_of("S"), 0
        return self.cell

    def step(self, action: int) -> tuple[int, float, bool, dict[str, bool]]:
        self.cell, reward = neighbour(self.cell, action)
        self.steps += 1
        arrived = self.cell == cell_of("G")
        too_late = self.steps >= TIME_LIMIT and not arrived
        return self.cell, reward, arrived or too_late, {"TimeLimit.truncated": too_late}


def cell_of(letter: str) -> int:
    return "".join(MAP).index(letter)


def neighbour(cell: int, action: int) -> tuple[int, float]:
    """The next cell and the reward of a move; walls and borders block it."""
    row, column = divmod(cell, len(MAP[0]))
    to_row, to_column = row + MOVES[action][0], column + MOVES[action][1]
    inside = 0 <= to_row < len(MAP) and 0 <= to_column < len(MAP[0])
    if not inside or MAP[to_row][to_column] == "#":
        to_row, to_column = row, column
    return to_row * len(MAP[0]) + to_column, -5.0 if MAP[to_row][to_column] == "~" else -1.0


def best_return() -> float:
    """The return of the best path from the start, by value iteration (Sutton and Barto 2018, section 4.4)."""
    values = np.full(Gridworld.observation_space.n, -np.inf)
    values[cell_of("G")] = 0.0
    for _ in values:
        for cell in range(len(values)):
            if cell != cell_of("G"):
                moves = [neighbour(cell, action) for action in range(len(MOVES))]
                values[cell] = max(reward + values[to] for to, reward in moves)
    return float(values[cell_of("S")])


TASK = experiment.Task(
    "gridworld", env_steps=40_000, max_steps=TIME_LIMIT, solved=best_return(), evaluate_every=1_024, few=1, many=1
)
AGENTS, STEPS_A_CALL = 8, 256  # a call collects this many rows, from all agents together
UPDATES_A_CALL, BATCH = 32, 64  # updates run inside one compiled call
REWARD_SCALE, LEARNING_RATE, TARGET_RATE = 0.1, 0.02, 0.05
TEMPERATURE_START, TEMPERATURE_END, TEMPERATURE_STEPS = 1.0, 0.02, 20_000


class QTable(tf.keras.Model):
    """One q-value per cell and action."""

    def __init__(self) -> None:
        super().__init__()
        self.table = tf.keras.layers.Dense(len(MOVES), use_bias=False, kernel_initializer="zeros")

    def call(self, cell: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"q_values": self.table(tf.one_hot(cell, Gridworld.observation_space.n))}


def make_manager(seed: int) -> SampleManager:
    return SampleManager(
        model=QTable,
        environment=Gridworld,
        num_parallel=AGENTS,
        total_steps=STEPS_A_CALL,
        action_sampling_type="thompson",
        num_steps=STEPS_A_CALL // AGENTS,
        gamma=0.99,
        reward_scale=REWARD_SCALE,
        temperature=TEMPERATURE_START,
        seed=seed,
        use_ray=False,
    )


def train(run: experiment.Run) -> None:
    manager = run.manager
    manager.initilize_buffer(TASK.env_steps)
    learner = DQNLearner(manager, tf.keras.optimizers.Adam(LEARNING_RATE), target_rate=TARGET_RATE)
    while run.goes_on():
        progress = min(1.0, run.env_steps / TEMPERATURE_STEPS)
        temperature = TEMPERATURE_START * (TEMPERATURE_END / TEMPERATURE_START) ** progress
        manager.set_temperature(temperature)
        manager.store_in_buffer(run.collect())
        update = learner.update(manager.buffer.sample((UPDATES_A_CALL, BATCH)))
        manager.set_agent(learner.agent.get_weights())
        run.learned(UPDATES_A_CALL, loss=update.loss, temperature=temperature)


if __name__ == "__main__":
    experiment.main(__file__, TASK, make_manager, train, keys=("loss", "temperature"), use_ray=False)
