"""Puts what a benchmark measured into the documentation: `python -m bench.published` writes every table anew.

A benchmark ends with `publish(name, command, tables)`, which keeps its tables in `docs/measured/NAME.json` and writes
each between the markers `<!-- measured: TABLE -->` and `<!-- end -->` of README.md and docs/*.md. So no number in them
is typed by hand; a test compares them with the files. A table whose benchmark has no file yet stays as it is.
"""

from __future__ import annotations

import json
import os
import re
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MEASURED = ROOT / "docs" / "measured"
MARKED = re.compile(r"(<!-- measured: ([\w ,.=-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def publish(name: str, command: str, tables: Mapping[str, str], note: str = "") -> None:
    """Keeps the tables of one benchmark and rewrites the pages that show them; `note` follows the machine's name."""
    MEASURED.mkdir(exist_ok=True)
    kept = {"command": command, "machine": machine(), "note": note, "tables": dict(tables)}
    (MEASURED / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n")
    rewrite()


def machine() -> str:
    """The processor, how many of its cores this process may use, and what the kernels know of it."""
    from really.replay._ring import CACHE_NBYTES
    from really.replay.engine import CPU_LEVEL

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown processor")
    cache = f"{CACHE_NBYTES >> 10:,} kB of second-level cache"
    return f"{len(os.sched_getaffinity(0))} cores of {model} with {CPU_LEVEL} and {cache}"


def kept_files() -> list[dict[str, Any]]:
    """What each benchmark kept: `command`, `machine`, `note`, and its `tables` by name."""
    return [json.loads(path.read_text()) for path in sorted(MEASURED.glob("*.json"))]


def measured(name: str) -> str:
    """The table of this name, as it was measured."""
    return next(str(kept["tables"][name]) for kept in kept_files() if name in kept["tables"])


def rendered() -> dict[str, str]:
    """The text of each table, with the line that says where it was measured and by which command."""
    found = {}
    for kept in kept_files():
        source = f"`{kept['command']}`, {kept['machine']}{kept['note'] and ', ' + kept['note']}."
        for name, table in kept["tables"].items():
            found[name] = f"{textwrap.fill(source, 120)}\n\n{table.strip()}\n"
    return found


def pages() -> list[Path]:
    """The pages that may show tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def filled_in(text: str, tables: Mapping[str, str]) -> str:
    """The text with each known table between its markers."""
    return MARKED.sub(
        lambda found: found[1] + tables.get(found[2], found[0][len(found[1]) : -len(found[3])]) + found[3], text
    )


def rewrite() -> None:
    """Writes every table into the pages that have its markers, and what the plan for clusters makes of them."""
    from bench import plan

    tables = rendered()
    for page in pages():
        text = page.read_text()
        changed = filled_in(text, tables)
        changed = plan.written(changed) if page == plan.PAGE else changed
        if changed != text:
            page.write_text(changed)
            print(f"{page.relative_to(ROOT)}: rewritten", file=sys.stderr)


if __name__ == "__main__":
    rewrite()
