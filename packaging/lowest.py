"""Tests the lowest versions that pyproject.toml allows: all extras together, and NumPy's lowest with the core alone.

uv resolves each named requirement to its lowest version, in environments of their own. `make test-lowest` runs this.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
UV = Path(sys.executable).parent / "uv"
PYTHON = ROOT / ".venv" / "bin" / "python"
EXTRAS = ("tensorflow", "ray", "plots", "gym", "atari", "minari", "video", "test")
# Each environment: its extras, further packages, and its tests.
CORE = ("lowest-core", (), ("pytest", "pytest-timeout", "hypothesis", "scipy==1.15.*"))
ALL = ("lowest", EXTRAS, ())
CORE_TESTS = (
    "tests/data/test_schema.py",
    "tests/data/test_spaces.py",
    "tests/replay/test_buffer_api.py",
    "tests/replay/test_buffer_machine.py",
    "tests/replay/test_frames.py",
    "tests/replay/test_n_step.py",
    "tests/replay/io/test_saving.py",
)
ALL_TESTS = (
    "tests/agents/test_agent.py",
    "tests/checkpoints/test_checkpoints.py",
    "tests/checkpoints/test_training_state.py",
    "tests/envs/test_environments.py",
    "tests/envs/test_environments_native.py",
    "tests/evaluation/test_film.py",
    "tests/manager/test_config.py",
    "tests/metrics",
    "tests/policies",
    "tests/replay/io",
    "tests/replay/test_buffer_inputs.py",
    "tests/test_readme.py::test_the_quick_start_runs_as_it_stands",
)


def run(*command: str | Path, **variables: str) -> None:
    """Runs a command in the checkout; ends this program if it fails."""
    print("$", *command, flush=True)
    done = subprocess.run([str(part) for part in command], cwd=ROOT, env=os.environ | variables)
    if done.returncode:
        sys.exit(f"lowest: {command[0]} ended with {done.returncode}")


def check(name: str, extras: tuple[str, ...], packages: tuple[str, ...], tests: tuple[str, ...]) -> None:
    """Makes an environment anew with the lowest versions, and runs its tests on the checkout."""
    venv = ROOT / f".venv-{name}"
    python = venv / "bin" / "python"
    run(UV, "venv", "--quiet", "--clear", "--python", PYTHON, venv)
    wanted = [part for extra in extras for part in ("--extra", extra)]
    lowest = ("--resolution", "lowest-direct", "--requirements", "pyproject.toml")
    run(UV, "pip", "install", "--quiet", "--python", python, *lowest, *wanted)
    if packages:
        run(UV, "pip", "install", "--quiet", "--python", python, *packages)
    run(UV, "pip", "list", "--python", python)
    # Other versions give other warnings, which are no errors here.
    run(python, "-m", "pytest", "-W", "default", "-p", "no:cacheprovider", *tests, PYTHONPATH=str(ROOT))


if __name__ == "__main__":
    check(*CORE, CORE_TESTS)
    check(*ALL, ALL_TESTS)
