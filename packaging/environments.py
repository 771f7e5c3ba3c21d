"""Tests installs that lack something: an environment of its own for each, and the tests that fit into it.

    python packaging/environments.py [numpy core no-tensorflow no-ray torch onnx jax ...]

An environment has what the metadata names for its extras, and the tools of the tests. The package itself is the
checkout, whose compiled core `make setup` has built for the same Python. `make test-frameworks` runs this.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
METADATA = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TOOLS = ("pytest", "pytest-timeout", "hypothesis", "scipy", "setuptools")
CLASSIC = ("gymnasium[classic-control]",)
# The version of the benchmarks, which indexes have without CUDA, too.
TORCH = "torch==2.13.0"
NUMPY_TESTS = (
    "tests/test_install.py",
    "tests/_utils/test_checks.py",
    "tests/_utils/test_file_formats.py",
    "tests/data/test_returns.py",
    "tests/data/test_schema.py",
    "tests/replay/test_buffer_api.py",
    "tests/replay/test_priorities.py",
    "tests/replay/test_n_step.py::test_a_table_by_hand",
)
CORE_TESTS = (
    *NUMPY_TESTS[:-1],
    "tests/collectors/test_demand.py",
    "tests/collectors/test_rate_limiter.py",
    "tests/replay/disk/test_disk_refusals.py",
    "tests/replay/disk/test_moments.py",
    "tests/replay/io/test_saving.py",
    "tests/replay/test_buffer_machine.py",
    "tests/replay/test_frames.py",
    "tests/replay/test_n_step.py",
    "tests/replay/test_share_rate.py",
)


@dataclass(frozen=True)
class Environment:
    """What an environment has, and the tests that it runs.

    Attributes:
        extras: extras of the metadata, with the core dependencies; None for NumPy alone.
        absent: packages that must not be importable, lest another one brought them.
        tests: paths and names of tests.
        packages: further packages.
        variables: environment variables of the tests.
    """

    extras: tuple[str, ...] | None
    absent: tuple[str, ...]
    tests: tuple[str, ...]
    packages: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()

    @property
    def requirements(self) -> list[str]:
        """What pip installs."""
        if self.extras is None:
            return ["numpy", *TOOLS, *self.packages]
        optional = METADATA["optional-dependencies"]
        return [
            *METADATA["dependencies"],
            *(name for extra in self.extras for name in optional[extra]),
            *TOOLS,
            *self.packages,
        ]


ENVIRONMENTS = {
    "numpy": Environment(None, ("pyarrow", "gymnasium", "tensorflow", "ray"), NUMPY_TESTS),
    "core": Environment((), ("tensorflow", "ray", "matplotlib"), CORE_TESTS),
    "no-tensorflow": Environment(
        ("ray", "plots", "hdf5"),
        ("tensorflow", "keras"),
        (
            "tests/test_install.py",
            "tests/frameworks/test_callables.py",
            "tests/metrics/test_comparison.py",
        ),
        CLASSIC,
    ),
    "no-ray": Environment(
        ("tensorflow", "plots"),
        ("ray",),
        (
            "tests/test_install.py",
            "tests/agents/test_lending.py",
            "tests/agents/test_model_state.py",
            "tests/checkpoints/test_checkpoints.py",
            "tests/checkpoints/test_training_state.py",
            "tests/manager/test_config.py",
            "tests/replay/test_dataset.py",
        ),
        CLASSIC,
    ),
    "torch": Environment(
        ("torch",),
        ("tensorflow", "ray", "jax"),
        ("tests/test_install.py", "tests/frameworks"),
        (*CLASSIC, "keras", TORCH),
        (("KERAS_BACKEND", "torch"),),
    ),
    "onnx": Environment(
        ("torch", "onnx"),
        ("tensorflow", "ray", "jax", "keras"),
        ("tests/frameworks/test_onnx.py",),
        (*CLASSIC, TORCH),
    ),
    "jax": Environment(
        ("jax",),
        ("tensorflow", "ray", "torch"),
        ("tests/test_install.py", "tests/frameworks"),
        (*CLASSIC, "flax", "keras", "optax"),
        (("KERAS_BACKEND", "jax"),),
    ),
}


def run(*command: str | Path, **variables: str) -> None:
    """Runs a command in the checkout; ends this program if it fails."""
    print("$", *command, flush=True)
    done = subprocess.run([str(part) for part in command], cwd=ROOT, env=os.environ | variables)
    if done.returncode:
        sys.exit(f"environments: {command[0]} ended with {done.returncode}")


def check(name: str) -> None:
    """Makes an environment, or updates it, and runs its tests."""
    environment, venv = ENVIRONMENTS[name], ROOT / f".venv-{name}"
    python = venv / "bin" / "python"
    if not python.exists():
        run(sys.executable, "-m", "venv", venv)
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *environment.requirements)
    absent = [f"assert importlib.util.find_spec({package!r}) is None, {package!r}" for package in environment.absent]
    run(python, "-c", "; ".join(["import importlib.util", *absent]))
    run(
        python,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        *environment.tests,
        PYTHONPATH=str(ROOT),
        **dict(environment.variables),
    )


def main() -> None:
    """Checks the environments that the command names, or all."""
    names = sys.argv[1:] or list(ENVIRONMENTS)
    if unknown := set(names) - set(ENVIRONMENTS):
        sys.exit(f"environments: expected some of {', '.join(ENVIRONMENTS)}, got {', '.join(sorted(unknown))}")
    for name in names:
        check(name)


if __name__ == "__main__":
    main()
