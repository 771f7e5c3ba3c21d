"""Public names: a class says that it belongs to its public package, and a package may load its names at first use."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from really._utils.packages import needed


def list_public(module: dict[str, Any]) -> None:
    """Makes `dir` and completion show only `__all__` of a module's `globals()`, names that are not loaded yet too."""
    module["__dir__"] = lambda: sorted({*module["__all__"], *(name for name in module if name.startswith("__"))})


def publish(package: dict[str, Any]) -> None:
    """Sets `__module__` of the public classes in a package's `globals()` to the package, and lists its public names.

    So tracebacks show the name that users import, and a pickle names no file of the package: files can move.
    """
    list_public(package)
    for name in package["__all__"]:
        if isinstance(package[name], type):
            package[name].__module__ = package["__name__"]


def loader(package: dict[str, Any], *submodules: str, **modules: str) -> Callable[[str], Any]:
    """A `__getattr__` for a package's `globals()` that imports `modules[name]` when `name` is first used (PEP 562).

    A submodule is imported when it is first used, too.

    The function raises MissingPackageError if the module needs a package that is not installed, and AttributeError for
    a name that is not in `modules`.
    """

    def load(name: str) -> Any:
        if name in submodules:
            return importlib.import_module(f"{package['__name__']}.{name}")
        if name not in modules:
            raise AttributeError(f"module {package['__name__']!r} has no attribute {name!r}")
        with needed(f"{package['__name__']}.{name}", "the packages that this one depends on", None):
            package[name] = getattr(importlib.import_module(modules[name]), name)
        return package[name]

    list_public(package)
    return load
