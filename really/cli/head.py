"""head: shows the first rows of a buffer, or with --tail the last ones."""

from __future__ import annotations

import argparse

from really.cli.output import cell, show
from really.cli.sources import opened, path_of

EXAMPLES = """really head runs/buffer
really head replay.arrow -n 3 --tail --keys action reward
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("path", metavar="PATH", type=path_of, help="a buffer's folder, a saved buffer, a Parquet file")
    parser.add_argument("-n", type=int, default=10, metavar="ROWS", help="number of rows (default: 10)")
    parser.add_argument("--tail", action="store_true", help="the newest rows instead of the oldest")
    parser.add_argument("--keys", nargs="+", metavar="KEY", help="columns to show (default: all)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(given: argparse.Namespace) -> None:
    """Prints the rows."""
    import numpy as np

    from really.errors import InvalidValueError, one_of

    if given.n < 1:
        raise InvalidValueError(f"-n: expected a number >= 1, got {given.n}")
    with opened(given.path) as buffer:
        keys = given.keys or list(buffer.spec or {})
        for key in keys:
            if key not in (buffer.spec or {}):
                raise InvalidValueError(one_of("--keys", key, buffer.spec or {}))
        number = min(given.n, len(buffer))
        first = len(buffer) - number if given.tail else 0
        rows = buffer.take(np.arange(first, first + number)) if number else {}
    found = [{"row": first + at, **{key: rows[key][at] for key in keys}} for at in range(number)]
    if not given.json:
        found = [{"row": row["row"], **{key: cell(row[key]) for key in keys}} for row in found]
    show(found, given.json)
