"""A turn of a benchmark in a fresh process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def said(module: str, *arguments: object, python: str = sys.executable, **variables: str) -> str:
    """The last line that `python -m MODULE --one ARGUMENTS` prints, with these environment variables.

    Raises RuntimeError, with the end of what it wrote to the standard error, if it fails.
    """
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **variables}
    command = [python, "-m", module, "--one", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stderr[-2000:]}")
    return done.stdout.splitlines()[-1]
