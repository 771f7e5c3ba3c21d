"""check: tries an environment and tells what `really` will do with it, or compares rows with their checksums."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any

from really.errors import InvalidFileError, InvalidValueError, MissingPackageError

EXAMPLES = """really check CartPole-v1
really check my_package.my_module:MyEnv --steps 2000
really check runs/replay
"""


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
    from really.cli.contract import contract
    from really.cli.output import show
    from really.cli.walks import walked_twice
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
            **walked_twice(spec, steps),
            **contract(spec, steps),
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
