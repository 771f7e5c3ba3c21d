"""Builds the sdist and a wheel for each Python that is on this machine, and tests each wheel in a fresh environment.

    python packaging/wheels.py [3.11 3.12 ...]

A wheel is built from the sdist, without symbols and without a path of this machine, and repaired by auditwheel, so that
it runs on other distributions of Linux. Its environment has the wheel, what it depends on, and pytest; the tests are a
copy outside of the checkout. `make wheels` runs this with the tools that it needs.
"""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# Bytes of a wheel at most: with symbols it would have three times as many.
LARGEST = 1_700_000
# Tests of the compiled core that need neither a framework nor Ray.
TESTS = tuple(f"tests/replay/test_{name}.py" for name in ("buffer_api", "buffer_machine", "frames", "n_step"))
HELPERS = ("tests/*.py", "pyproject.toml")
TOOLS = Path(sys.executable).parent


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> None:
    """Runs a command; ends this program if it fails."""
    print("$", *command, flush=True)
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=os.environ | environment)
    if done.returncode:
        sys.exit(f"wheels: {command[0]} ended with {done.returncode}")


def interpreters(versions: tuple[str, ...]) -> Iterator[Path]:
    """The Python of each version, from PATH or from pyenv. Says which are not on this machine."""
    for version in versions:
        pyenv = os.environ.get("PYENV_ROOT", str(Path.home() / ".pyenv"))
        candidates = [shutil.which(f"python{version}"), *sorted(glob.glob(f"{pyenv}/versions/{version}.*/bin/python"))]
        found = next((path for path in candidates if path and runs(path)), None)
        if found is None:
            print(f"wheels: no Python {version} on this machine")
        else:
            yield Path(found)


def runs(python: str) -> bool:
    """Whether the interpreter starts; a shim of pyenv may name a version that is not chosen."""
    return subprocess.run([python, "-c", "import venv"], capture_output=True).returncode == 0


def build(sdist: Path, python: Path, folder: Path) -> Path:
    """Builds and repairs the wheel of one Python; returns its path in `dist`."""
    # Without LDSHARED the linker would take the library path of the Python that builds into the wheel.
    flags = {"CFLAGS": "-g0", "LDSHARED": f"{os.environ.get('CC', 'cc')} -shared -Wl,-s"}
    run(TOOLS / "uv", "build", "--quiet", "--wheel", "--python", python, "--out-dir", folder, sdist, **flags)
    return repaired_wheel(folder)


def repaired_wheel(folder: Path) -> Path:
    """Repairs and checks the wheel that was built in a folder; returns its path in `dist`."""
    (built,) = folder.glob("*.whl")
    paths = f"{TOOLS}:{os.environ['PATH']}"
    run(TOOLS / "auditwheel", "repair", "--wheel-dir", folder / "repaired", built, PATH=paths)
    (repaired,) = (folder / "repaired").glob("*.whl")
    check(repaired)
    DIST.mkdir(exist_ok=True)
    return Path(shutil.copy(repaired, DIST))


def check(wheel: Path) -> None:
    """Ends this program if the wheel is too large, or its extensions name a folder of this machine."""
    size = wheel.stat().st_size
    with zipfile.ZipFile(wheel) as archive:
        extensions = {name: archive.read(name) for name in archive.namelist() if name.endswith(".so")}
    places = [os.fsencode(path) for path in (ROOT, Path.home(), tempfile.gettempdir())]
    found = [name for name, content in extensions.items() if any(place + b"/" in content for place in places)]
    if size > LARGEST or found or len(extensions) < 2:
        sys.exit(f"wheels: {wheel.name}: expected {LARGEST} bytes at most and no path of here, got {size} and {found}")
    print(f"wheels: {wheel.name} has {size:,} bytes")


def copy_tests(folder: Path, patterns: tuple[str, ...]) -> Path:
    """Copies these tests, and what they import, out of the checkout; returns the folder."""
    for pattern in (*HELPERS, *patterns):
        for path in ROOT.glob(pattern):
            target = folder / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    return folder


def test(wheel: Path, python: Path, folder: Path) -> None:
    """Installs the wheel and what it depends on into a fresh environment, and runs the copied tests there."""
    venv = folder / "venv"
    run(TOOLS / "uv", "venv", "--quiet", "--python", python, venv)
    inside = venv / "bin" / "python"
    run(TOOLS / "uv", "pip", "install", "--quiet", "--python", inside, wheel, "pytest", "pytest-timeout", "hypothesis")
    copy = copy_tests(folder / "copy", TESTS)
    where = "import really, sys; assert really.__file__.startswith(sys.prefix), really.__file__"
    run(inside, "-c", where, cwd=copy)
    run(inside, "-m", "pytest", "-p", "no:cacheprovider", *TESTS, cwd=copy, PYTHONPATH="")


def main() -> None:
    """Builds and tests everything."""
    shutil.rmtree(DIST, ignore_errors=True)
    run(TOOLS / "uv", "build", "--quiet", "--sdist", "--out-dir", DIST)
    (sdist,) = DIST.glob("*.tar.gz")
    wheels = []
    for python in interpreters(tuple(sys.argv[1:]) or PYTHONS):
        with tempfile.TemporaryDirectory() as folder:
            wheel = build(sdist, python, Path(folder))
            test(wheel, python, Path(folder))
            wheels.append(wheel)
    run(TOOLS / "twine", "check", "--strict", sdist, *wheels)


if __name__ == "__main__":
    main()
