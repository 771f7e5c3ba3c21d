"""A process that saves checkpoints until it is killed, without TensorFlow: `saving_process.py PATH NUMBER`."""

import sys

import numpy as np

from really import ReplayBuffer
from really.checkpoints import training_state
from really.checkpoints.variables import ModelArrays
from really.data.normalisation import NormalisationOptions, RunningStatistics

ROWS, WEIGHTS = 5_000, 200_000
TASK = {"environment": "none"}
COUNTS = {"version": 1, "evaluations": 0, "steps": 0, "epoch": 0, "entropy": 1, "restarts": 0}
STATE = training_state.ManagerState({"epsilon": 0.5}, **COUNTS)


class OneArray:
    """A model with one array, which repeats one number."""

    def __init__(self, number):
        self.arrays = [np.full(WEIGHTS, number, np.float32)]

    def get_weights(self):
        return self.arrays

    def set_weights(self, arrays):
        self.arrays = arrays


def parts(model):
    """A run whose buffer has the model's number in every row."""
    buffer = ReplayBuffer(ROWS, ["reward", "state"], seed=0)
    number = model.arrays[0][0]
    buffer.put({"reward": np.full(ROWS, number), "state": np.random.default_rng(0).normal(size=(ROWS, 8))})
    statistics = RunningStatistics(NormalisationOptions(False, 10.0, False, 1.0, (-np.inf, np.inf)), {})
    models = [ModelArrays("agent", model)]
    return training_state.RunParts(TASK, models, [], {}, buffer, None, statistics)


def main():
    path, number = sys.argv[1], int(sys.argv[2])
    assert not {"tensorflow", "ray"} & sys.modules.keys()
    while True:
        number += 1
        training_state.save(parts(OneArray(number)), path, STATE, {"number": number}, keep=3)
        print(number, flush=True)


if __name__ == "__main__":
    main()
