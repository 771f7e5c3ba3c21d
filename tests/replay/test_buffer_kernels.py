"""The kernels are C: no Python in any function that runs without the GIL, by what Cython itself says of its output."""

import html
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
# memory.pxd has declarations only, lock.pxd releases the GIL, the others read Python objects.
OTHERS = ("memory", "lock", "generator", "scalars", "values")
KERNELS = {path.stem: path for path in sorted(CSRC.rglob("*.pxd")) if path.stem not in OTHERS}
LINE = re.compile(r'<pre class="cython line score-(\d+)"[^>]*>(.*?)</pre>', re.DOTALL)


def annotated(folder, source):
    """(Python interaction, text) of each line of `source`, as `cython -a` scores it."""
    command = [sys.executable, "-m", "cython", "-3", "-a", "-X", "cdivision=True"]
    command += ["-X", "boundscheck=False", "-X", "wraparound=False", "-X", "initializedcheck=False"]
    subprocess.run([*command, str(source), "-o", str(folder / "out.c")], check=True, capture_output=True)
    found = LINE.findall((folder / "out.html").read_text())
    return [(int(score), html.unescape(re.sub("<[^>]+>", "", text))) for score, text in found]


@pytest.mark.parametrize("name", KERNELS)
def test_no_python_in_the_kernels(tmp_path, name):
    for other in CSRC.rglob("*.pxd"):
        if other.stem != name:
            shutil.copy(other, tmp_path)
    # The functions as a module's own, so that each line is compiled and scored.
    source = KERNELS[name].read_text()
    (tmp_path / "kernel.pyx").write_text(source)
    lines = annotated(tmp_path, tmp_path / "kernel.pyx")
    assert sum("cdef inline" in text for _, text in lines) >= 1
    assert [text for score, text in lines if score > 0 and "import" not in text and '"""' not in text] == []


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_says_that_it_cannot_fail_and_needs_no_gil(name):
    signatures = re.findall(r"^cdef inline [^:]*?\)([^:]*):", KERNELS[name].read_text(), re.MULTILINE | re.DOTALL)
    assert [signature for signature in signatures if signature.split() != ["noexcept", "nogil"]] == []


def test_all_kernels_are_looked_at():
    assert {"record", "scatter", "gather", "pool", "bounded_random", "sums", "proportional", "window"} <= set(KERNELS)


def test_python_in_a_kernel_is_seen(tmp_path):
    (tmp_path / "kernel.pyx").write_text("cdef int f(object x):\n    return x + 1\n")
    assert max(score for score, _ in annotated(tmp_path, tmp_path / "kernel.pyx")) > 0
