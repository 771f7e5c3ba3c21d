"""What one sees: progress bars where they are wanted, and a summary that reads well."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from really import SampleManager
from really.progress import advance, progress_bar
from really.summary import Summary
from tests.environments import Counter
from tests.models import QNet


def test_a_bar_that_is_asked_for_is_shown_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("collecting", 10, "step", wanted=True) as bar:
        advance(bar, 4)
        advance(bar, 10)
    shown = capsys.readouterr().err
    assert "collecting" in shown
    assert "10/10" in shown


@pytest.mark.parametrize("wanted", [None, False])
def test_other_bars_are_quiet_off_a_terminal(wanted: bool | None, capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("collecting", 10, "step", wanted) as bar:
        advance(bar, 10)
    assert capsys.readouterr().err == ""


def test_collecting_and_testing_show_theirs(capsys: pytest.CaptureFixture[str]) -> None:
    with SampleManager(QNet, Counter, 2, 200, num_steps=10, use_ray=False) as manager:
        manager.get_data(progress=True)
        manager.test(20, test_episodes=5, progress=True)
    shown = capsys.readouterr().err
    assert "200/200" in shown
    assert "5/5" in shown


def test_the_summary_names_the_set_up_and_the_running_figures() -> None:
    with SampleManager(QNet, Counter, 2, 200, num_steps=10, use_ray=False, returns=["agent"]) as manager:
        manager.initialize_buffer(50)
        manager.collect()
        info = manager.info()
    assert info["environment"] == "Counter"
    assert info["inference"] == "litert"
    assert info["columns"]["state"] == "float32[1]"
    assert info["columns"]["agent"] == "int32[]"
    assert info["buffer_bytes"] > 0
    assert info["delivered_rows"] == 200
    assert info["rows_per_second_per_runner"] > 0
    assert {"queued_orders", "waited_seconds", "dropped_rows"} <= set(info)
    assert info["runners"][0]["restarts"] == 0


def test_a_summary_prints_aligned() -> None:
    summary = Summary(
        {"rows": 1234567, "share": 0.5, "columns": {"a": "x"}, "runners": [{"runner": 0, "agents": (0, 1, 2, 3)}]}
    )
    assert str(summary).splitlines() == [
        "rows     1,234,567",
        "share    0.5",
        "columns",
        "  a  x",
        "runners",
        "  runner  agents",
        "  0       0 to 3",
    ]


LONG = """
import numpy as np, really.progress
from really import ReplayBuffer
really.progress.PATIENCE, really.progress.INTERVAL = 1e-6, 0.0
buffer = ReplayBuffer(20000, ["x"])
buffer.put({"x": np.zeros((20000, 64), np.float32)})
buffer.save("saved")
ReplayBuffer.load("saved")
buffer.to_parquet("rows.parquet")
ReplayBuffer.from_parquet("rows.parquet")
"""


@pytest.mark.parametrize("on_terminal", [True, False])
def test_buffers_show_a_bar_on_a_terminal_only(on_terminal: bool, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    streams = {"stderr": theirs if on_terminal else subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", LONG], cwd=tmp_path, env=environment, **streams)
    os.close(theirs)
    if on_terminal:
        shown = b""
        # Reading fails once the other end of a terminal is closed.
        with contextlib.suppress(OSError):
            while part := os.read(ours, 4096):
                shown += part
        assert process.wait() == 0
        assert [word for word in (b"saving", b"loading", b"writing", b"reading") if word not in shown] == []
    else:
        assert process.communicate()[1] == b""
        assert process.returncode == 0
    os.close(ours)
