"""Shards on the nodes of a Ray cluster: one in the learner's process, for its own node, and an actor on each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from really._ray import hosts, runtime
from really._ray.direct import answers_directly
from really._ray.nodes import own_node
from really._ray.placement import affinity
from really._ray.remote_rows import RemoteRows, fetched
from really._utils.packages import install_command, needed
from really.data.schema import Spec
from really.errors import (
    DiskFullError,
    InvalidTypeError,
    InvalidValueError,
    NotEnoughMemoryError,
    ReallyError,
    RunnerError,
)
from really.replay.disk.schema import FolderOptions
from really.replay.options import BufferOptions
from really.service.joining import Joining
from really.service.mapped_shard import ShardDoor
from really.service.publishing import OpenShard
from really.service.remote_shard import OF_A_BUFFER, RemoteShard
from really.service.shard import Shard
from really.service.shards import NO_OPTIONS, START_SECONDS, Answer, Event, Found, room_of, shard_options

ALL_NODES = "nodes"


class RayShards:
    """A shard on each of these nodes.

    Args:
        nodes: "nodes" for all that are alive, or ids, names or addresses of nodes.
        options: of the whole buffer.
        time_out: seconds after which a shard that does not answer is away.
        path: a folder on each node for the rows; None keeps them in memory.
        given: options of the folders.

    Raises:
        InvalidValueError: a name is that of no living node, or of one named before.
        MissingPackageError: Ray is not installed.
        RunnerError: a host lacks this package, or has another version of it.
    """

    writable = True

    def __init__(
        self,
        nodes: str | Sequence[str],
        options: BufferOptions,
        time_out: float,
        path: Path | None = None,
        given: FolderOptions = NO_OPTIONS,
    ) -> None:
        with needed("ShardedBuffer", "Ray for shards on nodes", "ray", "shards=1"):
            import ray  # noqa: F401
        self._session = runtime.start()
        chosen, own = _chosen(nodes), own_node()
        hosts.check(None, install_command(None), [node for node in chosen if node != own])
        self.names = [_name_of(node, name) for node, name in chosen.items()]
        self.nodes = list(chosen)
        self._options = options
        self._made = shard_options(options, room_of(options, len(chosen)), given)
        self._rooms = np.full(len(chosen), self._made["capacity"])
        self._own: Shard | None = None
        self._folders = _folders(path, list(chosen))
        self._remotes = [
            None if node == own else RemoteShard(number, node, time_out, self._session, folder)
            for number, (node, folder) in enumerate(zip(chosen, self._folders, strict=True))
        ]
        self._given, self._time_out, self._path = given, time_out, path
        self._placed = list(chosen)  # nodes that have a folder
        self._takes_all = nodes == ALL_NODES
        self._joining: Joining | None = None
        self._door: Any = None

    def settle(self) -> Sequence[Event]:
        """As of `Shards`."""
        runtime.check(self._session, OF_A_BUFFER)
        events = [event for remote in self._remotes if remote is not None for event in remote.settle()]
        return events + (self._joined() if self._joining is not None else [])

    @property
    def rooms(self) -> NDArray[np.int64]:
        """As of `Shards`."""
        return self._rooms * [remote is None or remote.can_take_rows for remote in self._remotes]

    @property
    def sole(self) -> Shard | None:
        """As of `Shards`."""
        return self._own if len(self._remotes) == 1 else None

    def start(self, spec: Spec | None) -> list[Found]:
        """As of `Shards`."""
        made, found = self._made, list[Found]()
        answers = [None if remote is None else remote.start(made, spec) for remote in self._remotes]
        problems = list[ReallyError]()
        for name, answer, folder in zip(self.names, answers, self._folders, strict=True):
            try:
                found.append(self._start_own(made, spec, folder) if answer is None else _started(answer))
            except ReallyError as error:
                problems.append(type(error)(f"{name}: {error}"))
        if problems:
            raise _first(problems)
        self._rooms[:] = [one.room for one in found]
        if self._takes_all and (spec is not None or any(one.spec is not None for one in found)):
            schema = spec or next(one.spec for one in found if one.spec is not None)
            self._joining = Joining(self.nodes, self._new_shard, lambda shard: self._start_new(shard, schema))
        return found

    def put(self, shard: int, place: int, number: int, rows: Mapping[str, Any] | RemoteRows) -> None:
        """As of `Shards`."""
        remote = self._remotes[shard]
        if remote is None:
            self._own_shard.put_at(place, number, fetched(rows))
        else:
            remote.put(place, number, rows)

    def ask(self, shard: int, places: NDArray[np.int64]) -> Answer:
        """As of `Shards`."""
        remote = self._remotes[shard]
        if remote is not None:
            return remote.ask(places)
        batch = self._own_shard.take_at(places)
        return lambda: batch

    def each(
        self, method: str, arguments: Sequence[tuple[Any, ...] | None] | None = None, limit: float | None = None
    ) -> list[Any]:
        """As of `Shards`."""
        runtime.check(self._session, OF_A_BUFFER)
        remotes = self._remotes[: None if arguments is None else len(arguments)]
        given = [()] * len(remotes) if arguments is None else arguments
        sent = [
            None if remote is None or each is None else remote.send(method, *each)
            for remote, each in zip(remotes, given, strict=True)
        ]
        own = [
            None if remote is not None or each is None or self._own is None else getattr(self._own, method)(*each)
            for remote, each in zip(remotes, given, strict=True)
        ]
        return [
            mine if remote is None or answer is None or not remote.can_take_rows else remote.answer(answer, limit)
            for remote, answer, mine in zip(remotes, sent, own, strict=True)
        ]

    def opened(self) -> list[OpenShard]:
        """As of `Shards`."""
        if self._path is None:
            raise InvalidValueError(
                "name: expected path= besides, as other processes read the rows of this node in its folder; path= may "
                "be in /dev/shm"
            )
        shards = zip(self.names, self.nodes, self._folders, self._remotes, strict=True)
        return [
            OpenShard(name, node, str(folder), self._own_door(folder) if remote is None else remote.actor)
            for name, node, folder, remote in shards
        ]

    def _own_door(self, folder: Path | None) -> Any:
        """The actor that gives other nodes the rows of this one."""
        import ray

        if self._door is None:
            options = {"num_cpus": 0, "scheduling_strategy": affinity(own_node()), "max_restarts": -1}
            self._door = ray.remote(ShardDoor).options(**options, **answers_directly()).remote(str(folder))
        return self._door

    def close(self) -> None:
        """As of `Shards`."""
        import ray

        self._close_own()
        if self._session.is_current:
            if self._door is not None:
                ray.kill(self._door)
                self._door = None
            if self._joining is not None:
                self._joining.close()
            for remote in self._remotes:
                if remote is not None:
                    remote.close()

    def _joined(self) -> list[Event]:
        """Takes shards of nodes that joined, which have no rows of the ledger."""
        assert self._joining is not None
        events = []
        for newcomer, found in self._joining.ready():
            self.nodes.append(newcomer.node)
            newcomer.shard.number = len(self._remotes)
            self._remotes.append(newcomer.shard)
            self._folders.append(newcomer.shard.path)
            self._rooms = np.append(self._rooms, found.room)
            # The name comes last: who has it, in another thread, can ask the shard.
            self.names.append(_name_of(newcomer.node, newcomer.name))
            events.append(Event(len(self.names) - 1, "joined", found.next_place))
        return events

    def _new_shard(self, node: str, name: str) -> RemoteShard:
        self._placed.append(node)
        folder = _folders(self._path, self._placed)[-1]
        return RemoteShard(len(self._remotes), node, self._time_out, self._session, folder)

    def _start_new(self, shard: RemoteShard, spec: Spec) -> Any:
        num = 1 + sum(remote is None or not remote.is_gone for remote in self._remotes)
        return shard.start(shard_options(self._options, room_of(self._options, num), self._given), spec)

    def _start_own(self, made: Mapping[str, Any], spec: Spec | None, folder: Path | None) -> Found:
        self._close_own()
        self._own = Shard(**made, spec=spec, path=folder)
        return Found.of(self._own)

    def _close_own(self) -> None:
        if self._own is not None:
            self._own.close()
            self._own = None

    @property
    def _own_shard(self) -> Shard:
        assert self._own is not None, "a shard is asked before it is started"
        return self._own


def _name_of(node: str, host: str) -> str:
    return f"the shard of node {node[:8]} ({host})"


def _first(problems: Sequence[ReallyError]) -> ReallyError:
    """The first error; if a shard has no room, with the texts of all such errors, since each node tells its own."""
    first = problems[0]
    alike = [error for error in problems if type(error) is type(first)]
    has_room = not isinstance(first, NotEnoughMemoryError | DiskFullError)
    return first if has_room else type(first)("; ".join(map(str, alike)))


def _started(answer: Any) -> Found:
    """What a shard has that was asked to start; raises the error that it answers."""
    import ray

    try:
        found = ray.get(answer, timeout=START_SECONDS)
    except (ray.exceptions.RayError, TimeoutError) as error:
        raise RunnerError(f"expected it to start, but {error}") from error
    if isinstance(found, ReallyError):
        raise found
    started: Found = found
    return started


def _folders(path: Path | None, nodes: Sequence[str]) -> list[Path | None]:
    """The folder of each node's shard. It has the node's address in its name, as ids change with each start of Ray."""
    import ray

    addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    found = list[Path | None]()
    for at, node in enumerate(nodes):
        before = [addresses.get(other) for other in nodes[:at]].count(addresses.get(node, ""))
        found.append(None if path is None else path / f"shard-{addresses.get(node)}-{before}")
    return found


def _chosen(nodes: str | Sequence[str]) -> dict[str, str]:
    """Node -> name of its host, for the nodes that the argument names; this process's own first."""
    import ray

    alive = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    own = own_node()
    if nodes == ALL_NODES:
        chosen = sorted(alive, key=lambda node: (node != own, node))
    elif isinstance(nodes, str) or not all(isinstance(name, str) for name in nodes):
        raise InvalidTypeError(f"shards: expected a number, {ALL_NODES!r} or a list of nodes, got {nodes!r}")
    else:
        chosen = [_node_called(name, alive) for name in nodes]
    if not chosen or len(set(chosen)) < len(chosen):
        raise InvalidValueError(f"shards: expected one node or more, each once, got {nodes!r}")
    return {node: alive[node]["NodeManagerHostname"] for node in chosen}


def _node_called(name: str, alive: Mapping[str, Mapping[str, Any]]) -> str:
    """The id of the living node with this id, host name or address."""
    found = [
        node
        for node, about in alive.items()
        if name in (node, about["NodeManagerHostname"], about["NodeManagerAddress"])
    ]
    if len(found) != 1:
        known = ", ".join(f"{node} ({about['NodeManagerAddress']})" for node, about in alive.items())
        raise InvalidValueError(
            f"shards: expected the id, host name or address of one living node ({known}), got {name!r}, which "
            f"{len(found)} have"
        )
    return found[0]
