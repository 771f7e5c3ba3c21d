"""What decides the dtypes of models in one process decides them in the processes of runners, too."""

from __future__ import annotations

import subprocess
import sys

import pytest

# The process that unpickles the builder has nothing set; it prints the dtype with which its own model computes.
ELSEWHERE = """
import pickle, sys
from pathlib import Path
builder = pickle.loads(Path(sys.argv[1]).read_bytes())
acting, _ = builder()
import numpy as np
print(acting(np.ones((2, 4), np.float32))["q_values"].dtype)
"""
MAKING = {
    "jax": """
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
kernel = jax.numpy.full((4, 2), 1 / 3, "float64")
def apply(parameters, state):
    return {"q_values": state @ parameters}
def make():
    return apply, kernel
""",
    "torch": """
import torch
torch.set_default_dtype(torch.float64)
class Double(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.q = torch.nn.Linear(4, 2)
    def forward(self, state):
        return {"q_values": self.q(state.to(self.q.weight.dtype))}
def make():
    return Double()
""",
}
PICKLING = """
import sys
import cloudpickle
from pathlib import Path
from gymnasium import spaces
from really.agents.models import ModelBuilder
model = make() if sys.argv[2] == "instance" else make
builder = ModelBuilder(model, {}, None, spaces.Box(-1, 1, (4,)), None, sys.argv[3])
Path(sys.argv[1]).write_bytes(cloudpickle.dumps(builder))
"""


@pytest.mark.parametrize("kind", ["instance", "function"])
@pytest.mark.parametrize("framework", ["jax", "torch"])
def test_a_model_in_64_bits_keeps_them_in_another_process(framework, kind, tmp_path):
    pytest.importorskip(framework)
    file = str(tmp_path / "builder")
    for script, arguments in ((MAKING[framework] + PICKLING, (kind, framework)), (ELSEWHERE, ())):
        command = [sys.executable, "-c", script, file, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=250)
        assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "float64"
