"""Full disks of real file systems, as images where root can mount them: a put is refused whole, no process ends.

A write to a mapping for which the file system has no block left ends the process (SIGBUS), so each disk is filled in a
child process.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

FILL = """
import sys, numpy as np
from really import ReplayBuffer
from really.errors import DiskFullError
path, width = sys.argv[1], int(sys.argv[2])
buffer, number = ReplayBuffer(10**6, path=path, overcommit=True), 0
try:
    while True:
        row = np.arange(number, number + 200)[:, None]
        buffer.put({"x": np.repeat(row, width, axis=1).astype(np.float32)})
        number += 200
except DiskFullError:
    pass
assert len(buffer) == number > 1000, (len(buffer), number)
buffer.flush()
buffer.close()
with ReplayBuffer.open(path, "r+") as again:
    assert again.take(np.arange(number))["x"][:, 0].tolist() == list(range(number))
"""


@pytest.mark.parametrize("width", [256, 2048])
@pytest.mark.parametrize("kind", ["ext4", "ext2", "xfs"])
def test_a_full_disk_refuses_a_put_whole(tmp_path, kind, width):
    size = 320 if kind == "xfs" else 48
    if os.geteuid() != 0 or shutil.which(f"mkfs.{kind}") is None or not os.path.exists("/dev/loop-control"):
        pytest.skip(f"needs root, loop devices and mkfs.{kind}")
    image, disk = tmp_path / "image", tmp_path / "disk"
    image.touch()
    os.truncate(image, size << 20)
    disk.mkdir()
    subprocess.run([f"mkfs.{kind}", "-q", str(image)], check=True, capture_output=True)
    if subprocess.run(["mount", "-o", "loop", str(image), str(disk)], capture_output=True).returncode != 0:
        pytest.skip("cannot mount an image")
    try:
        command = [sys.executable, "-c", FILL, str(disk / "b"), str(width)]
        child = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert child.returncode == 0, child.stderr[-2000:]
    finally:
        subprocess.run(["umount", str(disk)], check=True)
