"""bench: measures this machine: rows sampled and steps collected a second."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

EXAMPLES = """really bench
really bench --seconds 2 --json
"""
# Rates of docs/speed.md, on 2 cores of an AMD EPYC.
DOCUMENTED = {"sampled CartPole rows a second, batches of 256": 215e6, "collected CartPole steps a second": 225_110}
ROWS, BATCH, AGENTS = 100_000, 256, 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("--seconds", type=float, default=10.0, help="for each measurement (default: 10)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(given: argparse.Namespace) -> None:
    """Prints the rates of this machine beside those that are documented."""
    from really._utils.checks import checked_positive
    from really.cli.output import show
    from really.replay.engine import CPU_LEVEL

    seconds = checked_positive("--seconds", given.seconds)
    measures = dict(zip(DOCUMENTED, (_sampling, _collecting), strict=True))
    found = {name: {"here": _rate(make, seconds), "documented": DOCUMENTED[name]} for name, make in measures.items()}
    show({"kernels": CPU_LEVEL, **found}, given.json)


def _rate(make: Callable[[], Callable[[], int]], seconds: float) -> Any:
    """Rows a second of the function that `make` returns, or why it cannot be made."""
    from really.errors import MissingPackageError

    try:
        work = make()
    except MissingPackageError as error:
        return str(error)
    work()
    rows, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        rows += work()
    return rows / (time.perf_counter() - start)


def _sampling() -> Callable[[], int]:
    import numpy as np

    from really.replay.buffer import ReplayBuffer

    buffer, rng = ReplayBuffer(ROWS), np.random.default_rng(0)
    states = rng.random((ROWS + 1, 4), np.float32)
    numbers = np.zeros(ROWS, np.float32)
    rows = {"state": states[:-1], "action": numbers.astype(np.int64), "reward": numbers, "state_new": states[1:]}
    buffer.put({**rows, "terminal": numbers})

    def work() -> int:
        for _ in range(100):
            buffer.sample(BATCH)
        return 100 * BATCH

    return work


def _collecting() -> Callable[[], int]:
    from really._utils.quiet import tensorflow, without_start_lines
    from really.manager.sample_manager import SampleManager

    tf = tensorflow("really bench", "TensorFlow for the model")

    def network() -> Any:
        state = tf.keras.Input((4,))
        hidden = tf.keras.layers.Dense(64, activation="relu")(tf.keras.layers.Dense(64, activation="relu")(state))
        return tf.keras.Model(state, {"q_values": tf.keras.layers.Dense(2)(hidden)})

    how: dict[str, Any] = {"action_sampling_type": "epsilon_greedy", "num_steps": 512, "use_ray": False}
    with without_start_lines():
        manager = SampleManager(network, "CartPole-v1", AGENTS, AGENTS * 512, **how)
    return lambda: len(manager.get_data(progress=False)["reward"])
