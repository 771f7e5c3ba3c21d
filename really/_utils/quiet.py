"""TensorFlow's C++ lines: quiet by default, and as the user says if TF_CPP_MIN_LOG_LEVEL is set."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from really._utils.packages import needed

VARIABLE, QUIET = "TF_CPP_MIN_LOG_LEVEL", "3"
LINE = re.compile(
    rb"WARNING: All log messages before absl::|[IWE]\d{4} \d\d:|To enable the following |INFO: Created TensorFlow Lite"
)
"""Starts of the lines that TensorFlow and LiteRT write to stderr, below Python's `sys.stderr`, as they start."""


def be_quiet() -> None:
    """Sets the level of TensorFlow's C++ lines for this process and those that it starts, unless the user has."""
    os.environ.setdefault(VARIABLE, QUIET)


def tensorflow(where: str, what: str = "TensorFlow", otherwise: str = "") -> Any:
    """The module `tensorflow`. Its first import leaves out its lines; MissingPackageError says what `needed` says."""
    quiet = contextlib.nullcontext() if "tensorflow" in sys.modules else without_start_lines()
    with needed(where, what, "tensorflow", otherwise), quiet:
        import tensorflow as tf
    return tf


@contextlib.contextmanager
def without_start_lines() -> Iterator[None]:
    """Leaves out TensorFlow's lines in the block; all other lines appear at its end.

    The variable does not reach lines that come before TensorFlow has started its own log. A level that the user has set
    leaves all lines as they are.
    """
    if os.environ.get(VARIABLE, QUIET) != QUIET:
        yield
        return
    with tempfile.TemporaryFile() as held, contextlib.ExitStack() as stack:
        try:
            before = os.dup(2)
            stack.callback(os.close, before)
            os.dup2(held.fileno(), 2)
        except OSError:  # the process has no stderr
            yield
            return
        try:
            yield
        finally:
            if sys.stderr is not None:
                with contextlib.suppress(Exception):
                    sys.stderr.flush()
            os.dup2(before, 2)
            held.seek(0)
            kept = b"".join(line for line in held if not LINE.match(line))
            while kept:
                kept = kept[os.write(2, kept) :]
