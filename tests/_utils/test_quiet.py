"""TensorFlow's C++ lines are left out, and nothing else."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from really._utils import quiet

ROOT = Path(__file__).resolve().parents[2]

NOISE = b"""WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795880288.861482   30579 port.cc:153] oneDNN custom operations are on.
To enable the following instructions: AVX2, rebuild TensorFlow with the appropriate compiler flags.
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
"""


def test_lines_of_tensorflow_are_left_out_and_others_come_in_order(monkeypatch: Any, capfd: Any) -> None:
    monkeypatch.delenv(quiet.VARIABLE)
    with contextlib.suppress(ValueError), quiet.without_start_lines():
        os.write(2, b"first\n" + NOISE + b"second\nIn E0 there is no number\n")
        raise ValueError
    assert capfd.readouterr().err == "first\nsecond\nIn E0 there is no number\n"


def test_a_level_that_is_set_leaves_all_lines(monkeypatch: Any, capfd: Any) -> None:
    monkeypatch.setenv(quiet.VARIABLE, "0")
    quiet.be_quiet()
    with quiet.without_start_lines():
        os.write(2, NOISE)
    assert capfd.readouterr().err == NOISE.decode()


@pytest.mark.parametrize(("imported", "level"), [({"jax": None}, "3"), ({}, "1")])
def test_the_level_that_jax_sets_is_not_the_users(imported: dict[str, None], level: str, monkeypatch: Any) -> None:
    monkeypatch.setenv(quiet.VARIABLE, "1")
    monkeypatch.setattr(sys, "modules", imported)
    quiet.be_quiet()
    assert os.environ[quiet.VARIABLE] == level


QUICK_START = """
from really import SampleManager
from really.models import mlp
from really.learners import DQNLearner
how = {"num_steps": 10, "use_ray": False, "action_sampling_type": "epsilon_greedy"}
with SampleManager(mlp, "CartPole-v1", 2, 20, model_kwargs={"observation": 4, "outputs": 2}, **how) as manager:
    manager.get_data()
    manager.test(20)  # has an interpreter of its own
"""


SAVING = """
from really import SampleManager
from really.models import mlp
how = {"num_steps": 10, "use_ray": False, "action_sampling_type": "epsilon_greedy"}
with SampleManager(mlp, "CartPole-v1", 2, 20, model_kwargs={"observation": 4, "outputs": 2}, **how) as manager:
    manager.save_model("models", epoch=0)
"""

LOADING = """
from really import Agent
Agent.load("models").act([0.0, 0.0, 0.0, 0.0])
"""


def written(script: str, folder: Path) -> tuple[int, str, str]:
    """Code, stdout and stderr of a script in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name != quiet.VARIABLE}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_collecting_with_tensorflow_writes_nothing(tmp_path: Path) -> None:
    assert written(QUICK_START, tmp_path) == (0, "", "")


@pytest.mark.slow
def test_loading_an_agent_writes_nothing(tmp_path: Path) -> None:
    assert written(SAVING, tmp_path) == (0, "", "")
    assert written(LOADING, tmp_path) == (0, "", "")


LATE = """
import os
import tensorflow as tf
os.write(2, b"imported")
from really import SampleManager
from really.learners import DQNLearner
from really.models import mlp
how = {"num_steps": 10, "use_ray": False, "action_sampling_type": "epsilon_greedy"}
with SampleManager(mlp, "CartPole-v1", 2, 20, model_kwargs={"observation": 4, "outputs": 2}, **how) as manager:
    DQNLearner(manager, tf.keras.optimizers.Adam(), target_rate=0.01).update(manager.get_data())
"""


@pytest.mark.slow
def test_a_tensorflow_that_is_imported_before_writes_nothing_afterwards(tmp_path: Path) -> None:
    code, out, error = written(LATE, tmp_path)
    assert (code, out, error.partition("imported")[2]) == (0, "", "")


FIRST_IMPORTS = {
    "event files": """
from really.metrics.aggregator import Aggregator
aggregator = Aggregator("run", 1, ["loss"], tensorboard=True)
aggregator.update(loss=1.0)
""",
    "tensors": """
from really import ReplayBuffer
buffer = ReplayBuffer(4)
buffer.put({"reward": [1.0]})
next(iter(buffer.batches(2, as_="tf")))
""",
    "learners": """
import really.learners
import tensorflow as tf
tf.constant(1)
""",
    "datasets": """
from really.utils import dict_to_dataset
dict_to_dataset({"reward": [1.0]})
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("script", FIRST_IMPORTS.values(), ids=FIRST_IMPORTS)
def test_a_call_that_imports_tensorflow_first_writes_nothing(tmp_path: Path, script: str) -> None:
    assert written(script, tmp_path) == (0, "", "")
