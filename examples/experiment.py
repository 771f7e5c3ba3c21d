"""The common part of the examples: command line and seeds, bookkeeping of a training run, and its results.

Import it before TensorFlow, because the clock of `wall_seconds` starts here.
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import argparse  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's start-up lines would hide the progress bar

import numpy as np  # noqa: E402
import ray  # noqa: E402
import tensorflow as tf  # noqa: E402
from tqdm import tqdm  # noqa: E402

from really import SampleManager  # noqa: E402


@dataclass(frozen=True)
class Task:
    """A task: a run ends after `env_steps`, or at weights that score `solved`.

    Every `evaluate_every` steps the weights play `few` greedy episodes of at most `max_steps`. If their mean return is
    above the best score so far, the weights play `many` others, whose mean return is their score.
    """

    name: str
    env_steps: int
    max_steps: int
    solved: float
    evaluate_every: int
    few: int = 20
    many: int = 100


class Run:
    """Bookkeeping of one training run: steps, updates, returns of finished episodes, the best weights."""

    def __init__(self, task: Task, manager: SampleManager, out: Path, keys: tuple[str, ...]) -> None:
        self.task, self.manager = task, manager
        self.env_steps, self.updates, self.best = 0, 0, -np.inf
        self._best_weights = manager.get_agent().get_weights()
        self._open_returns = np.zeros(manager.kwargs["num_parallel"])
        self._returns: list[float] = []
        self._bar = tqdm(total=task.env_steps, unit="step", disable=None)  # no bar unless on a terminal
        units = {"reward": "sum of an episode"}
        manager.initialize_aggregator(out / "progress", 100, aggregator_keys=[*keys, "reward"], units=units)

    def goes_on(self) -> bool:
        """Whether steps are left and the task is not solved."""
        return self.env_steps < self.task.env_steps and self.best < self.task.solved

    def collect(self) -> dict[str, np.ndarray]:
        """Collects with `manager.get_data()` and counts the steps."""
        data = self.manager.get_data()
        self.env_steps += len(data["reward"])
        self._bar.update(len(data["reward"]))
        self._returns = self._finished(data)
        return data

    def learned(self, updates: int, **values: Any) -> None:
        """Counts updates after `manager.set_agent`, and gives `values` to the aggregator.

        Every `evaluate_every` steps the weights are evaluated, and kept if they are the best so far.
        """
        self.updates += updates
        self.manager.update_aggregator(reward=self._returns, **values)
        shown = {name: f"{np.mean(value):.3g}" for name, value in values.items()}
        self._bar.set_postfix(best=f"{self.best:.4g}", **shown)
        if self.env_steps % self.task.evaluate_every < self.manager.kwargs["total_steps"]:
            self._evaluate()

    def finish(self) -> dict[str, float]:
        """Restores the best weights; returns the cost of the training."""
        self._bar.close()
        self.manager.set_agent(self._best_weights)
        return {
            "env_steps": self.env_steps,
            "updates": self.updates,
            "wall_seconds": time.perf_counter() - STARTED,
        }

    def _evaluate(self) -> None:
        if self._score(self.task.few) > self.best and (score := self._score(self.task.many)) > self.best:
            self.best, self._best_weights = score, self.manager.get_agent().get_weights()

    def _score(self, episodes: int) -> float:
        return float(np.mean(self.manager.test(self.task.max_steps, episodes, evaluation_measure="reward")))

    def _finished(self, data: dict[str, np.ndarray]) -> list[float]:
        """Returns of finished episodes; rows are ordered by agent, and the next call continues open episodes."""
        agents, found = len(self._open_returns), []
        ends = data["not_done"].reshape(agents, -1) == 0
        unscaled = data["reward"].astype(np.float64) / self.manager.kwargs["reward_scale"]
        for agent, rewards in enumerate(unscaled.reshape(agents, -1)):
            sums = self._open_returns[agent] + np.cumsum(rewards)
            at_ends = np.append(0.0, sums[ends[agent]])
            found += np.diff(at_ends).tolist()
            self._open_returns[agent] = sums[-1] - at_ends[-1]
        return found


def main(
    example: str,
    task: Task,
    make_manager: Callable[[int], SampleManager],
    train: Callable[[Run], None],
    keys: tuple[str, ...] = ("loss",),
    use_ray: bool = True,
) -> None:
    """Reads `--seed` and `--out`, trains, saves and loads the model, and plays 100 greedy episodes.

    Args:
        example: the script's file, which names its runs.
        task: the task to learn.
        make_manager: makes a manager for a seed.
        train: trains the manager's agent while `run.goes_on()`.
        keys: names of the values that `train` gives to `run.learned`.
        use_ray: False if the manager does not use Ray.
    """
    name = Path(example).stem
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help=f"folder for results (default: runs/{name}_<seed>)")
    arguments = parser.parse_args()
    out = arguments.out or Path("runs") / f"{name}_{arguments.seed}"
    tf.keras.utils.set_random_seed(arguments.seed)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    if use_ray:
        ray.init(include_dashboard=False, log_to_driver=False)
    with make_manager(arguments.seed) as manager:
        run = Run(task, manager, out, keys)
        train(run)
        result = {"task": task.name, "seed": arguments.seed, **run.finish()}
        result |= _play(manager, out, task, result["env_steps"])
    (out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"100 greedy episodes: {result['mean_return']:.1f} ± {result['std_return']:.1f}")
    print(f"learning curve: {manager.aggregator.plot()}")


def _play(manager: SampleManager, out: Path, task: Task, epoch: int) -> dict[str, float]:
    manager.save_model(out / "models", epoch)
    manager.load_model(out / "models")
    returns = manager.test(task.max_steps, test_episodes=100, evaluation_measure="reward", do_print=True)
    return {"mean_return": float(np.mean(returns)), "std_return": float(np.std(returns))}
