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
from really._utils.progress import advance, progress_bar
from really.manager.summary import Summary
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


LONG = """
import numpy as np, really._utils.progress
from really import ReplayBuffer
really._utils.progress.PATIENCE, really._utils.progress.INTERVAL = 1e-6, 0.0
buffer = ReplayBuffer(20000, ["x"])
buffer.put({"x": np.zeros((20000, 64), np.float32)})
buffer.save("saved")
ReplayBuffer.load("saved")
buffer.to_parquet("rows.parquet")
ReplayBuffer.from_parquet("rows.parquet")
"""


# A step of the constructor is shown while it takes long.
MANAGER = """
import really._utils.progress
from really import SampleManager
from tests.environments import Counter
from tests.models import QNet
really._utils.progress.PATIENCE, really._utils.progress.INTERVAL = 0.01, 0.01
with SampleManager(QNet, Counter, 2, 5000, num_steps=10, use_ray=False, env_config={"length": 3000}) as manager:
    manager.get_data()
    manager.test(3000, test_episodes=5)
"""


def run(script: str, folder: Path, on_terminal: bool) -> str:
    """What a script shows on stderr, which is a terminal or a pipe."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    paths = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    streams = {"stderr": theirs if on_terminal else subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", script], cwd=folder, env=environment, **streams)
    os.close(theirs)
    shown = b""
    if on_terminal:
        # Reading fails once the other end of a terminal is closed.
        with contextlib.suppress(OSError):
            while part := os.read(ours, 4096):
                shown += part
    else:
        shown = process.communicate()[1]
    os.close(ours)
    assert process.wait() == 0, shown.decode()
    return shown.decode()


def test_buffers_show_a_bar_on_a_terminal_only(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shown = run(LONG, tmp_path, on_terminal=True)
    assert [word for word in ("saving", "loading", "writing", "reading") if word not in shown] == []
    assert run(LONG, other, on_terminal=False) == ""


def test_managers_show_what_they_do_on_a_terminal_only(tmp_path: Path) -> None:
    words = ("SampleManager: building the model", "SampleManager: choosing", "collecting", "testing")
    shown = run(MANAGER, tmp_path, on_terminal=True)
    assert [word for word in words if word not in shown] == []
    assert "Traceback" not in shown
    quiet = run(MANAGER, tmp_path, on_terminal=False)
    assert [word for word in words if word in quiet] == []
