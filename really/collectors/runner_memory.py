"""Memory of runners: a process that holds more than `max_runner_memory` is replaced between two orders."""

from __future__ import annotations

import logging

from really.collectors.messages import Chunk, RunnerSpec
from really.collectors.orders import Worker

log = logging.getLogger("really")

MB = 1e6


def watch(spec: RunnerSpec, worker: Worker, chunk: Chunk) -> None:
    """Marks a worker whose process has outgrown the limit. It carries out the orders that it has, and gets no other."""
    if chunk.memory <= spec.max_runner_memory or worker.outgrown:
        return
    worker.outgrown = True
    holds, limit = chunk.memory / MB, spec.max_runner_memory / MB
    if not worker.started:
        log.warning(
            "max_runner_memory: %s holds %.0f MB after its first rows, more than the %.0f MB at which it is replaced; "
            "a larger limit starts fewer processes",
            *(worker, holds, limit),
        )
    elif spec.seeded and not worker.restarts:
        log.warning(
            "max_runner_memory: %s holds %.0f MB, more than %.0f MB, and is replaced; a seeded run will not repeat",
            *(worker, holds, limit),
        )
    else:
        log.info("max_runner_memory: %s holds %.0f MB, more than %.0f MB, and is replaced", worker, holds, limit)
