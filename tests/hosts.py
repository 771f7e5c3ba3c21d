"""Hosts of a Ray cluster on one machine: network, mount and process namespaces, so each can be lost as a real one is.

Needs root and iproute2. Each host has its own address, /dev/shm and /tmp/ray.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.scripts import PRELUDE

RAY = str(Path(sys.executable).with_name("ray"))
START = """
    ray.init(address="10.77.0.1:6379", log_to_driver=False, _node_ip_address="10.77.0.1")
    def say(*words):
        print(*words, flush=True)
"""
MOUNTS = "mkdir -p /tmp/ray; mount -t tmpfs tmpfs /tmp/ray; mount -t tmpfs tmpfs /dev/shm"


def are_possible() -> bool:
    """Whether this process may make hosts."""
    if os.getuid() or not shutil.which("ip") or not shutil.which("unshare"):
        return False
    return not subprocess.run(["unshare", "-m", "-n", "-p", "-f", "true"], capture_output=True, check=False).returncode


class Hosts:
    """Hosts `0`, `1`, ... on one bridge, with these numbers of CPUs and object stores; host 0 has Ray's head."""

    def __init__(self, *cpus: int, env: Mapping[str, str] | None = None, store_bytes: int = 200_000_000) -> None:
        self._store_bytes = store_bytes
        self._name = f"rl{secrets.token_hex(3)}"
        self._env = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16), **(env or {})}
        self._inits: list[subprocess.Popen[bytes]] = []
        self._run(f"ip link add {self._name} type bridge && ip link set {self._name} up")
        try:
            for count in cpus:
                self.add(count)
        except BaseException:
            self.close()
            raise

    @property
    def address(self) -> str:
        """The address of the cluster."""
        return "10.77.0.1:6379"

    def add(self, cpus: int, replaced: Mapping[str, str] | None = None) -> int:
        """Adds a host; returns its number. `replaced` maps folders that it sees to those that stand in their place."""
        number = len(self._inits)
        name, ip = f"{self._name}h{number}", f"10.77.0.{number + 1}"
        self._run(
            f"ip netns add {name} && ip link add {name} type veth peer name eth0 netns {name} && "
            f"ip link set {name} master {self._name} up && ip -n {name} link set lo up && "
            f"ip -n {name} addr add {ip}/24 dev eth0 && ip -n {name} link set eth0 up"
        )
        what = "--head --port=6379 --include-dashboard=false" if number == 0 else f"--address={self.address}"
        binds = "".join(f"; mount --bind {other} {folder}" for folder, other in (replaced or {}).items())
        start = self._start_command(number, what, cpus)
        script = f"{MOUNTS}{binds}; {start} || exit 1; echo started; exec sleep 100000"
        command = [
            "ip",
            "netns",
            "exec",
            name,
            "unshare",
            "-p",
            "-f",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
            script,
        ]
        init = subprocess.Popen(command, env=self._env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self._inits.append(init)
        assert init.stdout is not None
        lines = []
        for line in init.stdout:
            lines.append(line.decode())
            if line == b"started\n":
                return number
        raise RuntimeError("".join(lines))

    def kill_raylet(self, number: int) -> None:
        """Kills Ray's raylet of a host, as the system does if memory is short."""
        subprocess.run([*self._entering(number), "sh", "-c", "kill -9 $(pidof raylet)"], check=True)

    def restart_ray(self, number: int, cpus: int = 1) -> None:
        """Starts Ray again on a host whose raylet was killed."""
        start = self._start_command(number, f"--address={self.address}", cpus)
        done = subprocess.run(
            [*self._entering(number), "sh", "-c", f"{RAY} stop --force; {start}"],
            env=self._env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)

    def _start_command(self, number: int, what: str, cpus: int) -> str:
        given = f"--node-ip-address=10.77.0.{number + 1} --num-cpus={cpus} --object-store-memory={self._store_bytes}"
        return f"{RAY} start {what} {given} --disable-usage-stats"

    def _entering(self, number: int) -> list[str]:
        """The start of a command that runs on a host."""
        (pid,) = Path(f"/proc/{self._inits[number].pid}/task/{self._inits[number].pid}/children").read_text().split()
        return ["nsenter", "-t", pid, "-m", "-n", "-p"]

    def popen(self, number: int, script: str, **options: Any) -> subprocess.Popen[str]:
        """Runs a Python script on a host."""
        command = [*self._entering(number), sys.executable, "-c", script]
        given = {"env": self._env, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        return subprocess.Popen(command, **given)

    def cut_off(self, number: int) -> None:
        """Takes a host off the network."""
        self._run(f"ip link set {self._name}h{number} down")

    def reconnect(self, number: int) -> None:
        """Puts a host back on the network."""
        self._run(f"ip link set {self._name}h{number} up")

    def kill(self, number: int) -> None:
        """Loses a host at once, without a last word on the network."""
        self.cut_off(number)
        self._end(number)

    def slow_down(self, number: int, rate: str) -> None:
        """Limits what a host sends and receives to a rate in the words of `tc`, as in "20mbit"."""
        name = f"{self._name}h{number}"
        limit = f"root tbf rate {rate} burst 256kb latency 400ms"
        self._run(f"tc qdisc add dev {name} {limit} && ip netns exec {name} tc qdisc add dev eth0 {limit}")

    def _end(self, number: int) -> None:
        self._inits[number].send_signal(signal.SIGKILL)
        self._inits[number].wait()

    def close(self) -> None:
        """Ends all hosts."""
        for number, init in enumerate(self._inits):
            if init.poll() is None:
                self._end(number)
            if init.stdout is not None:
                init.stdout.close()
            self._run(f"ip link del {self._name}h{number}", check=False)
            self._run(f"ip netns del {self._name}h{number}", check=False)
        time.sleep(0.2)
        self._run(f"ip link del {self._name}", check=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @staticmethod
    def _run(command: str, *, check: bool = True) -> None:
        done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise RuntimeError(f"{command}: {done.stderr}")


class Driver:
    """A script on host 0, in parts, whose lines are read as they come."""

    def __init__(self, hosts: Hosts, *parts: str) -> None:
        text = "".join(textwrap.dedent(part) for part in (PRELUDE, START, *parts))
        self._process = hosts.popen(0, text, stdin=subprocess.PIPE, stderr=subprocess.STDOUT)
        self._seen: list[str] = []

    def said(self, word: str) -> list[str]:
        """The words behind `word` in the next line that starts with it."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._seen.append(line)
            if line.startswith(word):
                return line.split()[1:]
        raise AssertionError("".join(self._seen))

    def answer(self) -> None:
        """Lets the script go on, which waits for a line."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def end(self) -> None:
        with self._process:
            assert self._process.wait(60) == 0, "".join(self._seen)
