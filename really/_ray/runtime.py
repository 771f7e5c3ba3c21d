"""The Ray runtime: starts it, checks that it still runs, and measures its object store."""

from __future__ import annotations

import importlib
import logging
import math
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from really._ray.nodes import own_node
from really.errors import RunnerError

log = logging.getLogger("really")

SHARED_MEMORY = "/dev/shm"
CONNECT_SECONDS = 5.0
"""How long a cluster may take to accept a connection before Ray itself is asked to join it."""

OF_A_MANAGER = "this manager", "; make a new SampleManager"
"""Whose runtime it is, and what follows once Ray is shut down, for `check`."""


@dataclass(frozen=True)
class Session:
    """One connection of this process to Ray: from `ray.init()` to `ray.shutdown()`.

    A Ray that is started again numbers its jobs from the start, but its nodes have new ids.
    """

    node: str
    job: str

    @property
    def is_current(self) -> bool:
        """Whether this process is still connected in the same session."""
        import ray

        return bool(ray.is_initialized()) and _session() == self


def start() -> Session:
    """Starts Ray on this machine, with a warning, unless it is initialised; returns this process's session."""
    import ray

    if not ray.is_initialized():
        log.warning("Ray is not initialised: starting it on this machine, as ray.init() would.")
        cluster = _cluster()
        if has_ended := cluster is not None and not os.environ.get("RAY_ADDRESS") and _is_refused(cluster):
            log.warning("The Ray cluster at %s, which `ray start` began, has ended; `ray stop` forgets it.", cluster)
        with _local_addresses(joins=cluster is not None and not has_ended):
            ray.init(address="local" if has_ended else None, include_dashboard=False, log_to_driver=False)
    return _session()


def _cluster() -> str | None:
    """The address of the cluster that `ray.init()` would join: of RAY_ADDRESS, or of the last `ray start`."""
    services: Any = importlib.import_module("ray._private.services")
    address: str | None = services.canonicalize_bootstrap_address(None)
    return address


def _is_refused(address: str) -> bool:
    """Whether nobody listens there: a cluster that was killed leaves its address, for which `ray.init()` waits long."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS):
            return False
    except ConnectionRefusedError:
        return True
    except OSError:  # of a host that is slow, or away: Ray tells it
        return False


@contextmanager
def _local_addresses(joins: bool) -> Iterator[None]:
    """Lets a Ray that is started here listen on local addresses only; has no effect if it joins a cluster.

    No argument of `ray.init` does this: it replaces 127.0.0.1 by the machine's address. Ray has an environment variable
    for it, meant for other systems, but reads it when it is imported, which the user may have done before.
    """
    constants: Any = importlib.import_module("ray._private.ray_constants")
    before = constants.ENABLE_RAY_CLUSTER
    constants.ENABLE_RAY_CLUSTER = before and joins
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before


def _session() -> Session:
    import ray

    return Session(own_node(), ray.get_runtime_context().get_job_id())


def check(session: Session, told: tuple[str, str] = OF_A_MANAGER) -> None:
    """Raises RunnerError if the runtime of this session was shut down: a call to an actor would start another.

    The error tells whose runtime it was, and what follows.
    """
    if not session.is_current:
        raise _shut_down(told)


@contextmanager
def shutdown_as_error(session: Session) -> Iterator[None]:
    """Turns what Ray raises if it is shut down during a call into the RunnerError of `check`."""
    try:
        yield
    except SystemExit:
        # Ray ends the threads that wait for it in this way. In the main thread it is the user's own exit.
        if threading.current_thread() is not threading.main_thread():
            raise _shut_down() from None
        raise
    except Exception:
        check(session)
        raise


def _shut_down(told: tuple[str, str] = OF_A_MANAGER) -> RunnerError:
    whose, what_follows = told
    return RunnerError(
        f"the Ray runtime of {whose}: expected it to be running, but ray.shutdown() was called{what_follows}"
    )


def smallest_object_store() -> float:
    """Bytes of the smallest object store in the cluster, or infinity if no node tells its size."""
    import ray

    sizes = [node["Resources"].get("object_store_memory", math.inf) for node in ray.nodes() if node["Alive"]]
    return min(sizes, default=math.inf)


def warn_of_small_shared_memory(store_bytes: float, path: str = SHARED_MEMORY) -> bool:
    """Warns if the shared memory at `path` cannot hold an object store of `store_bytes`; returns whether it warned."""
    if not os.path.isdir(path) or (size := shutil.disk_usage(path).total) >= store_bytes:
        return False
    log.warning(
        "%s holds %.0f MB, Ray's object store wants %.0f MB: it falls back to the disk, which is slow. "
        "Enlarge it (in a container: --shm-size), or give ray.init a smaller object_store_memory.",
        path,
        size / 1e6,
        store_bytes / 1e6,
    )
    return True
