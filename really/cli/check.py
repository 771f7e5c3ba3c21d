"""check: tries an environment and tells what `really` will do with it, or compares rows with their checksums."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from really.errors import EnvironmentFailedError, InvalidFileError, InvalidValueError, MissingPackageError

if TYPE_CHECKING:
    from really.envs.spec import EnvironmentSpec

EXAMPLES = """really check CartPole-v1
really check my_package.my_module:MyEnv --steps 2000
really check runs/replay
"""
AGENTS = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "env", metavar="ENV", help="an id, module:Class for a class or function of yours, or the path of rows"
    )
    parser.add_argument("--steps", type=int, default=1000, metavar="N", help="random steps to try (default: 1000)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(given: argparse.Namespace) -> None:
    """Prints what was found.

    Raises:
        EnvironmentFailedError: the environment does not keep its contract.
        InvalidFileError: rows are not as they were written.
    """
    from really._utils.checks import checked_integer
    from really.cli.output import show
    from really.envs.spec import EnvironmentSpec

    steps = checked_integer("--steps", given.steps)
    if _is_path(given.env):
        show(_compared(Path(given.env).expanduser()), given.json)
        return
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        spec = EnvironmentSpec(_environment(given.env))
        probe = spec.probe()
        found = {
            "environment": probe.name,
            "observation_space": str(probe.observation_space),
            "action_space": str(probe.action_space),
            "action_mask": probe.masks is not None,
            **_walk(spec, steps),
        }
    found["warnings"] = list(dict.fromkeys(" ".join(str(warning.message).split()) for warning in told)) or "none"
    show(found, given.json)


def _is_path(name: str) -> bool:
    """Whether this is no environment but a path, such as the folder of a run with its environment's name."""
    if name.startswith((".", "/", "~")):
        return True
    return name != "" and Path(name).exists() and not (re.search(r"-v\d+$", name) and _is_registered(name))


def _is_registered(name: str) -> bool:
    from really.envs.sources import source_of

    try:
        source_of(name, {})
    except (InvalidValueError, MissingPackageError):
        return False
    return True


def _compared(path: Path) -> dict[str, Any]:
    """Reads all rows at a path: of a buffer, a saved one, that of a checkpoint, a Parquet file."""
    from really.cli import sources

    with sources.opened(path) as buffer:
        found, kind = buffer.verify(), sources.kind_of(sources.inner(path))
        if not found.is_whole:
            raise InvalidFileError(f"{path}: expected rows as they were put, got {found}")
        # Other files are read whole as they are opened, and each part is compared.
        unchecked = len(found.unchecked) if kind in ("buffer", "shards") else 0
        return {"kind": kind, "rows": found.num_rows, "damaged": 0, "without a checksum": unchecked}


def _environment(name: str) -> Any:
    """The id, or what `module:name` names."""
    module, colon, attribute = name.partition(":")
    if not colon or "/" in name:
        return name
    # As `python -m` does it: the installed script begins its search for modules in its own folder.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InvalidValueError(f"ENV: expected an id or module:Class, got {name!r}: {error}") from error


def _walk(spec: EnvironmentSpec, steps: int) -> dict[str, Any]:
    """Walks twice with the same seeds and actions, as runners do: speed, ends of episodes, and whether both agree."""
    import numpy as np

    from really.envs.make import make_batch

    seeds = np.random.SeedSequence(0).spawn(AGENTS)
    walks = []
    for _ in range(2):
        envs = make_batch(spec, seeds)
        try:
            envs.reset()
            walks.append(_steps(envs, steps))
        finally:
            envs.close()
    first, second = walks
    same = all(
        np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
        for one, other in zip(first["rows"], second["rows"], strict=True)
    )
    ended = first["terminated"] + first["truncated"]
    return {
        "batch": f"{envs.kind}, {AGENTS} environments",
        "columns": {f"state{name}": f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in envs.leaves.items()},
        "steps_per_second": first["steps"] / max(first["seconds"], 1e-9),
        "terminated": first["terminated"],
        "truncated": first["truncated"],
        "suggestion": "num_episodes or num_steps" if ended else f"num_steps: no episode ended within {steps} steps",
        "same_seed_same_data": same,
    }


def _steps(envs: Any, steps: int) -> dict[str, Any]:
    import numpy as np
    from gymnasium import spaces

    rng, rows, masked = np.random.default_rng(0), [], envs.masks is not None
    count = {"steps": 0, "terminated": 0, "truncated": 0}
    envs.action_space.seed(0)
    start = time.perf_counter()
    for _ in range(-(-steps // envs.num_envs)):
        if masked and isinstance(envs.action_space, spaces.Discrete):
            allowed = [rng.choice(np.flatnonzero(mask)) for mask in envs.action_masks]
            actions = np.asarray(allowed) + envs.action_space.start
        else:
            actions = np.stack([envs.action_space.sample() for _ in range(envs.num_envs)])
        envs.step(actions)
        rows += [np.array(leaf) for leaf in envs.final_observations] + [envs.rewards.copy()]
        if not np.isfinite(envs.rewards).all():
            raise EnvironmentFailedError(f"environment {envs.name!r}: expected finite rewards, got {envs.rewards}")
        count["steps"] += envs.num_envs
        count["terminated"] += int(envs.terminated.sum())
        count["truncated"] += int((envs.truncated & ~envs.terminated).sum())
    return {**count, "rows": rows, "seconds": time.perf_counter() - start}
