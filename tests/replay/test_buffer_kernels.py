"""The kernels are C: no Python in any function that runs without the GIL, by what Cython itself says of its output."""

import html
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
# memory.pxd and dense.pxd have declarations only, cpu.pxd names levels, lock.pxd releases the GIL; the others read
# Python objects.
OTHERS = ("memory", "dense", "cpu", "lock", "generator", "scalars", "values")
KERNELS = {path.stem: path for path in sorted(CSRC.rglob("*.pxd")) if path.stem not in OTHERS}
LINE = re.compile(r'<pre class="cython line score-(\d+)"[^>]*>(.*?)</pre>', re.DOTALL)


def annotated(folder, sources):
    """Name -> (Python interaction, text) of each line, as `cython -a` scores the sources, all in one process."""
    for name, source in sources.items():
        # The functions as a module's own, so that each line is compiled and scored.
        (folder / f"kernel_{name}.pyx").write_text(source)
    command = [sys.executable, "-m", "cython", "-3", "-a", "-X", "cdivision=True", "-X", "boundscheck=False"]
    command += ["-X", "wraparound=False", "-X", "initializedcheck=False"]
    made = [f"kernel_{name}" for name in sources]
    subprocess.run([*command, *(f"{name}.pyx" for name in made)], cwd=folder, check=True, capture_output=True)
    found = {name: LINE.findall((folder / f"kernel_{name}.html").read_text()) for name in sources}
    return {
        name: [(int(score), html.unescape(re.sub("<[^>]+>", "", text))) for score, text in lines]
        for name, lines in found.items()
    }


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Every kernel's lines with their scores."""
    folder = tmp_path_factory.mktemp("kernels")
    for path in CSRC.rglob("*.pxd"):
        shutil.copy(path, folder)
    return annotated(folder, {name: path.read_text() for name, path in KERNELS.items()})


@pytest.mark.parametrize("name", KERNELS)
def test_no_python_in_the_kernels(scored, name):
    lines = scored[name]
    assert sum("cdef inline" in text for _, text in lines) >= 1
    assert [text for score, text in lines if score > 0 and "import" not in text and '"""' not in text] == []


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_says_that_it_cannot_fail_and_needs_no_gil(name):
    signatures = re.findall(r"^cdef inline [^:]*?\)([^:]*):", KERNELS[name].read_text(), re.MULTILINE | re.DOTALL)
    assert [signature for signature in signatures if signature.split() != ["noexcept", "nogil"]] == []


def test_all_kernels_are_looked_at():
    assert {"record", "scatter", "gather", "pool", "bounded_random", "sums", "proportional", "window"} <= set(KERNELS)


def test_python_in_a_kernel_is_seen(tmp_path):
    lines = annotated(tmp_path, {"python": "cdef int f(object x):\n    return x + 1\n"})["python"]
    assert max(score for score, _ in lines) > 0
