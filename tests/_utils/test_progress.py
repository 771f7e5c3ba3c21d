"""Progress bars: shown on request, or on a terminal."""

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
from tests.environments import Counter
from tests.models import QNet


def test_a_requested_bar_is_shown_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("collecting", 10, "step", wanted=True) as bar:
        advance(bar, 4)
        advance(bar, 10)
    shown = capsys.readouterr().err
    assert "collecting" in shown
    assert "10/10" in shown


@pytest.mark.parametrize("wanted", [None, False])
def test_other_bars_are_silent_without_a_terminal(wanted: bool | None, capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("collecting", 10, "step", wanted) as bar:
        advance(bar, 10)
    assert capsys.readouterr().err == ""


def test_get_data_and_test_show_bars_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    with SampleManager(QNet, Counter, 2, 200, num_steps=10, use_ray=False) as manager:
        manager.get_data(progress=True)
        manager.test(20, test_episodes=5, progress=True)
    shown = capsys.readouterr().err
    assert "200/200" in shown
    assert "5/5" in shown


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


# A long step of the constructor is shown.
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
    """Text that a script writes to stderr, a terminal or a pipe."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    paths = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    streams = {"stderr": theirs if on_terminal else subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", script], cwd=folder, env=environment, **streams)
    os.close(theirs)
    shown = b""
    if on_terminal:
        # A read fails once the other end of a terminal is closed.
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


def test_managers_show_their_steps_on_a_terminal_only(tmp_path: Path) -> None:
    words = ("SampleManager: building the model", "SampleManager: choosing", "collecting", "testing")
    shown = run(MANAGER, tmp_path, on_terminal=True)
    assert [word for word in words if word not in shown] == []
    assert "Traceback" not in shown
    quiet = run(MANAGER, tmp_path, on_terminal=False)
    assert [word for word in words if word in quiet] == []
