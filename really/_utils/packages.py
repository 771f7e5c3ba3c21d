"""Packages that not every install has: what is missing is named where it is needed, with the command that brings it."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator

from really.errors import MissingPackageError

DISTRIBUTION = "really-rl"
"""Name of this package on an index of packages; the package `really` there is another project."""


def install_command(extra: str | None) -> str:
    """The command that installs this package with an extra, or without any."""
    return f"pip install '{DISTRIBUTION}[{extra}]'" if extra else f"pip install {DISTRIBUTION}"


@contextlib.contextmanager
def needed(where: str, what: str, extra: str | None, otherwise: str = "") -> Iterator[None]:
    """Raises MissingPackageError if an import of another package fails in the `with` block.

    Args:
        where: what the user called or named.
        what: the package and its purpose, as in "Ray for runners in other processes".
        extra: the extra that brings the package; None if each install of this package brings it.
        otherwise: another way, as in "use_ray=False"; it follows the command.
    """
    try:
        yield
    except ImportError as error:
        name = (error.name or "").partition(".")[0]
        if name == "really":
            raise  # a module of this package: no other package is missing
        absent = isinstance(error, ModuleNotFoundError) and name != ""
        came = f"no package {name}" if absent else f"{type(error).__name__}: {error}"
        command = install_command(extra) + (f", or {otherwise}" if otherwise else "")
        raise MissingPackageError(f"{where}: expected {what}, got {came}: {command}", name=error.name) from error


def check_installed(package: str, where: str, what: str, extra: str | None, otherwise: str = "") -> None:
    """Raises MissingPackageError, as `needed` does, if a package is not installed. Imports nothing."""
    with needed(where, what, extra, otherwise):
        # An entry of None in sys.modules forbids the import.
        known = sys.modules.get(package, "")
        if known is None or (known == "" and importlib.util.find_spec(package) is None):
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
