"""Runs the extensions' tests on builds with AddressSanitizer and UBSan, the threads' also with ThreadSanitizer."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = (
    *(f"buffer_{name}" for name in ("api", "inputs", "refusals", "statistics", "machine", "threads")),
    *("long_rows", "frames", "priorities", "priorities_statistics", "prioritized", "n_step", "known_defects"),
)
# Python's own leaks at exit are none of ours; its allocator would hide what is next to a block.
MEMORY = {"ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"}
# Python and NumPy are not built with the sanitizer: it sees their locks, and of their memory nothing to go by.
RACES = {"TSAN_OPTIONS": "ignore_noninstrumented_modules=1 history_size=4 exitcode=66"}


def main():
    chosen = sys.argv[1:] or TESTS
    codes = [run("address,undefined", ("asan", "ubsan"), MEMORY, chosen)]
    if "buffer_threads" in chosen:
        codes.append(run("thread", ("tsan",), RACES, ["buffer_threads"], "-k", "torn or order or agree"))
    sys.exit(max(codes))


def run(sanitize, libraries, settings, chosen, *options):
    """Runs those of the buffer's tests on an extension built so; gives pytest's exit code, or the sanitizer's."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        build(copy, REALLY_SANITIZE=sanitize)
        preload = " ".join(printed("gcc", f"-print-file-name=lib{name}.so") for name in libraries)
        tests = [test_file(copy, name) for name in chosen]
        # -s: a report that pytest captures is lost with the process.
        command = [sys.executable, "-m", "pytest", "-s", "-p", "no:cacheprovider", "--timeout=1800", *tests, *options]
        return subprocess.run(command, cwd=copy, env=environment(copy, LD_PRELOAD=preload, **settings)).returncode


def build(copy, **mode):
    """A copy of the sources in `copy` with the extension built in `mode`, environment variables of setup.py."""
    for name in ("really", "csrc", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy)
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(command, cwd=copy, env=environment(copy, **mode), check=True, capture_output=True)


def pytest_of(copy, name, chosen, **mode):
    """What pytest says of those of `test_<name>.py` that `-k chosen` takes, on an extension built in `mode`."""
    build(copy, **mode)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", test_file(copy, name), "-k", chosen]
    return subprocess.run(command, cwd=copy, env=environment(copy), capture_output=True, text=True).stdout


def test_file(copy, name):
    (path,) = (copy / "tests").rglob(f"test_{name}.py")
    return str(path)


def environment(copy, **more):
    return {**os.environ, "PYTHONPATH": str(copy), **more}


def printed(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
