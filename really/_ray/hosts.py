"""Hosts: whether each node that may take runners has this package in this version."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from really._ray.nodes import own_node
from really._ray.placement import affinity, cpus_of_nodes
from really.errors import RunnerError

# Seconds in which a host must answer. A process has to start there first.
ANSWER_SECONDS = 20.0


def check(runtime_env: Mapping[str, Any] | None, install: str, chosen: Iterable[str] | None = None) -> None:
    """Raises RunnerError if a node lacks this package, or has another version of it.

    A node that does not answer in time is passed over.

    Args:
        runtime_env: Ray's runtime environment of the runners.
        install: the command that installs this package, for the error message.
        chosen: the nodes; by default all that have CPUs. That of this process is not asked if there is no other.
    """
    import ray

    nodes = list(cpus_of_nodes() if chosen is None else chosen)
    if chosen is None and nodes == [own_node()]:
        return
    questions = [Question(node, runtime_env, install) for node in nodes]
    ray.wait([question.call for question in questions], num_returns=len(questions), timeout=ANSWER_SECONDS)
    problems = [question.problem for question in questions if question.is_answered]
    if found := [problem for problem in problems if problem]:
        raise RunnerError("; ".join(found))


class Question:
    """Asks a node for its version of this package.

    Attributes:
        call: Ray's reference of the answer.
    """

    def __init__(self, node: str, runtime_env: Mapping[str, Any] | None, install: str) -> None:
        import ray

        self._node, self._install = node, install
        self._find = _version_finder()
        task = ray.remote(num_cpus=0, max_retries=0)(self._find)
        env = {} if runtime_env is None else {"runtime_env": dict(runtime_env)}
        self.call: Any = task.options(scheduling_strategy=affinity(node), **env).remote()

    @property
    def is_answered(self) -> bool:
        """Whether the node has answered."""
        import ray

        return bool(ray.wait([self.call], timeout=0)[0])

    @property
    def problem(self) -> str | None:
        """What is wrong with the node, and what to do. Returns None if it has this version, or died."""
        import ray

        expected = self._find()
        try:
            got = ray.get(self.call)
        except ray.exceptions.RayError:
            return None
        if got == expected:
            return None
        return (
            f"host {_name(self._node)}: expected really {expected} as here, got {got or 'none'}. Install it there "
            f"({self._install}=={expected}), or send it along: ray.init(runtime_env={{'py_modules': [really]}})"
        )


def _version_finder() -> Callable[[], str | None]:
    """A function that returns the version that a host has. It is nested, so Ray sends its code and not its name."""

    def found() -> str | None:
        import importlib

        # A folder of this name without code is a package without a version.
        try:
            return str(importlib.import_module("really").__version__)
        except (ImportError, AttributeError):
            return None

    return found


def _name(node: str) -> str:
    """Name and address of a node."""
    import ray

    names = {one["NodeID"]: f"{one['NodeManagerHostname']} ({one['NodeManagerAddress']})" for one in ray.nodes()}
    return names.get(node, node)
