"""Runs the tests of the extensions under AddressSanitizer and UBSan, and those of threads under ThreadSanitizer."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = (
    *(f"buffer_{name}" for name in ("api", "inputs", "refusals", "statistics", "machine", "threads")),
    *("long_rows", "frames", "share_rate", "priorities", "priorities_statistics", "prioritized", "n_step"),
    *("sequences", "trajectory_machine", "whole_episodes", "hindsight", "compact", "recent_samplers"),
    *("remove", "update", "epochs", "known_defects", "finalizers", "steps", "layers", "wire"),
    *("recurrent_states", "grouped_samplers"),
)
# Python leaks at exit by itself. Its own allocator would hide the memory next to a block from the sanitizer.
MEMORY = {"ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"}
# Python and NumPy are not instrumented: the sanitizer sees their locks but not their memory accesses.
RACES = {"TSAN_OPTIONS": "ignore_noninstrumented_modules=1 history_size=4 exitcode=66"}


def main():
    chosen = sys.argv[1:] or TESTS
    codes = [run("address,undefined", ("asan", "ubsan"), MEMORY, chosen)]
    if "buffer_threads" in chosen:
        codes.append(run("thread", ("tsan",), RACES, ["buffer_threads"], "-k", "torn or order or agree"))
    sys.exit(max(codes))


def run(sanitize, libraries, settings, chosen, *options):
    """Runs the chosen tests on a build with these sanitizers; returns the exit code of pytest or of a sanitizer."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        build(copy, REALLY_SANITIZE=sanitize)
        preload = " ".join(printed("gcc", f"-print-file-name=lib{name}.so") for name in libraries)
        tests = [test_file(copy, name) for name in chosen]
        # -s: a report that pytest captures is lost if the process aborts.
        command = [sys.executable, "-m", "pytest", "-s", "-p", "no:cacheprovider", "--timeout=1800", *tests, *options]
        return subprocess.run(command, cwd=copy, env=environment(copy, LD_PRELOAD=preload, **settings)).returncode


def build(copy, **mode):
    """Copies the sources to `copy` and builds the extension there; `mode` are environment variables for setup.py."""
    for name in ("really", "csrc", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy)
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(command, cwd=copy, env=environment(copy, **mode), check=True, capture_output=True)


def pytest_of(copy, name, chosen, **mode):
    """Output of pytest for the tests of `test_<name>.py` that `-k chosen` selects, on a build in `mode`."""
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
