"""A raylet or GCS that dies ends the driver, which Ray decides; a buffer on disk has every row whose put returned."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import pytest

from really import ReplayBuffer
from tests.disks import disk
from tests.scripts import run_script

pytestmark = pytest.mark.xdist_group("ray")

SCRIPT = """
import sys
killed, path = sys.argv[1:]
os.environ["RAY_gcs_rpc_server_reconnect_timeout_s"] = "5"
ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
manager = SampleManager(QNet, Counter, 2, 200, num_steps=50, num_workers=1, env_config={"length": 10**6})
manager.initialize_buffer(10**6, ["state"], path=path, overcommit=True)
manager.collect()
for process in os.listdir("/proc"):
    if process.isdigit():
        with open(f"/proc/{process}/stat") as file:
            name, rest = file.read().split("(", 1)[1].rsplit(")", 1)
        if name == killed and int(rest.split()[1]) == os.getpid():
            os.kill(int(process), signal.SIGKILL)
            print("killed", flush=True)
while True:
    manager.collect()
    print("rows", len(manager.buffer), flush=True)
    time.sleep(0.02)
"""


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["raylet", "gcs_server"])
def test_a_buffer_on_disk_survives_what_ends_the_driver(killed: str, tmp_path: Path) -> None:
    script = textwrap.dedent(SCRIPT).replace("sys.argv[1:]", repr((killed, str(tmp_path / "ring"))))
    done = run_script(script)
    assert "killed" in done.stdout.splitlines(), done.stderr[-2000:]
    assert done.returncode != 0
    counted = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("rows ")]
    with ReplayBuffer.open(tmp_path / "ring", "r+") as buffer:
        assert len(buffer) >= max(counted, default=200)
        assert buffer.verify().is_whole
        rows = buffer.take(np.arange(len(buffer)))["state"][:, 0]
        assert np.isfinite(rows).all()
        buffer.put({"state": np.zeros((3, 1), np.float32)})


FULL = """
import sys
folder, path = sys.argv[1:]
options = {"object_store_memory": 80 << 20, "_plasma_directory": folder}
ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, **options)
manager = SampleManager(QNet, Wide, 2, 2000, num_steps=1000, num_workers=1)
manager.initialize_buffer(10**5, ["state"], path=path, overcommit=True)
manager.collect()
left = os.statvfs(folder)
with open(f"{folder}/others", "wb") as others:
    os.posix_fallocate(others.fileno(), 0, left.f_bavail * left.f_frsize - (1 << 20))
print("full", flush=True)
for _ in range(10):
    manager.collect()
    print("rows", len(manager.buffer), flush=True)
manager.close()
print("end")
"""


@pytest.mark.slow
@pytest.mark.parametrize("is_reserved", [False, True])
def test_shared_memory_that_others_fill_loses_no_row_on_disk(
    is_reserved: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray takes the pages of its store as it needs them, unless it is told to reserve them when it starts."""
    monkeypatch.setenv("RAY_preallocate_plasma_memory", str(int(is_reserved)))
    with disk(tmp_path, "tmpfs", mount=("size=200m",)) as folder:
        script = textwrap.dedent(FULL).replace("sys.argv[1:]", repr((str(folder), str(tmp_path / "ring"))))
        done = run_script(script)
    lines = done.stdout.splitlines()
    assert "full" in lines, done.stderr[-2000:]
    assert ("end" in lines) == (done.returncode == 0), done.stderr[-2000:]
    assert "end" in lines or not is_reserved, done.stderr[-2000:]
    counted = [int(line.split()[1]) for line in lines if line.startswith("rows ")]
    assert not is_reserved or len(counted) == 10
    with ReplayBuffer.open(tmp_path / "ring", "r+") as buffer:
        assert len(buffer) >= max(counted, default=2000)
        assert buffer.verify().is_whole
