"""The summary that `manager.info()` returns: its entries and its text."""

from __future__ import annotations

import pytest

from really import SampleManager
from really.manager.summary import Summary
from tests.environments import Counter
from tests.models import QNet


def test_info_has_the_configuration_and_the_figures_of_the_run() -> None:
    with SampleManager(QNet, Counter, 2, 200, num_steps=10, use_ray=False, returns=["agent"]) as manager:
        manager.initialize_buffer(50)
        manager.collect()
        info = manager.info()
    assert info["environment"] == "Counter"
    assert info["inference"] == "litert"
    assert info["columns"]["state"] == "float32[1]"
    assert info["columns"]["agent"] == "int32[]"
    assert info["buffer_bytes"] > 0
    assert info["processor"] in ("plain", "sse2", "avx2", "avx512", "neon")
    assert info["delivered_rows"] == 200
    assert info["rows_per_second_per_runner"] > 0
    assert {"queued_orders", "waited_seconds", "dropped_rows"} <= set(info)
    assert info["runners"][0]["restarts"] == 0


def test_a_summary_prints_aligned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "41")
    runners = [{"runner": 0, "agents": (0, 1, 2, 3), "kind": "plain"}, {"runner": 10, "agents": (4,), "kind": "x"}]
    summary = Summary(
        {
            "columns": {"a": "x", "longer": {"b": True}},
            "rows": 1234567,
            "share": 0.0625,
            "rate": 1234.56,
            "buffer_bytes": 64_000_000,
            "space": "Box([-4.8         -inf], [4.8           inf], (2,), float32)",
            "runners": runners,
            "empty": {},
        }
    )
    assert str(summary).splitlines() == [
        "rows          1,234,567",
        "share         0.0625",
        "rate          1,234.6",
        "buffer_bytes  64.0 MB",
        "space         Box([-4.8 -inf], [4.8 inf],",
        "              (2,), float32)",
        "empty         {}",
        "",
        "columns",
        "  a       x",
        "  longer",
        "    b  yes",
        "",
        "runners",
        "  runner  agents  kind",
        "       0  0 to 3  plain",
        "      10  (4,)    x",
    ]
