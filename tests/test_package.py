"""The package: imports stay light, the buffer works alone, and the wheel is complete and works without the checkout."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import pickle
import pickletools
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
from setuptools import find_packages

import really

ROOT = Path(__file__).parents[1]
SITE_PACKAGES = sysconfig.get_path("purelib")

USE_BUFFER = """
import numpy as np
from really import ReplayBuffer
buffer = ReplayBuffer(100, ["state", "reward"], seed=0)
buffer.put({"state": np.arange(40, dtype=np.float32).reshape(10, 4), "reward": [1.0] * 10})
batch = buffer.sample(32)
assert batch["state"].shape == (32, 4)
assert batch["reward"].sum() == 32
"""

COLLECT = """
import gymnasium
import tensorflow as tf
from really import SampleManager

def network():
    state = tf.keras.Input((4,))
    return tf.keras.Model(state, {"q_values": tf.keras.layers.Dense(2)(state)})

with SampleManager(network, "CartPole-v1", 2, 20, num_steps=10, num_workers=1, use_ray=USE_RAY) as manager:
    assert len(manager.get_data()["reward"]) == 20
"""

BLOCK = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Refuse())
"""


def run(code: str, cwd: Path, python: str | Path = sys.executable, **environment: str) -> str:
    """Runs code in a process of its own, outside the checkout; returns what it wrote to both streams."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables |= {"TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    done = subprocess.run(
        [python, "-c", code], cwd=cwd, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_public_modules_are_attributes_and_completion_shows_their_names(tmp_path: Path) -> None:
    names = (
        "checkpoints",
        "envs",
        "errors",
        "evaluation",
        "learners",
        "manager",
        "metrics",
        "models",
        "replay",
        "utils",
    )
    code = f"""
import really, sys
for name in {names}:
    module = getattr(really, name)
    assert module is sys.modules[f"really.{{name}}"]
    assert [each for each in dir(module) if not each.startswith("__")] == sorted(module.__all__), dir(module)
assert [each for each in dir(really) if not each.startswith("__")] == sorted(really.__all__), dir(really)
"""
    run(code, tmp_path, PYTHONPATH=str(ROOT))


def test_the_import_is_light(tmp_path: Path) -> None:
    heavy = ("tensorflow", "keras", "ray", "matplotlib", "pyarrow", "ai_edge_litert", "ale_py", "gym")
    code = "import sys, really; from really import SampleManager, ReplayBuffer; print(*sys.modules)"
    imported = set(run(code, tmp_path, PYTHONPATH=str(ROOT)).split())
    assert "really.manager.sample_manager" in imported
    assert not imported & set(heavy)


def test_the_buffer_needs_no_heavy_package(tmp_path: Path) -> None:
    block = BLOCK.replace("BLOCKED", repr(("tensorflow", "keras", "ray", "matplotlib")))
    run(block + USE_BUFFER, tmp_path, PYTHONPATH=str(ROOT))
    refused = "\ntry:\n    import ray\nexcept ImportError as error:\n    print(error)"
    assert run(block + refused, tmp_path) == "ray is blocked\n"


def test_it_is_importable_from_any_folder(tmp_path: Path) -> None:
    """`make setup` installs the checkout, so the interpreter finds the package without a path."""
    if not list(Path(SITE_PACKAGES).glob("really_rl-*.dist-info")):
        pytest.skip("not installed in this environment: `make setup` does it")
    assert run("import really; print(really.__version__)", tmp_path).strip() == really.__version__


# Asserts that the processes which this one started, and theirs, listen on local addresses only (little-endian).
LISTENING = """
import os, pathlib
family, grown = {os.getpid()}, True
parents = {}
for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
    try:
        parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    except OSError:
        pass
while grown:
    members = {pid for pid, parent in parents.items() if parent in family}
    grown = not members <= family
    family |= members
sockets = set()
for pid in family:
    for file in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        try:
            sockets.add(os.readlink(file))
        except OSError:
            pass
found = []
for table in ("tcp", "tcp6"):
    for line in pathlib.Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
            found.append(fields[1].partition(":")[0])
assert len(found) >= 3, found
assert all(address.endswith("0100007F") for address in found), found
"""


@pytest.mark.xdist_group("ray")
def test_a_manager_starts_ray_if_it_is_not_running(tmp_path: Path) -> None:
    running = "\nimport ray\nassert ray.is_initialized()\n"
    code = f"{COLLECT.replace('USE_RAY', 'True')}{running}{LISTENING}\nray.shutdown()"
    said = run(code, tmp_path, PYTHONPATH=str(ROOT))
    assert "Ray is not initialised: starting it on this machine" in said


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist of the checkout's files and the wheel built from it, offline and outside the checkout."""
    folder = tmp_path_factory.mktemp("build")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, files.split("\0")):
        if (ROOT / name).exists():
            (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "tree" / name).write_bytes((ROOT / name).read_bytes())
    # The tests look at the contents of the wheel, not at its speed, and optimisation takes most of the build.
    compiler = folder / "compiler"
    compiler.write_text(f'#!/bin/sh\nexec {os.environ.get("CC", "cc")} "$@" -O0\n')
    compiler.chmod(0o755)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(folder / "tree")]
    quick = {**os.environ, "CC": str(compiler)}
    built = subprocess.run(command, env=quick, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert built.returncode == 0, built.stdout
    (sdist,), (wheel,) = (folder / "dist").glob("*.tar.gz"), (folder / "dist").glob("*.whl")
    return sdist, wheel


def test_the_sdist_holds_sources_only(distributions: tuple[Path, Path]) -> None:
    with tarfile.open(distributions[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    paths = [path for path in (ROOT / "csrc").rglob("*") if path.suffix in {".pyx", ".pxd", ".h"}]
    sources = {str(path.relative_to(ROOT)) for path in paths} | package_files()
    others = {
        "bench/compare.py",
        "docs/reference.md",
        "packaging/aarch64.py",
        "packaging/wheels.py",
        ".github/workflows/test.yml",
        "CONTRIBUTING.md",
    }
    assert sources | others | {"README.md", "LICENSE", "Makefile", "setup.py", "pyproject.toml"} <= names
    assert not {name for name in names if name.endswith((".c", ".so", ".pyc")) or name.startswith(("build/", "runs/"))}


def test_the_wheel_holds_the_package_only(distributions: tuple[Path, Path]) -> None:
    names = set(zipfile.ZipFile(distributions[1]).namelist())
    assert package_files() - names == set()
    assert {name.partition("/")[0] for name in names} == {"really", f"really_rl-{really.__version__}.dist-info"}
    for extension in ("replay/_ring", "replay/_sum_tree", "replay/_trajectories", "_utils/_step"):
        assert any(name.startswith(f"really/{extension}.") and name.endswith(".so") for name in names)


def test_the_long_description_has_links_that_work_anywhere(distributions: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(distributions[1]) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        about = message_from_string(wheel.read(name).decode())
    assert (about["Name"], about["Version"]) == ("really-rl", really.__version__)
    assert about["Description-Content-Type"] == "text/markdown"
    text = about.get_payload()
    assert isinstance(text, str)
    urls = dict(entry.split(", ") for entry in about.get_all("Project-URL"))
    repository, place = urls["Repository"], f"v{really.__version__}"
    raw = repository.replace("github.com", "raw.githubusercontent.com")
    links = re.findall(r"(!?)\[[^]]*\]\(([^)]+)\)", text)
    assert len(links) >= 20
    for image, link in links:
        start = f"{raw}/{place}/" if image else f"{repository}/blob/{place}/"
        path, _, _ = link.removeprefix(start).partition("#")
        assert link.startswith(start), link
        assert (ROOT / path).exists(), link
    assert {link.startswith(repository) for link in urls.values()} == {True}
    if importlib.util.find_spec("readme_renderer") is None:
        return  # `make dist` renders it, too
    from readme_renderer.markdown import render

    shown = render(text)
    assert shown is not None
    assert shown.count("<img") == len([image for image, _ in links if image])


def package_files() -> set[str]:
    """Modules, stubs and the type marker of the package, by path."""
    found = [path for path in (ROOT / "really").rglob("*") if path.suffix in {".py", ".pyi"} or path.name == "py.typed"]
    paths = {path.relative_to(ROOT).as_posix() for path in found}
    stubs = {"really/replay/_ring.pyi", "really/replay/_sum_tree.pyi", "really/_utils/_step.pyi"}
    assert {"really/py.typed", *stubs} <= paths
    return paths


def test_no_wing_is_forgotten() -> None:
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    folders = {str(Path(name).parent).replace(os.sep, ".") for name in package_files()}
    assert set(find_packages(str(ROOT), **options)) == folders
    assert set(find_packages(str(ROOT), include=["really"])) != folders, "a list by hand would forget the wings"


def test_the_wheel_works_without_the_checkout(distributions: tuple[Path, Path], tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    python = venv / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(distributions[1])], check=True)
    (packages,) = venv.glob("lib/python*/site-packages")
    # A plain path: the .pth files in SITE_PACKAGES, one of which names the checkout, have no effect this way.
    (packages / "dependencies.pth").write_text(SITE_PACKAGES + "\n")
    where = run("import really; print(really.__file__)", tmp_path, python).strip()
    assert Path(where).is_relative_to(venv)
    run(USE_BUFFER + COLLECT.replace("USE_RAY", "False"), tmp_path, python)


@pytest.mark.parametrize("package", ["replay", "manager", "metrics", "learners", "evaluation", "envs", "checkpoints"])
def test_public_classes_belong_to_their_package(package: str) -> None:
    public = importlib.import_module(f"really.{package}")
    classes = {name: getattr(public, name) for name in public.__all__ if inspect.isclass(getattr(public, name))}
    assert {name: kind.__module__ for name, kind in classes.items()} == dict.fromkeys(classes, public.__name__)


def test_a_pickle_names_public_packages_only() -> None:
    from really import ReplayBuffer
    from really.replay import Priorities

    buffer = ReplayBuffer(10, seed=0, alpha=0.5)
    buffer.put({"x": [1.0, 2.0]})
    for thing in (buffer, ReplayBuffer(5), Priorities(5)):
        named = {
            argument.split()[0] for _, argument, _ in pickletools.genops(pickle.dumps(thing, 2)) if is_name(argument)
        }
        assert named == {"really.replay"}


def is_name(argument: object) -> bool:
    """Whether an argument of a pickle's instruction names a module of this package."""
    return isinstance(argument, str) and argument.startswith("really")


def test_python_3_11_is_the_oldest() -> None:
    assert 'requires-python = ">=3.11"' in (ROOT / "pyproject.toml").read_text()
