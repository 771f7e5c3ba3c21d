"""Writes down what happened with each kind, for the table in docs/ecosystem.md."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.fixture
def kind(record_property: Callable[[str, object], None], request: pytest.FixtureRequest) -> Callable[..., None]:
    """Records properties of a kind; `name` is that of the test's parameter."""
    record_property("table", request.node.module.__name__.rpartition(".")[2].removeprefix("test_"))
    record_property("name", request.node.callspec.params["name"])

    def record(**properties: object) -> None:
        for key, value in properties.items():
            record_property(key, value)

    return record
