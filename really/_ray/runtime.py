"""The Ray runtime: starts it, checks that it still runs, and measures its object store."""

from __future__ import annotations

import logging
import math
import os
import shutil
from typing import Any

from really.errors import RunnerError

log = logging.getLogger("really")

SHARED_MEMORY = "/dev/shm"


def start() -> Any:
    """Starts Ray on this machine, with a warning, unless it is initialised; returns the id of this driver's job."""
    import ray

    if not ray.is_initialized():
        log.warning("Ray is not initialised: starting it on this machine, as ray.init() would.")
        ray.init(include_dashboard=False, log_to_driver=False)
    return ray.get_runtime_context().get_job_id()


def check(job: Any) -> None:
    """Raises RunnerError if the runtime of this job was shut down."""
    import ray

    if not ray.is_initialized() or ray.get_runtime_context().get_job_id() != job:
        raise RunnerError(
            "the Ray runtime of this manager: expected it to be running, but ray.shutdown() was called; "
            "make a new SampleManager"
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
