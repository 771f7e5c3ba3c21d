"""Every measured table in the documentation is what its benchmark wrote."""

import json

import pytest

from bench.published import MARKED, MEASURED, filled_in, pages, rendered


def test_the_pages_show_the_tables_as_they_were_measured() -> None:
    tables = rendered()
    assert tables
    for page in pages():
        assert filled_in(page.read_text(), tables) == page.read_text(), page.name


def test_every_measured_table_is_shown_once() -> None:
    shown = [found[2] for page in pages() for found in MARKED.finditer(page.read_text())]
    assert len(shown) == len(set(shown))
    assert set(shown) >= set(rendered())


def test_a_table_typed_by_hand_is_seen() -> None:
    page = "<!-- measured: rates -->\n| 3 |\n<!-- end -->\n"
    assert filled_in(page, {"rates": "| 2 |\n"}) == "<!-- measured: rates -->\n| 2 |\n<!-- end -->\n"
    assert filled_in(page, {"others": "| 2 |\n"}) == page


@pytest.mark.parametrize("path", sorted(MEASURED.glob("*.json")), ids=lambda path: path.stem)
def test_a_result_names_its_command_and_machine(path) -> None:
    kept = json.loads(path.read_text())
    assert kept["command"]
    assert "cores of" in kept["machine"]
