"""The ledger of a named buffer, published for processes that read it."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really._ray import runtime
from really._ray.placement import affinity
from really.data.schema import Spec
from really.errors import InvalidValueError
from really.replay.options import BufferOptions

log = logging.getLogger("really")

NAMESPACE, PREFIX = "really", "shards."
END_SECONDS = 5.0
"""How long the end of a buffer waits until its name is free."""
PUBLISH_SECONDS = 0.2
"""Seconds between two looks at whether the ledger has changed."""


@dataclass(frozen=True)
class OpenShard:
    """How another process reads a shard: on its node in the folder, elsewhere through an actor."""

    name: str
    node: str
    folder: str
    actor: Any


@dataclass(frozen=True)
class Edition:
    """The ledger at one moment, and what a reader has to know besides.

    Attributes:
        number: which edition it is, from 1 on.
        options, spec: of the buffer.
        shards: how the shards are read.
        runs, away: of the ledger.
        first, num_put: number of the oldest of the newest `capacity` rows, and of the next row.
    """

    number: int
    options: BufferOptions
    spec: Spec | None
    shards: list[OpenShard]
    runs: NDArray[np.int64]
    away: NDArray[np.bool_]
    first: int
    num_put: int


class Board:
    """The class of the named actor that has the newest edition."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._edition: Edition | None = None

    def owner(self) -> str:
        """Who publishes."""
        return self._owner

    def publish(self, edition: Edition) -> None:
        """Takes an edition in place of the one before."""
        self._edition = edition

    def newest(self, known: int) -> Edition | None:
        """The newest edition; None if it is the one of this number, or if there is none."""
        edition = self._edition
        return None if edition is None or edition.number == known else edition


class Publisher:
    """Publishes editions under a name, from a thread of its own, until it is closed.

    Args:
        name: of the buffer.
        node: the node of the owner.
        collect: the edition of now with this number, or None if nothing changed since its last call.

    Raises:
        InvalidValueError: another buffer has the name.
    """

    def __init__(self, name: str, node: str, collect: Callable[[int], Edition | None]) -> None:
        import ray

        owner = f"process {os.getpid()} on node {node[:8]}"
        options = {"name": PREFIX + name, "namespace": NAMESPACE, "num_cpus": 0}
        try:
            board = ray.remote(Board).options(**options, scheduling_strategy=affinity(node))
            self._board: Any = board.remote(owner)
        except ValueError as error:
            raise InvalidValueError(
                f"name: expected one that no other buffer has, got {name!r}, which {_owner_of(name)} owns"
            ) from error
        self._name, self._collect, self._number = name, collect, 1
        self._session = runtime.start()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, name="really-ledger", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends publishing, and the name with it."""
        self._ends.set()
        self._thread.join()
        if self._session.is_current:
            self._end()
            end = time.monotonic() + END_SECONDS
            while _is_taken(self._name) and time.monotonic() < end:
                time.sleep(0.05)

    def _run(self) -> None:
        import ray

        while not self._ends.wait(PUBLISH_SECONDS):
            try:
                if (edition := self._collect(self._number)) is not None:
                    ray.get(self._board.publish.remote(edition))
                    self._number += 1
            except Exception as error:  # the owner's own next call tells what is wrong
                log.warning("The ledger is no longer published: %s", str(error).strip().splitlines()[-1])
                self._end()  # readers must not wait for editions that do not come
                return

    def _end(self) -> None:
        import ray

        if self._session.is_current:
            ray.kill(self._board)


def _is_taken(name: str) -> bool:
    import ray

    try:
        ray.get_actor(PREFIX + name, namespace=NAMESPACE)
    except ValueError:
        return False
    return True


def board_of(name: str) -> Any:
    """The actor that has the editions of this buffer; raises InvalidValueError if there is none."""
    import ray

    try:
        return ray.get_actor(PREFIX + name, namespace=NAMESPACE)
    except ValueError as error:
        found = [each["name"] for each in ray.util.list_named_actors(all_namespaces=True)]
        known = [each.removeprefix(PREFIX) for each in found if each.startswith(PREFIX)]
        raise InvalidValueError(f"name: expected one of the cluster's buffers ({known}), got {name!r}") from error


def _owner_of(name: str) -> str:
    import ray

    try:
        owner: str = ray.get(board_of(name).owner.remote(), timeout=5)
    except (InvalidValueError, ray.exceptions.RayError, TimeoutError):
        return "another process"
    return owner
