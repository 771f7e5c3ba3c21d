"""export: writes the rows of a buffer as a Parquet file, a saved buffer or a Minari data set."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from really.cli.sources import opened, path_of

EXAMPLES = """really export runs/buffer rows.parquet
really export runs/buffer replay.arrow
really export runs/buffer cartpole/mine-v0 --env CartPole-v1      a Minari data set
"""
DATA_SET = re.compile(r"([\w-]+/)*[\w-]+-v\d+")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("path", metavar="PATH", type=path_of, help="a buffer's folder, a saved buffer, a Parquet file")
    parser.add_argument("target", metavar="TARGET", help="a file .parquet or .arrow, or the id of a data set, name-v0")
    parser.add_argument("--env", metavar="ID", help="of a Minari data set: the environment, which gives its spaces")


def run(given: argparse.Namespace) -> None:
    """Writes the rows and prints how many."""
    from really.errors import InvalidValueError

    suffix = Path(given.target).suffix
    if suffix not in (".parquet", ".arrow") and not DATA_SET.fullmatch(given.target):
        raise InvalidValueError(
            f"TARGET: expected a file .parquet or .arrow, or the id of a Minari data set such as name-v0, "
            f"got {given.target!r}"
        )
    if given.env is not None and suffix in (".parquet", ".arrow"):
        raise InvalidValueError(f"--env: expected none for a file {suffix}, which has no spaces, got {given.env!r}")
    with opened(given.path) as buffer:
        if suffix == ".parquet":
            buffer.to_parquet(given.target)
        elif suffix == ".arrow":
            buffer.save(given.target)
        else:
            buffer.to_minari(given.target, env=given.env)
        print(f"{len(buffer):,} rows in {given.target}")
