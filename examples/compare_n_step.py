"""Compares 1, 3 and 5-step DQN on CartPole-v1 over seeds with `really.compare`, for the figure in docs/examples.md.

`python examples/compare_n_step.py [--seeds 5] [--out DIR] [--figure PATH]` trains each for 12,000 steps, prints final
returns with bootstrap confidence intervals, and draws learning curves to PATH (.png and .svg). `compare` reads the
folders `<steps>/<seed>/progress/` that the runs write to DIR (by default `runs/compare_n_step`). All other settings are
those of `dqn_cartpole.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import dqn_cartpole as cartpole
import experiment
import numpy as np
import tensorflow as tf

from really import compare
from really.learners import DQNLearner
from really.metrics.comparison import figure_stem

# The curves are returns while exploring, so there are no greedy episodes in between and there is no early stop.
TASK = dataclasses.replace(cartpole.TASK, env_steps=12_000, solved=np.inf, evaluate_every=10**9)
KEYS = ("state", "action", "reward", "state_new", "terminal", "episode_end")
N_STEPS = (1, 3, 5)


def train(n_step: int, seed: int, out: Path) -> None:
    """Trains once; the key `environment_steps` is the x-axis of the curves."""
    tf.keras.utils.set_random_seed(seed)
    # Such a short run would be over before Ray has started.
    with cartpole.make_manager(seed, returns=["episode_end"], use_ray=False) as manager:
        run = experiment.Run(TASK, manager, out, keys=("environment_steps",))
        manager.initilize_buffer(TASK.env_steps, KEYS, n_step=n_step)
        optimizer = tf.keras.optimizers.Adam(cartpole.LEARNING_RATE_START)
        options = {"target_rate": cartpole.TARGET_RATE, "huber_delta": None, "n_step": n_step}
        learner = DQNLearner(manager, optimizer, **options)
        while run.goes_on():
            manager.set_epsilon(cartpole.epsilon_at(run.env_steps))
            manager.store_in_buffer(run.collect())
            learner.update(manager.buffer.sample((cartpole.UPDATES_A_CALL, cartpole.BATCH)))
            manager.set_agent(learner.agent.get_weights())
            run.learned(cartpole.UPDATES_A_CALL, environment_steps=run.env_steps)
        run.finish()


def main() -> None:
    """Trains every variant with every seed, one after the other, and compares them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/compare_n_step"))
    parser.add_argument("--figure", type=Path, default=None, help="draw learning curves to this file")
    arguments = parser.parse_args()
    if arguments.figure is not None:
        figure_stem(arguments.figure)  # refuses a wrong name now, not after an hour
    runs: dict[str, list[Path]] = {}
    for seed in range(arguments.seeds):
        for n_step in N_STEPS:
            folder = arguments.out / str(n_step) / str(seed)
            train(n_step, seed, folder)
            runs.setdefault("1 step" if n_step == 1 else f"{n_step} steps", []).append(folder)
    labels = {"x_label": "environment steps", "y_label": "return of an episode (sum of rewards)"}
    # The last calls of a good run may end no episode, so the comparison keeps its last value.
    options = {"x": "environment_steps", "max_size": 10, "hold_last": True}
    print(compare(runs, "reward", path=arguments.figure, **options, **labels))


if __name__ == "__main__":
    main()
