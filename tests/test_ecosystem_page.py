"""docs/ecosystem.md names every kind that `make test-ecosystem` tries, and other pages lead to it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.ecosystem.kinds import ENVIRONMENTS, IN_RUNNERS, LAYERS, REFUSED
from tests.ecosystem.report import PAGE, with_table

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(("table", "kinds"), [("environment_kinds", ENVIRONMENTS), ("keras_layers", LAYERS)])
def test_the_table_has_a_row_for_each_kind_that_is_tried(table: str, kinds: list[str]) -> None:
    between = re.search(f"<!-- begin {table} -->(.*)<!-- end {table} -->", PAGE.read_text(), re.DOTALL)
    rows = [line.split(" | ") for line in between.group(1).splitlines()[3:]]
    assert [row[0].removeprefix("| ") for row in rows] == list(kinds)
    for name, _, happened in rows:
        refused = name.removeprefix("| ") in REFUSED
        assert "refused: " in happened if refused else "FAILS" not in happened, name


def test_kinds_that_are_tried_in_another_way_exist() -> None:
    assert set(IN_RUNNERS) <= set(ENVIRONMENTS)
    assert set(REFUSED) <= {*ENVIRONMENTS, *LAYERS}


def test_the_page_is_linked() -> None:
    assert "docs/ecosystem.md" in (ROOT / "README.md").read_text()


def test_only_the_table_of_a_page_is_written() -> None:
    page = "a\n<!-- begin x -->\nold\n<!-- end x -->\nb\n"
    rows = {"kind": {"version": "1", "happened": "refused: a|b\nc"}}
    written = with_table(page, "x", rows)
    assert written.startswith("a\n<!-- begin x -->\n| kind | version | what happened |")
    assert written.endswith("| kind | 1 | refused: a\\|b c |\n<!-- end x -->\nb\n")
