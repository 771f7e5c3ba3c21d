"""asv benchmarks of really; `pytest bench/` runs each once, and `bench.turns` compares them in two commits."""

import contextlib
import importlib
import inspect
import itertools


def first_of(name, *modules):
    """What has this name in the first of the modules that there is: commits before the wings have other modules."""
    for module in modules[:-1]:
        with contextlib.suppress(ImportError):
            return getattr(importlib.import_module(module), name)
    return getattr(importlib.import_module(modules[-1]), name)


def cells_of(name, kinds):
    """Class, method and values of each benchmark of a module; `kinds` are what the names of methods start with."""
    module = importlib.import_module(f"benchmarks.{name}")
    for _, group in inspect.getmembers(module, inspect.isclass):
        if group.__module__ == module.__name__:
            for method in (method for method in dir(group) if method.startswith(kinds)):
                for values in itertools.product(*getattr(group, "params", ())):
                    yield group, method, values
