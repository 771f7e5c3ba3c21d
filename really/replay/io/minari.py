"""A buffer's rows as a Minari data set of episodes, and back.

A buffer has transitions, a data set has episodes. A row continues the episode of the row before it (of the same
`agent`, if there is that column) if the episode has not ended and its `state` is, bit for bit, the `state_new` of that
row. An episode that neither terminates nor is truncated (mostly the oldest and the newest rows) is truncated at its
last row.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from really._utils.names import OF_BUFFERS, check_names
from really._utils.packages import needed
from really._utils.progress import advance, progress_bar
from really.data.schema import Spec
from really.data.transitions import Columns
from really.errors import EmptyBufferError, FileError, InvalidTypeError, InvalidValueError
from really.replay.arguments import checked_keys
from really.replay.rows import Filled
from really.replay.streams import Counted, RowReader, Streamed

if TYPE_CHECKING:
    from gymnasium import Env, Space
    from gymnasium.envs.registration import EnvSpec


Buffer = TypeVar("Buffer", bound=Filled)
CHUNK = 16 << 20
FLAGS = ("terminal", "not_done", "truncated", "episode_end")
OURS = ("dataset_id", "minari_version")
AUTHORS = ("author", "author_email")


class Spaces(NamedTuple):
    """The spaces of a data set, and the environment that they come from."""

    observation: Space[Any]
    action: Space[Any]
    env_spec: EnvSpec | None
    action_is_known: bool = True


def to_minari(
    buffer: Counted,
    dataset_id: str,
    *,
    env: str | Env[Any, Any] | EnvSpec | None = None,
    observation_space: Space[Any] | None = None,
    action_space: Space[Any] | None = None,
    **about: Any,
) -> Any:
    """As of `ReplayBuffer`; `about` is the metadata."""
    with needed("to_minari", "Minari for its data sets", "minari"):
        import minari

    buffer.check_open("to_minari")
    if len(buffer) == 0 or buffer.spec is None:
        raise EmptyBufferError("to_minari: expected a buffer that holds rows, got an empty one")
    target = _folder_for(dataset_id)
    spaces = _spaces(buffer.spec, env, observation_space, action_space)
    partial = target.parent / f".{target.name}.{secrets.token_hex(4)}.partial"
    try:
        (partial / "data").mkdir(parents=True)
        about = {"dataset_id": dataset_id, "minari_version": minari.__version__, **about}
        _write(buffer, partial / "data", spaces, about)
        _make_durable(partial)
        partial.rename(target)
    except OSError as error:
        raise FileError(error.errno, f"{target}: expected to write a data set, but {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return minari.load_dataset(dataset_id)


def from_minari(buffer_type: type[Buffer], dataset: Any, capacity: int | None = None, **options: Any) -> Buffer:
    """As of `ReplayBuffer`, for a buffer of this type."""
    known = inspect.signature(buffer_type).parameters
    if not any(each.kind is each.VAR_KEYWORD for each in known.values()):
        check_names("from_minari", options, known, OF_BUFFERS | {"download": "the command `minari download ID`"})
    if isinstance(dataset, str):
        dataset = _local(dataset)
    total = int(dataset.total_steps)
    if options.get("keys") is not None:
        options["keys"] = checked_keys(options["keys"])
    buffer = buffer_type(max(1, total) if capacity is None else capacity, **options)
    follows_episodes = options.get("n_step", 1) != 1 or options.get("unit") is not None
    with progress_bar("reading", total, "row") as bar:
        for episode in dataset.iterate_episodes():
            rows = _rows_of(episode, dataset.observation_space)
            if follows_episodes or "episode_end" in (options.get("keys") or ()):
                rows["episode_end"] = (np.arange(len(rows["reward"])) == len(rows["reward"]) - 1).astype(np.float32)
            buffer.put(rows)
            bar.update(len(episode.rewards))
    return buffer


class _Episode:
    """Rows of one episode that has not ended."""

    def __init__(self) -> None:
        self.parts: list[Columns] = []

    def takes(self, rows: Columns, states: Sequence[str]) -> bool:
        """Whether the first of `rows` continues this episode."""
        if not self.parts:
            return True
        last = self.parts[-1]
        return all(last[_new(key)][-1].tobytes() == rows[key][0].tobytes() for key in states)

    def finish(self, spaces: Spaces, states: Sequence[str]) -> Any:
        """The Minari episode; its rows are freed here."""
        from minari.data_collector import EpisodeBuffer

        from really.data.spaces import nest

        rows = {key: np.concatenate([part[key] for part in self.parts]) for key in self.parts[0]}
        self.parts = []
        terminations, truncations = _ends(rows)
        truncations[-1] |= not terminations[-1]
        leaves = [np.concatenate([rows[key], rows[_new(key)][-1:]]) for key in states]
        return EpisodeBuffer(
            observations=nest(spaces.observation, leaves),
            actions=rows["action"],
            rewards=rows["reward"],
            terminations=terminations,
            truncations=truncations,
        )


def _episodes(chunks: Iterable[Columns], spaces: Spaces, states: Sequence[str]) -> Iterator[Any]:
    """The episodes of the rows in the order in which they end, then those that do not end."""
    running: dict[int, _Episode] = {}
    for chunk in chunks:
        for agent, rows, ends in _runs(chunk, states):
            episode = running.setdefault(agent, _Episode())
            if not episode.takes(rows, states):
                yield episode.finish(spaces, states)
            episode.parts.append(rows)
            if ends:
                yield running.pop(agent).finish(spaces, states)
    for episode in running.values():
        yield episode.finish(spaces, states)


def _runs(chunk: Columns, states: Sequence[str]) -> Iterator[tuple[int, Columns, bool]]:
    """(agent, consecutive rows of one episode, whether the episode ends with them)."""
    num = len(chunk["reward"])
    agents = np.asarray(chunk.get("agent", np.zeros(num, np.int64)))
    terminations, truncations = _ends(chunk)
    ends = terminations | truncations
    breaks = ends[:-1] | (agents[1:] != agents[:-1])
    for key in states:
        breaks |= (_row_bytes(chunk[_new(key)][:-1]) != _row_bytes(chunk[key][1:])).any(axis=1)
    bounds = [0, *(np.flatnonzero(breaks) + 1).tolist(), num]
    for start, stop in pairwise(bounds):
        # A copy, so that a long episode does not keep whole chunks in memory.
        yield int(agents[start]), {key: rows[start:stop].copy() for key, rows in chunk.items()}, bool(ends[stop - 1])


def _ends(rows: Mapping[str, NDArray[Any]]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Terminated and truncated, [n] bool each, from the flags among the columns."""
    flags = {key: np.asarray(rows[key]) != 0 for key in FLAGS if key in rows}
    none = np.zeros(len(rows["reward"]), np.bool_)
    truncated = flags.get("truncated", none)
    ended = flags.get("episode_end", none) | (~flags["not_done"] if "not_done" in flags else none)
    terminated = flags["terminal"] if "terminal" in flags else ended & ~truncated
    return terminated.copy(), truncated | (ended & ~terminated)


def _row_bytes(rows: NDArray[Any]) -> NDArray[np.uint8]:
    width = rows.dtype.itemsize * math.prod(rows.shape[1:])
    return np.ascontiguousarray(rows).reshape(-1).view(np.uint8).reshape(len(rows), width)


def _new(key: str) -> str:
    return f"state_new{key.removeprefix('state')}"


class _Chunks:
    """The rows in chunks; it records which integers occurred as actions."""

    def __init__(self, reader: RowReader, keys: Sequence[str]) -> None:
        self._reader = reader
        self._keys = keys
        self._low, self._high = 0, 0

    def __iter__(self) -> Iterator[Columns]:
        reader = self._reader
        with progress_bar("writing", reader.num_rows, "row") as bar:
            while reader.num_left:
                rows = reader.read(max(1, CHUNK // reader.row_nbytes()))
                if len(rows["action"]):  # all rows of a chunk may be lost with their shard
                    self._note(rows["action"])
                    yield {key: rows[key] for key in self._keys}
                advance(bar, reader.num_rows - reader.num_left)

    def _note(self, actions: NDArray[Any]) -> None:
        if actions.dtype.kind in "iu":
            self._low, self._high = min(self._low, int(actions.min())), max(self._high, int(actions.max()))

    def discrete(self) -> Space[Any]:
        """The space of the actions that occurred, from 0 or the lowest one."""
        from gymnasium.spaces import Discrete

        return Discrete(self._high - self._low + 1, start=self._low)


def _folder_for(dataset_id: str) -> Path:
    """The path of a new data set of this id, where nothing is yet. Makes the id's namespace if there is none."""
    from minari.dataset.minari_dataset import parse_dataset_id
    from minari.namespace import create_namespace, list_local_namespaces
    from minari.storage import get_dataset_path

    try:
        namespace = parse_dataset_id(dataset_id)[0]
    except (TypeError, ValueError) as error:
        is_short = isinstance(dataset_id, str) and dataset_id.find("/") == 1
        hint = "; the name of a folder has two letters or more" if is_short else ""
        raise InvalidValueError(
            f"dataset_id: expected 'name-v0' or 'folder/name-v0', got {dataset_id!r}{hint}"
        ) from error
    folder = Path(get_dataset_path(dataset_id))
    if folder.exists():
        raise InvalidValueError(f"dataset_id: expected one that is not taken, got {dataset_id!r}: {folder} exists")
    try:
        if namespace is not None and namespace not in list_local_namespaces():
            create_namespace(namespace)
    except OSError as error:
        raise FileError(error.errno, f"{folder}: expected to write a data set, but {error}") from error
    return folder


def _write(buffer: Streamed, folder: Path, spaces: Spaces, about: Mapping[str, Any]) -> None:
    from minari.dataset.minari_storage import MinariStorage

    spec = cast(Spec, buffer.spec)
    states = _states(spaces.observation)
    used = [*states, *map(_new, states), "action", "reward", *(key for key in (*FLAGS, "agent") if key in spec)]
    storage = MinariStorage.new(
        folder, spaces.observation, spaces.action, spaces.env_spec, data_format="hdf5", jpeg_encoding=False
    )
    try:
        storage.update_metadata({key: _as_set(value) if key in AUTHORS else value for key, value in about.items()})
    except (AssertionError, TypeError) as error:
        got = {key: value for key, value in about.items() if key not in OURS}
        raise InvalidTypeError(f"about: expected texts as Minari wants them, got {got}") from error
    with buffer.open_reader(keeps=True) as reader:
        chunks = _Chunks(reader, used)
        storage.update_episodes(_episodes(chunks, spaces, states))
    if not spaces.action_is_known:
        _set_action_space(folder, chunks.discrete())


def _set_action_space(folder: Path, space: Space[Any]) -> None:
    """Minari takes the space when a data set is begun; ours is known when all rows are written."""
    from minari.serialization import serialize_space

    path = folder / "metadata.json"
    metadata = json.loads(path.read_text())
    path.write_text(json.dumps({**metadata, "action_space": serialize_space(space)}))


def _make_durable(folder: Path) -> None:
    for path in (folder / "data").iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _as_set(value: Any) -> set[str]:
    return {value} if isinstance(value, str) else set(value)


def _spaces(spec: Spec, env: Any, observation_space: Space[Any] | None, action_space: Space[Any] | None) -> Spaces:
    for key in ("action", "reward"):
        if key not in spec:
            raise InvalidValueError(f"to_minari: expected a column {key!r}, got {', '.join(map(repr, spec))}")
    if "terminal" not in spec and "not_done" not in spec:
        raise InvalidValueError(
            f"to_minari: expected a column 'terminal' or 'not_done', got {', '.join(map(repr, spec))}"
        )
    env_spec = None
    if env is not None:
        env_spec, observed, acted = _of_environment(env)
        observation_space, action_space = observation_space or observed, action_space or acted
    spaces = Spaces(
        _inferred_observation(spec) if observation_space is None else observation_space,
        _inferred(spec["action"]) if action_space is None else action_space,
        env_spec,
        action_is_known=action_space is not None or spec["action"][0].kind not in "iu" or spec["action"][1] != (),
    )
    _check(spec, spaces)
    return spaces


def _of_environment(env: Any) -> tuple[EnvSpec | None, Space[Any], Space[Any]]:
    import gymnasium

    if isinstance(env, gymnasium.Env):
        return env.spec, env.observation_space, env.action_space
    try:
        made = gymnasium.make(env)
    except (gymnasium.error.Error, TypeError) as error:
        raise InvalidValueError(f"env: expected an environment, its id or its spec, got {env!r}: {error}") from error
    made.close()
    return made.spec, made.observation_space, made.action_space


def _inferred(column: tuple[np.dtype[Any], tuple[int, ...]]) -> Space[Any]:
    from really.data.spaces import infer_space

    dtype, shape = column
    return infer_space(np.zeros(shape, dtype))


def _inferred_observation(spec: Spec) -> Space[Any]:
    """A Box, or a Dict of Boxes by the columns' names: `state.key`, `state.key.key`."""
    from gymnasium.spaces import Dict

    if "state" in spec:
        return _inferred(spec["state"])
    nested: dict[str, Any] = {}
    for key in spec:
        if key.startswith("state."):
            *folders, name = key.split(".")[1:]
            part = nested
            for folder in folders:
                part = part.setdefault(folder, {})
            part[name] = _inferred(spec[key])

    def as_space(part: Any) -> Any:
        return Dict({name: as_space(inner) for name, inner in part.items()}) if isinstance(part, dict) else part

    return cast("Space[Any]", as_space(nested))


def _check(spec: Spec, spaces: Spaces) -> None:
    """Raises InvalidValueError if a column is missing, or is not of its space."""
    from really.data.spaces import observation_leaves, shape_of

    for name, leaf in observation_leaves(spaces.observation).items():
        for key in ("state" + name, "state_new" + name):
            if spec.get(key) != leaf:
                raise InvalidValueError(
                    f"to_minari: expected a column {key!r} of {leaf.dtype} {list(leaf.shape)} as the observation "
                    f"space says, got {_text(spec.get(key))}"
                )
    if spec["action"][1] != shape_of(spaces.action):
        raise InvalidValueError(
            f"to_minari: expected a column 'action' of shape {list(shape_of(spaces.action))} as the action space says, "
            f"got {_text(spec['action'])}"
        )


def _text(column: tuple[np.dtype[Any], tuple[int, ...]] | None) -> str:
    return "none" if column is None else f"{column[0]} {list(column[1])}"


def _states(space: Space[Any]) -> list[str]:
    from really.data.spaces import observation_leaves

    names = ["state" + name for name in observation_leaves(space)]
    if not names:
        raise InvalidValueError("to_minari: expected a column 'state' or columns 'state.key', got none")
    return names


def _local(dataset_id: str) -> Any:
    with needed("from_minari", "Minari for its data sets", "minari"):
        import minari

    try:
        return minari.load_dataset(dataset_id)
    except FileNotFoundError as error:
        raise InvalidValueError(
            f"dataset: expected a local Minari data set, got {dataset_id!r}, which is not there; "
            f"`minari download {dataset_id}` gets it"
        ) from error
    except ValueError as error:
        raise InvalidValueError(f"dataset: expected a local Minari data set, got {dataset_id!r}: {error}") from error


def _rows_of(episode: Any, space: Space[Any]) -> Columns:
    from really.data.spaces import flatten, observation_leaves

    rows: Columns = {}
    leaves = observation_leaves(space)
    for name, values in zip(leaves, flatten(space, episode.observations), strict=True):
        observations = np.asarray(values, leaves[name].dtype)
        rows["state" + name], rows["state_new" + name] = observations[:-1], observations[1:]
    if isinstance(episode.actions, dict | tuple):
        raise InvalidTypeError(
            f"from_minari: expected actions that are one array, got {type(episode.actions).__name__}"
        )
    terminated, truncated = np.asarray(episode.terminations, np.bool_), np.asarray(episode.truncations, np.bool_)
    return {
        **rows,
        "action": np.asarray(episode.actions),
        "reward": np.asarray(episode.rewards, np.float32),
        "not_done": (~(terminated | truncated)).astype(np.float32),
        "terminal": terminated.astype(np.float32),
        "truncated": truncated.astype(np.float32),
    }
