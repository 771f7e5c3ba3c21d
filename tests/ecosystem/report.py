"""Runs the tests of the ecosystem, and writes what happened into the tables of docs/ecosystem.md.

python -m tests.ecosystem.report
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

PAGE = Path(__file__).parents[2] / "docs" / "ecosystem.md"
MAX_CHARACTERS = 300
Row = dict[str, str]


def main() -> None:
    """Runs the tests, writes the tables, and ends as the tests do."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.xml"
        command = [sys.executable, "-m", "pytest", "tests/ecosystem", "-m", "ecosystem", f"--junitxml={results}"]
        ended = subprocess.run([*command, "--timeout", "900", *sys.argv[1:]], check=False)
        tables = rows_of(ElementTree.parse(results))
    text = PAGE.read_text()
    for table, rows in tables.items():
        text = with_table(text, table, rows)
    PAGE.write_text(text)
    print(f"written: {PAGE}")
    sys.exit(ended.returncode)


def rows_of(results: ElementTree.ElementTree) -> dict[str, dict[str, Row]]:
    """For each table its rows by the name of the kind; several tests of a kind make one row."""
    tables: dict[str, dict[str, Row]] = {}
    for case in results.iter("testcase"):
        found = {item.get("name", ""): item.get("value", "") for item in case.iter("property")}
        if "table" not in found:
            continue
        failure = next((one for tag in ("failure", "error") for one in case.iter(tag)), None)
        happened = [found[key] for key in ("works", "happened") if key in found]
        if failure is not None:
            happened = [f"FAILS: {failure.get('message', '')}"]
        row = tables.setdefault(found["table"], {}).setdefault(found["name"], {"version": "", "happened": ""})
        row["version"] = row["version"] or found.get("version", "")
        row["happened"] = "; ".join(text for text in (row["happened"], *happened) if text)
    return tables


def with_table(text: str, table: str, rows: dict[str, Row]) -> str:
    """The page with these rows between the markers of this table."""
    begin, end = f"<!-- begin {table} -->\n", f"<!-- end {table} -->"
    made = "".join(table_lines(rows))
    return re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: f"{begin}{made}{end}", text, flags=re.DOTALL)


def table_lines(rows: dict[str, Row]) -> Iterator[str]:
    """The lines of a Markdown table."""
    yield "| kind | version | what happened |\n| --- | --- | --- |\n"
    for name, row in rows.items():
        happened = " ".join(row["happened"].split()).replace("|", "\\|")
        short = happened if len(happened) <= MAX_CHARACTERS else f"{happened[:MAX_CHARACTERS]} ..."
        yield f"| {name} | {row['version']} | {short} |\n"


if __name__ == "__main__":
    main()
