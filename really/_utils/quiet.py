"""TensorFlow's C++ lines: quiet by default, and as the user says if TF_CPP_MIN_LOG_LEVEL is set."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from really._utils.packages import needed

VARIABLE, QUIET, JAX_LEVEL = "TF_CPP_MIN_LOG_LEVEL", "3", "1"
LINE = re.compile(
    rb"WARNING: All log messages before absl::|[IWE]\d{4} \d\d:|To enable the following |INFO: Created TensorFlow Lite"
)
"""Starts of the lines that TensorFlow and LiteRT write to stderr, below Python's `sys.stderr`, as they start."""
PAGES = re.compile(
    LINE.pattern + rb"|loc\(|error: failed while converting|Some ops are not supported by the native TFLite runtime"
    rb"|TF Select ops: |Details:$|\ttf\.|\s*$"
)
"""Starts of the lines that LiteRT's converter writes about an operation that it does not have, as its error says."""


def _is_set() -> bool:
    """Whether the user has set another level. JAX, which TensorFlow imports where it is installed, sets 1."""
    level = os.environ.get(VARIABLE, QUIET)
    return level != QUIET and not (level == JAX_LEVEL and "jax" in sys.modules)


def be_quiet() -> None:
    """Sets the level of TensorFlow's C++ lines for this process and those that it starts, unless the user has."""
    if os.environ.get(VARIABLE) != QUIET and not _is_set():
        os.environ[VARIABLE] = QUIET
        if (imported := sys.modules.get("tensorflow")) is not None:
            _lower(imported)


def _lower(tensorflow: Any) -> None:
    """Sets the level in a TensorFlow that is imported already, which has read the variable.

    Its C++ lines are Abseil's, and its library exports `absl::SetMinLogLevel`. The name has Abseil's version, which a
    header has. A TensorFlow without them keeps its lines.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError, ValueError):
        options = Path(tensorflow.sysconfig.get_include(), "absl", "base", "options.h").read_text()
        (version,) = re.findall(r"^#define ABSL_OPTION_INLINE_NAMESPACE_NAME (\w+)", options, re.MULTILINE)
        (library,) = Path(tensorflow.sysconfig.get_lib()).glob("libtensorflow_framework.*")
        loaded = ctypes.CDLL(str(library), mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
        loaded[f"_ZN4absl{len(version)}{version}14SetMinLogLevelENS0_18LogSeverityAtLeastE"](ctypes.c_int(int(QUIET)))


def tensorflow(where: str, what: str = "TensorFlow", otherwise: str = "") -> Any:
    """The module `tensorflow`. Its first import leaves out its lines; MissingPackageError says what `needed` says."""
    quiet = contextlib.nullcontext() if "tensorflow" in sys.modules else without_start_lines()
    with needed(where, what, "tensorflow", otherwise), quiet:
        import tensorflow as tf
    return tf


@contextlib.contextmanager
def without_start_lines(left_out: re.Pattern[bytes] = LINE) -> Iterator[None]:
    """Leaves out the lines in the block that start as `left_out` says; all other lines appear at its end.

    The variable does not reach lines that come before TensorFlow has started its own log. A level that the user has set
    leaves all lines as they are.
    """
    if _is_set():
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
            kept = b"".join(line for line in held if not left_out.match(line))
            while kept:
                kept = kept[os.write(2, kept) :]


_interpreters = itertools.count()


def without_interpreter_line() -> contextlib.AbstractContextManager[None]:
    """`without_start_lines` for the start of an interpreter: LiteRT writes its line at the first of a process alone.

    To hold back what is written takes longer than to start an interpreter.
    """
    return without_start_lines() if next(_interpreters) == 0 else contextlib.nullcontext()
