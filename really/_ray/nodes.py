"""The nodes of the Ray cluster: which one this process is on, and questions to the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# Seconds in which another node must answer; a process may have to start there first.
PATIENCE = 5.0


def own_node() -> str:
    """The id of the node that this process runs on."""
    import ray

    node: str = ray.get_runtime_context().get_node_id()
    return node


def first_answer(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls the function on every other node; returns the first answer that is not None, or None if there is none."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    others = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != own_node()]
    task = ray.remote(num_cpus=0, max_retries=0)(function)
    calls = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(*arguments)
        for node in others
    ]
    while calls:
        done, calls = ray.wait(calls, timeout=PATIENCE)
        for call in done:
            try:
                if (answer := ray.get(call)) is not None:
                    return answer
            except ray.exceptions.RayError:
                continue
        if not done:
            return None
    return None
