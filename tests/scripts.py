"""Runs scripts in a process of their own, as a user would; the output of one of them serves several tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

PRELUDE = """
    import gc, os, signal, sys, tempfile, threading, time
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import numpy as np, ray
    from really import SampleManager, ReallyError
    from tests.environments import Counter, Tenant, Wide
    from tests.models import QNet
"""

# One process meets every fault, because each start of a process takes as long as all the rest: Ctrl-C, a shutdown of
# Ray, a new start with a small store, messages in pieces, and an exit that closes nothing.
LONG_DAY = """
    options = {"num_cpus": 2, "include_dashboard": False, "log_to_driver": False}
    ray.init("local", **options)
    manager = SampleManager(QNet, Counter, 4, 400, num_steps=50)
    manager.get_data()
    print("pids", *[runner["pid"] for runner in manager.info()["runners"]])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore SIGINT
    gc.collect()  # Python drops an interrupt that arrives inside TensorFlow's __del__ of a traced function
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        manager.get_data(total_steps=50_000_000)
        print("not interrupted")
    except KeyboardInterrupt:
        print("interrupted")
    print("rows after it", len(manager.get_data()["reward"]))

    background_manager = SampleManager(QNet, Counter, 2, 100, num_steps=50, num_workers=1)
    background_manager.initialize_buffer(1000, ["state"])
    background_manager.collect_in_background()

    ray.shutdown()
    for old in range(2):
        try:
            manager.get_data()
        except ReallyError as error:
            print("error:", error)
        if old == 0:
            ray.init("local", **options, object_store_memory=80 << 20, num_gpus=1, resources={"licence": 2})
    print("lost", *{runner["environments"] for runner in manager.info()["runners"]})
    try:
        while True:
            background_manager.sample(10)
    except ReallyError as error:
        print("background:", error)
    del background_manager

    old, manager = manager, SampleManager(QNet, Wide, 4, 4000, num_steps=1000, returns=["agent"])
    print("new", len(manager.info()["runners"]))
    old.close()
    del old
    gc.collect()
    for _ in range(2):
        data = manager.get_data()
        print("wide", len(data["reward"]), (data["state_new"] == data["state"] + 1).all(), data["state"].nbytes)
    manager.close()

    class Licensed(Counter):
        def _show(self):
            return np.array([float(os.environ.get("LICENCE", 0))], np.float32)

    licences = {"num_gpus": 0.5, "resources": {"licence": 1}, "runtime_env": {"env_vars": {"LICENCE": "7"}}}
    with SampleManager(QNet, Licensed, 4, 40, num_steps=10, **licences) as manager:
        states = manager.get_data()["state"]
        left = ray.available_resources()
        print("licences", len(manager.info()["runners"]), *np.unique(states), left.get("licence"), left.get("GPU"))

    manager = SampleManager(QNet, Wide, 2, 2000, num_steps=1000, normalize_observations=True)
    print("normalised", len(manager.get_data()["reward"]))
    manager.set_agent(manager.get_agent().get_weights())
    state = manager.info()["normalization"]["state"]
    print("measured", state["count"], *(
        np.allclose(state[name], expected) for name, expected in {"mean": 499.5, "variance": (1000**2 - 1) / 12}.items()
    ))
    print("pids", *[runner["pid"] for runner in manager.info()["runners"]])

    folder = tempfile.mkdtemp()
    print("folder", folder)
    tenants = SampleManager(QNet, Tenant, 2, 40, num_steps=20, num_workers=1, env_config={"folder": folder})
    tenants.get_data()
"""


class LongDay(NamedTuple):
    """The end of a LONG_DAY, and its processes and files in shared memory that remained 20 seconds later."""

    done: subprocess.CompletedProcess[str]
    processes: set[str]
    files: set[Path]

    def said(self, about: str) -> list[str]:
        """The rest of each printed line that starts with `about`."""
        lines = self.done.stdout.splitlines()
        return [line.removeprefix(about).strip() for line in lines if line.startswith(f"{about} ")]


def run_script(text: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs a script after the imports of PRELUDE; kills it after nearly five minutes, many times what it needs."""
    script = textwrap.dedent(PRELUDE) + textwrap.dedent(text)
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=280, check=False, **options
    )


def killed_after(code: str, arguments: list[str], num_numbers: int) -> NDArray[np.uint32]:
    """What a process has written before it was killed: uint32 numbers, of which it was given time for so many."""
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None
        said = b""
        while len(said) < 4 * num_numbers and (more := process.stdout.read(4 * num_numbers - len(said))):
            said += more
        process.kill()
        rest, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors.decode()
    said += rest
    return np.frombuffer(said[: len(said) // 4 * 4], np.uint32)


def shared_files() -> set[Path]:
    """Files in shared memory, without those of tests of damage that run at the same time."""
    return {path for path in Path("/dev/shm").iterdir() if not path.name.startswith("really-mutants-")}


def run_long_day() -> LongDay:
    """Runs LONG_DAY, and waits until its processes and files are gone."""
    before = shared_files()
    day = LongDay(run_script(LONG_DAY), set(), set())
    pids = {pid for line in day.said("pids") for pid in line.split()}
    deadline = time.monotonic() + 20
    while True:
        processes = {pid for pid in pids if os.path.exists(f"/proc/{pid}")}
        files = shared_files() - before
        if not (processes or files) or time.monotonic() > deadline:
            return LongDay(day.done, processes, files)
        time.sleep(0.1)
