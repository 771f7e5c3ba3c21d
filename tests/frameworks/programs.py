"""Programs of models in a process of their own, where their framework is not imported."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
from typing import Any

SCRIPT = """
import pickle, sys
import numpy as np
from really.policies.inference import load
exported, weights = pickle.loads(sys.stdin.buffer.read())
forward = load(exported, 3)
forward.set_weights(weights)
assert forward([np.ones((3, 4), np.float32)])["q_values"].shape == (3, 2)
assert {framework!r} not in sys.modules
"""


def check_that_it_runs_without(framework: str, agent: Any, exported: Any) -> None:
    """Computes q-values `[3, 2]` of three states in another process, which must not import the framework."""
    given = pickle.dumps((dataclasses.replace(exported, build=None), agent.get_weights()))
    script = SCRIPT.format(framework=framework)
    done = subprocess.run([sys.executable, "-c", script], input=given, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()
