"""Builds the extensions with AddressSanitizer and UBSan in a folder of its own and runs their tests on them."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SANITIZE = "address,undefined"


def main():
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        build(copy, REALLY_SANITIZE=SANITIZE)
        libraries = [printed("gcc", f"-print-file-name=lib{name}.so") for name in ("asan", "ubsan")]
        # Python's own leaks at exit are none of ours; its allocator would hide what is next to a block.
        settings = {"ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc", "LD_PRELOAD": " ".join(libraries)}
        chosen = sys.argv[1:] or [
            *(f"buffer_{name}" for name in ("api", "inputs", "refusals", "statistics", "machine", "threads")),
            *("frames", "priorities", "priorities_statistics"),
        ]
        tests = [f"tests/test_{name}.py" for name in chosen]
        # -s: a report that pytest captures is lost with the process.
        command = [sys.executable, "-m", "pytest", "-s", "-p", "no:cacheprovider", *tests]
        sys.exit(subprocess.run(command, cwd=copy, env=environment(copy, **settings)).returncode)


def build(copy, **mode):
    """A copy of the sources in `copy` with the extension built in `mode`, environment variables of setup.py."""
    for name in ("really", "csrc", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy)
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(command, cwd=copy, env=environment(copy, **mode), check=True, capture_output=True)


def environment(copy, **more):
    return {**os.environ, "PYTHONPATH": str(copy), **more}


def printed(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
