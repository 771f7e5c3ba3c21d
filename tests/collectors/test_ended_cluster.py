"""A cluster of `ray start` that was killed leaves its address behind: a manager starts Ray on this machine then."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("ray")

SCRIPT = """
import ray
from really._ray import runtime
assert runtime.start().is_current
print(len(ray.nodes()), flush=True)
ray.shutdown()
"""


@pytest.mark.slow
def test_ray_that_a_manager_starts_does_not_wait_for_a_cluster_that_has_ended() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # nobody listens there afterwards
    with tempfile.TemporaryDirectory() as folder:  # a short path: Ray's sockets are in it
        (Path(folder) / "ray").mkdir()
        (Path(folder) / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{port}")
        variables = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        command = [sys.executable, "-c", SCRIPT]
        environment = variables | {"RAY_TMPDIR": folder}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr[-2000:]
    assert f":{port}, which `ray start` began, has ended; `ray stop` forgets it." in done.stderr
