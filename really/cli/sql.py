"""sql: asks a buffer a question in SQL, by DuckDB. The table is called `buffer`."""

from __future__ import annotations

import argparse
import os

from really.cli.output import cell, show
from really.cli.sources import opened, path_of

EXAMPLES = """really sql "select avg(reward), count(*) from buffer" runs/buffer
really sql "select action, count(*) as n from buffer group by action order by action" replay.arrow --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("query", metavar="QUERY", help="a query of the table `buffer`")
    parser.add_argument("path", metavar="PATH", type=path_of, help="a buffer's folder, a saved buffer, a Parquet file")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(given: argparse.Namespace) -> None:
    """Prints the answer."""
    from really._utils.packages import needed
    from really.errors import InvalidValueError

    with needed("QUERY", "DuckDB, which answers it", "sql"):
        import duckdb
    if os.path.exists(given.query) and not os.path.exists(given.path):  # of a long query Path raises an error
        raise InvalidValueError(f"expected the query before PATH, got the path {given.query!r} in its place")
    with opened(given.path) as buffer, duckdb.connect() as connection:
        if buffer.spec is None:
            raise InvalidValueError(f"{given.path}: expected a buffer with rows, got an empty one")
        try:
            answer = connection.sql(given.query)
            names, rows = ([], []) if answer is None else (answer.columns, answer.fetchall())
        except duckdb.Error as error:
            raise InvalidValueError(f"query: expected SQL of the table `buffer`, got an error: {error}") from error
    if not given.json:
        rows = [tuple(each if isinstance(each, int | float) else cell(each) for each in row) for row in rows]
    show([dict(zip(names, row, strict=True)) for row in rows], given.json)
