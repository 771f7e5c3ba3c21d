"""Installs: what `import really` needs, what a missing package is answered with, and the commands that texts tell."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import really
from really._utils.packages import DISTRIBUTION, check_installed, install_command, needed
from really.errors import MissingPackageError

ROOT = Path(__file__).parents[1]
METADATA = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = set(METADATA["optional-dependencies"])
# Other distributions whose install commands a text may tell.
OTHERS = {"auditwheel", "check-jsonschema", "gymnasium", "minari"}
TEXTS = [
    path
    for pattern in ("*.md", "Makefile", "docs/**/*.md", "really/**/*.py", "examples/*.py", ".github/**/*.yml")
    for path in sorted(ROOT.glob(pattern))
]
# A distribution, with extras or without; also across the end of a line, and as Python and YAML quote it.
COMMAND = re.compile(r"pip\s+install\s+((?:-\S+\s+)*)[\"'`]*([\w.-]+)(?:\[([\w,{}-]+)\])?")

# Only the standard library, NumPy and the named packages can be imported.
ONLY = """
import sys
allowed = {{"numpy", "really", *sys.stdlib_module_names, *{allowed!r}}}

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refuse())
import tempfile, numpy as np, really
folder = tempfile.mkdtemp()
def missing(use):
    try:
        use()
    except really.MissingPackageError as error:
        print(error)
    else:
        print("nothing is missing")
"""

NUMPY_ONLY = """
import really.errors, really.replay, really.metrics, really._utils.progress
assert "SampleManager" in dir(really)
with really.ReplayBuffer(50, path=folder + "/rows", seed=0) as stored:
    stored.put({"state": np.ones((20, 3), np.float32), "reward": np.arange(20.0)})
    assert stored.sample(8)["state"].shape == (8, 3)
buffer = really.ReplayBuffer(50, alpha=0.6, n_step=2, gamma=0.9, seed=0)
buffer.put({name: np.zeros(9, np.float32) for name in ("state", "reward", "state_new", "terminal", "episode_end")})
assert len(buffer.sample(4, beta=0.4)["reward"]) == 4
missing(lambda: really.SampleManager)
missing(lambda: really.atari("pong"))
missing(lambda: next(buffer.batches(4, as_="torch")))
missing(lambda: buffer.dataset(4))
missing(lambda: __import__("really.learners"))
"""

NO_FRAMEWORK = """
def make(model=None, **options):
    return really.SampleManager(model, "CartPole-v1", 1, 10, action_sampling_type="epsilon_greedy", **options)

missing(lambda: make())
from really.envs import envpool
missing(lambda: envpool("Pong-v5"))
manager = make(lambda state: {"q_values": state[:, :2]}, use_ray=False)
print(len(manager.get_data()["action"]) >= 10, manager.info()["framework"])
missing(lambda: really.compare({"x": folder}, path=folder + "/x"))
"""


def run(code: str, allowed: tuple[str, ...] = ()) -> list[str]:
    """The lines that code printed in a process which can import NumPy, `really` and the allowed packages only."""
    command = [sys.executable, "-W", "error", "-c", ONLY.format(allowed=allowed) + code]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout.splitlines()


def test_the_buffer_works_with_numpy_alone() -> None:
    assert run(NUMPY_ONLY) == [
        "really.SampleManager: expected the packages that this one depends on, got no package gymnasium: "
        "pip install really-rl",
        "really.atari: expected the packages that this one depends on, got no package gymnasium: pip install really-rl",
        "as_='torch': expected PyTorch, got no package torch: pip install 'really-rl[torch]'",
        "dataset: expected TensorFlow, got no package tensorflow: pip install 'really-rl[tensorflow]'",
        "really.learners: expected TensorFlow, got no package tensorflow: pip install 'really-rl[tensorflow]'",
    ]


def test_a_manager_without_a_framework_takes_a_callable_and_without_ray_says_what_it_needs() -> None:
    pytest.importorskip("gymnasium")
    core = ("gymnasium", "pyarrow", "tqdm", "cloudpickle", "farama_notifications", "typing_extensions", "pygame")
    assert run(NO_FRAMEWORK, core) == [
        "SampleManager: expected Ray for runners in processes of their own, got no package ray: "
        "pip install 'really-rl[ray]', or use_ray=False",
        "envpool('Pong-v5'): expected EnvPool for its environments, got no package envpool: "
        "pip install 'really-rl[envpool]'",
        "True callable",
        "path: expected matplotlib for its figure, got no package matplotlib: pip install 'really-rl[plots]'",
    ]


def test_an_atari_id_without_ale_py_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gymnasium")
    from really.envs.spec import EnvironmentSpec

    monkeypatch.setitem(sys.modules, "ale_py", None)
    expected = r"^environment: expected ale_py for 'ALE/X-v5', got no package ale_py: pip install 'really-rl\[atari\]'$"
    with pytest.raises(MissingPackageError, match=expected):
        EnvironmentSpec("ALE/X-v5", {}, None, True).probe()


def test_a_broken_package_is_not_called_missing() -> None:
    broken = r"^x: expected Y, got ImportError: libz: no such file: pip install 'really-rl\[ray\]', or z$"
    with pytest.raises(MissingPackageError, match=broken), needed("x", "Y", "ray", "z"):
        raise ImportError("libz: no such file")
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'really\.nothing'$"), needed("x", "Y", None):
        importlib.import_module("really.nothing")


def test_a_package_is_looked_for_without_an_import(monkeypatch: pytest.MonkeyPatch) -> None:
    check_installed("xmlrpc.server", "x", "Y", "ray")
    assert "xmlrpc.server" not in sys.modules
    for absent in ("no_such_package", "xmlrpc"):
        monkeypatch.setitem(sys.modules, "xmlrpc", None)
        with pytest.raises(MissingPackageError, match=f"got no package {absent}: pip install 'really-rl"):
            check_installed(absent, "x", "Y", "ray")


def test_names_are_loaded_from_where_type_checkers_see_them() -> None:
    pytest.importorskip("gymnasium")
    source = ast.parse((ROOT / "really" / "__init__.py").read_text())
    (choice,) = (node for node in source.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in choice.body for alias in node.names if isinstance(node, ast.ImportFrom)}
    (loads,) = (node for node in ast.walk(choice) if isinstance(node, ast.Call) and node.keywords)
    assert {keyword.arg: ast.literal_eval(keyword.value) for keyword in loads.keywords} == seen
    assert all(getattr(really, name) is getattr(importlib.import_module(module), name) for name, module in seen.items())
    assert set(really.__all__) <= set(dir(really))
    with pytest.raises(AttributeError, match="module 'really' has no attribute 'ReplayBufer'"):
        really.ReplayBufer  # noqa: B018


def unknown_commands(text: str) -> list[str]:
    """Install commands that would install something else: another project's name, or an extra that is not there."""
    found = []
    for match in COMMAND.finditer(text):
        _, name, extras = match.groups()
        known = name in OTHERS or (name in (DISTRIBUTION, ".") and set((extras or "all").split(",")) <= EXTRAS)
        if not known and "{" not in match[0]:
            found.append(match[0])
    return found


def test_every_install_command_names_this_distribution_and_its_extras() -> None:
    assert METADATA["name"] == DISTRIBUTION
    found = {path.relative_to(ROOT).as_posix(): unknown_commands(path.read_text()) for path in TEXTS}
    assert {path: commands for path, commands in found.items() if commands} == {}
    assert sum(len(COMMAND.findall(path.read_text())) for path in TEXTS) >= 5
    assert unknown_commands("pip install 'really[video]' or pip\ninstall really-rl[vidoe]") == [
        "pip install 'really[video]",
        "pip\ninstall really-rl[vidoe]",
    ]


def test_every_extra_that_the_code_names_is_in_the_metadata() -> None:
    named = set()
    for path in ROOT.glob("really/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                at = {"needed": 2, "_needed": 2, "check_installed": 3}.get(node.func.id)
                named |= {node.args[at].value} if at and isinstance(node.args[at], ast.Constant) else set()
    assert {"ray", "tensorflow", "plots", None} <= named <= EXTRAS | {None}
    assert install_command("ray") == "pip install 'really-rl[ray]'"


def test_the_page_of_installs_has_a_row_for_each_extra() -> None:
    page = (ROOT / "docs" / "install.md").read_text()
    rows = "".join(re.findall(r"^\| (`[^|]+) \|", page, re.MULTILINE))
    assert set(re.findall(r"`([\w]+)`", rows)) == EXTRAS - {"test", "bench", "docs"}


def test_a_wheel_is_built_for_each_python_that_the_metadata_names() -> None:
    told = re.findall(r"Python :: (3\.\d+)$", "\n".join(METADATA["classifiers"]), re.MULTILINE)
    wheels = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["cibuildwheel"]["build"]
    assert wheels.split() == [f"cp{version.replace('.', '')}-*" for version in told]
    assert told[0] == METADATA["requires-python"].removeprefix(">=")
    for page in ("README.md", "docs/install.md"):
        assert f"CPython {told[0]} to {told[-1]}" in (ROOT / page).read_text()


def test_workflows_and_contributors_get_targets_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z0-9-]+):", makefile, re.MULTILINE))
    assert targets <= {*re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)[1].split()}
    texts = [path.read_text() for path in (*ROOT.glob(".github/workflows/*.yml"), ROOT / "CONTRIBUTING.md")]
    assert len(texts) == 6
    named = set(re.findall(r"(?:`|run: |^)make ([a-z][a-z0-9-]+)", "\n".join(texts), re.MULTILINE))
    matrix = re.search(r"target: \[(.+)\]", (ROOT / ".github/workflows/test.yml").read_text())[1]
    assert named | {*matrix.split(", ")} <= targets
    assert {"lint", "test", "wheels", "test-lowest"} <= named | {*matrix.split(", ")}


def test_each_target_of_make_has_the_rules_that_it_needs() -> None:
    targets = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    for target in targets:
        done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
