"""asv benchmarks of really; `pytest bench/` runs each once, and `bench.turns` compares them in two commits."""

import importlib
import inspect
import itertools


def cells_of(name, kinds):
    """Class, method and values of each benchmark of a module; `kinds` are what the names of methods start with."""
    module = importlib.import_module(f"benchmarks.{name}")
    for _, group in inspect.getmembers(module, inspect.isclass):
        if group.__module__ == module.__name__:
            for method in (method for method in dir(group) if method.startswith(kinds)):
                for values in itertools.product(*getattr(group, "params", ())):
                    yield group, method, values
