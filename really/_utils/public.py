"""Public names: a class of a package's `__all__` says that it belongs to the package, whatever file it stands in."""

from __future__ import annotations

from typing import Any


def publish(package: dict[str, Any]) -> None:
    """Sets `__module__` of the public classes in a package's `globals()` to the package.

    So tracebacks show the name that users import, and a pickle names no file of the package: files can move.
    """
    for name in package["__all__"]:
        if isinstance(package[name], type):
            package[name].__module__ = package["__name__"]
