"""Seeded runs over all options, each reduced to one SHA-256: two versions that print the same hashes behave alike.

    python -m tests.seeded_runs [NAME ...]

prints a line `name hash` for each run. Only public names are used, so the file runs on older commits too.
`test_seeded_runs.py` holds the runs of `EXACT`, whose arithmetic is exact on every machine. The others depend on the
processor and on the mathematics library, those of `COLLECTING` also on TensorFlow: compare them on one machine.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from really import ReplayBuffer, SampleManager

STACK = (4, 30, 30)


class Hash:
    """SHA-256 over everything that a run gives: names, dtypes, shapes and bytes in order."""

    def __init__(self) -> None:
        self._sha = hashlib.sha256()

    def add(self, value: Any) -> None:
        """Adds a mapping, a sequence, an array, or what `repr` tells in full."""
        if isinstance(value, Mapping):
            for key, part in value.items():
                self.add(key)
                self.add(part)
        elif isinstance(value, list | tuple):
            for part in value:
                self.add(part)
        elif value is None or isinstance(value, str | int | float | bytes):
            self._sha.update(repr(value).encode())
        else:
            array = np.asarray(value)
            self._sha.update(f"{array.dtype}{array.shape}".encode())
            self._sha.update(np.ascontiguousarray(array).tobytes())

    def hex(self) -> str:
        """The first 16 hexadecimal digits."""
        return self._sha.hexdigest()[:16]


def narrow(first: int, num: int) -> dict[str, Any]:
    """Rows of two agents, by number; their episodes end after 7 and after 11 steps."""
    row = np.arange(first, first + num)
    agent, step = row // 50 % 2, row % 50
    end = np.where(agent == 0, step % 7 == 6, step % 11 == 10) | (step == 49)
    state = np.stack([row, row * 0.5, agent, step], axis=1).astype(np.float32)
    return {
        "state": state,
        "action": row % 3,
        "reward": ((row % 17 - 8) / 8).astype(np.float32),
        "state_new": state + 1,
        "terminal": (end & (row % 2 == 0)).astype(np.float32),
        "episode_end": end.astype(np.float32),
        "agent": agent.astype(np.int32),
    }


def frames(first: int, num: int, axis: int = 0, shuffled: bool = False) -> dict[str, Any]:
    """Stacks of four frames of one trajectory, or of its rows in another order."""
    rng = np.random.default_rng(3)
    drawn = rng.integers(0, 255, (1000, *STACK[1:]), dtype=np.uint8)
    row = np.arange(first, first + num)
    row = np.random.default_rng(4).permutation(row) if shuffled else row
    stacks = np.stack([drawn[row + at] for at in range(5)], axis=1)
    state, state_new = (np.moveaxis(stacks[:, at : at + 4], 1, axis + 1) for at in (0, 1))
    return {"state": state, "state_new": state_new, "action": row % 4, "reward": row.astype(np.float32)}


def mixed(first: int, num: int) -> dict[str, Any]:
    """Columns of many dtypes."""
    row = np.arange(first, first + num)
    kinds = ("bool", "int8", "uint16", "int64", "float16", "float64", "complex64", "datetime64[s]", "S5")
    return {f"of {kind}": row.astype(kind) for kind in kinds} | {"pair": np.stack([row, -row], 1).astype(np.int32)}


def drawn(buffer: ReplayBuffer, put: Callable[[int, int], dict[str, Any]], **arguments: Any) -> Hash:
    """Puts and samples in turns, until the buffer has wrapped around."""
    found, first = Hash(), 0
    for num in (1, 30, 99, 7, 120, 60, 1, 1):
        buffer.put(put(first, num))
        first += num
        for n in (1, 5, 32, (3, 8)):
            found.add(buffer.sample(n, **arguments))
    found.add(buffer.state_dict())
    return found


def uniform() -> Hash:
    return drawn(ReplayBuffer(150, seed=1), narrow)


def many_dtypes() -> Hash:
    return drawn(ReplayBuffer(150, seed=2), mixed)


def without_replacement() -> Hash:
    found, buffer = Hash(), ReplayBuffer(150, seed=3)
    buffer.put(narrow(0, 200))
    for n in (1, 20, (4, 30), 150):
        found.add(buffer.sample(n, replace=False))
    return found


def single_rows() -> Hash:
    found, buffer = Hash(), ReplayBuffer(40, ["state", "action", "reward", "state_new", "terminal"], seed=4)
    for at in range(100):
        rows = narrow(at, 1)
        buffer.put({key: column[0] for key, column in rows.items()} | {"reward": float(rows["reward"][0])})
        found.add(buffer.sample(3))
    return found


def indices() -> Hash:
    found, buffer = Hash(), ReplayBuffer(150, seed=5)
    buffer.put(narrow(0, 400))
    for n in (3, (2, 9)):
        ages = buffer.sample_indices(n)
        found.add([ages, buffer.take(ages)])
    found.add(buffer.take([0, 149, 7]))
    return found


def into_arrays() -> Hash:
    found, buffer = Hash(), ReplayBuffer(150, seed=6)
    buffer.put(narrow(0, 150))
    out = {key: np.empty((5, *shape), dtype) for key, (dtype, shape) in buffer.spec.items()}
    found.add([buffer.sample(5, out=out), buffer.take([1, 2, 3, 4, 5], out=out)])
    return found


def prioritized() -> Hash:
    found, buffer = Hash(), ReplayBuffer(150, seed=7, alpha=0.6)
    for turn in range(12):
        buffer.put(narrow(turn * 40, 40))
        for n, beta in ((8, None), ((2, 16), 0.7)):
            batch = buffer.sample(n, beta=beta)
            found.add(batch)
            found.add(buffer.update_priorities(batch["index"], batch["index"] % 7 + turn))
    found.add(buffer.state_dict())
    return found


def several_steps() -> Hash:
    return drawn(ReplayBuffer(150, seed=8, n_step=3, gamma=0.5), narrow)


def several_steps_by_priority() -> Hash:
    return drawn(ReplayBuffer(150, seed=9, n_step=4, gamma=0.97, alpha=0.5, eps=0.01), narrow, beta=0.5)


def stacked_frames() -> Hash:
    found = drawn(ReplayBuffer(150, seed=10), frames)
    found.add(drawn(ReplayBuffer(150, seed=10, dedup=False), frames).hex())
    return found


def frames_of_the_last_axis() -> Hash:
    def put(first: int, num: int) -> dict[str, Any]:
        return frames(first, num, axis=2)

    return drawn(ReplayBuffer(150, seed=11, stack=(4, 2)), put)


def shuffled_frames() -> Hash:
    def put(first: int, num: int) -> dict[str, Any]:
        return frames(first, num, shuffled=True)

    return drawn(ReplayBuffer(150, seed=12), put)


def past_the_cache() -> Hash:
    """Long rows, and rows of frames, in puts and batches so large that they are written past the cache."""
    found, rng = Hash(), np.random.default_rng(18)
    longs = {f"of {nbytes}": rng.integers(0, 255, (300, nbytes), np.uint8) for nbytes in (1, 575, 3001, 28_224)}
    buffer = ReplayBuffer(200, seed=18, dedup=False)
    buffer.put(longs)
    for axis in (0, 2):
        frames_buffer = ReplayBuffer(150, seed=19, stack=(4, axis))
        frames_buffer.put(frames(0, 150, axis))
        found.add(frames_buffer.sample(1 << 12))
    found.add([buffer.sample(9), buffer.sample(1 << 10)])
    return found


def half_life() -> Hash:
    found, buffer = Hash(), ReplayBuffer(150, sampler=("half_life", {"half_life": 20}), seed=20)
    for start in range(0, 300, 60):
        buffer.put(narrow(start, 60))
        found.add([buffer.sample(n) for n in (1, 64, (3, 50))])
    return found


def removed_rows() -> Hash:
    found, buffer = Hash(), ReplayBuffer(150, seed=22)
    for start in range(0, 300, 60):
        buffer.put(narrow(start, 60))
        buffer.remove(range(start, start + 60, 7))
        found.add([buffer.sample(n) for n in (1, 64, 300, (3, 50))])
    return found


def on_disk() -> Hash:
    found = Hash()
    for name, put, options in (
        ("rows", narrow, {"n_step": 2, "gamma": 0.5}),
        ("priorities", narrow, {"alpha": 1}),
        ("frames", frames, {}),
    ):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            with ReplayBuffer(150, seed=13, path=path, spare=50, **options) as buffer:
                found.add(drawn(buffer, put).hex())
            found.add(files_of(path))
            with ReplayBuffer.open(path, "r+") as buffer:
                found.add(buffer.sample(9))
                buffer.put(put(500, 10))
                found.add(buffer.sample(9))
            with ReplayBuffer.open(path, seed=1) as buffer:
                found.add(buffer.sample(9))
    return found


def files_of(path: Path) -> list[Any]:
    """The files of a buffer's folder, without its identity, which is drawn anew for each buffer."""
    schema = json.loads((path / "schema.json").read_text())
    identity = schema["buffer"].pop("identity")
    cursor = (path / "cursor").read_bytes().replace(bytes.fromhex(identity), b"")
    names = sorted(entry.name for entry in path.iterdir())
    frames = [(path / name).read_bytes() for name in names if name.startswith("frames")]
    schema.pop("crc32")
    return [names, json.dumps(schema), cursor, (path / "records").read_bytes(), frames]


def saved() -> Hash:
    found = Hash()
    for put, options in ((narrow, {}), (narrow, {"alpha": 1, "n_step": 2, "gamma": 0.5}), (frames, {"stack": (4, 0)})):
        buffer = ReplayBuffer(150, seed=14, **options)
        found.add(drawn(buffer, put).hex())
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "saved"
            buffer.save(path, compression="none")
            found.add(metadata_of(path))
            found.add(drawn(ReplayBuffer.load(path), put).hex())
    return found


def metadata_of(path: Path) -> list[Any]:
    """What a saved buffer says of itself and of its columns."""
    import pyarrow as pa

    with pa.OSFile(str(path)) as source, pa.ipc.open_file(source) as file:
        fields = [[field.name, str(field.type), dict(field.metadata or {})] for field in file.schema]
        return [dict(file.schema.metadata), fields, file.num_record_batches]


def pickled() -> Hash:
    found = Hash()
    for put, options in ((narrow, {}), (narrow, {"alpha": 1}), (mixed, {}), (frames, {})):
        for protocol in (4, 5):
            buffer = ReplayBuffer(150, seed=15, **options)
            found.add(drawn(buffer, put).hex())
            found.add(drawn(pickle.loads(pickle.dumps(buffer, protocol)), put).hex())
    return found


def windows() -> Hash:
    """Sequences of steps of one agent, as they come and behind removed rows, padded, and across episodes."""
    found = Hash()
    for options in ({}, {"burn_in": 3, "pad": True}, {"across_episodes": True}):
        unit = ("sequences", {"length": 5, "checks_states": False, **options})
        buffer = ReplayBuffer(2_000, seed=24, unit=unit)
        for start in range(0, 3_000, 600):
            buffer.put(narrow(start, 600))
            found.add([buffer.sample(n) for n in (1, 64, 300, (3, 50))])
            found.add(buffer.sample(40, replace=False))
            buffer.remove(range(start, start + 60, 7))
            found.add([buffer.sample(200), buffer.sample_indices(20, replace=False)])
    return found


def interchanged() -> Hash:
    found = Hash()
    for put in (narrow, mixed, frames):
        buffer = ReplayBuffer(150, seed=16)
        buffer.put(put(0, 200))
        table = buffer.to_arrow().read_all()
        found.add([str(table.schema), ReplayBuffer.from_arrow(table, seed=1).sample(20)])
        with tempfile.TemporaryDirectory() as folder:
            buffer.to_parquet(Path(folder) / "rows.parquet")
            found.add(ReplayBuffer.from_parquet(Path(folder) / "rows.parquet", seed=2).sample(20))
    return found


def ahead() -> Hash:
    found, buffer = Hash(), ReplayBuffer(150, seed=17, alpha=0.6)
    buffer.put(narrow(0, 150))
    with buffer.batches(16, prefetch=3, beta=lambda number: number / 10) as batches:
        found.add([next(batches) for _ in range(5)])
    found.add([buffer.sample(4), buffer.state_dict()])
    return found


def network(**outputs: int) -> Callable[[], Any]:
    """A small Keras model with these outputs and weights of a seeded generator."""
    import keras

    def make() -> Any:
        state = keras.Input((4,))
        hidden = keras.layers.Dense(16, activation="tanh")(state)
        heads = {name: keras.layers.Dense(size)(hidden) for name, size in outputs.items()}
        if "sigma" in heads:
            heads["sigma"] = keras.layers.Activation("softplus")(heads["sigma"])
        return keras.Model(state, heads)

    return make


def weights_of(model: Any, seed: int = 0) -> list[Any]:
    """Weights for a model, from a seeded generator."""
    rng = np.random.default_rng(seed)
    return [rng.normal(0, 0.3, weight.shape).astype(np.float32) for weight in model.get_weights()]


class Push:
    """A continuous task of two dimensions, in the old API with four values a step."""

    def __init__(self) -> None:
        from gymnasium import spaces

        self.observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float32)
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)

    def reset(self) -> Any:
        self._at, self._steps = np.arange(4, dtype=np.float32) / 4, 0
        return self._at.copy()

    def step(self, action: Any) -> tuple[Any, float, bool, dict[str, Any]]:
        self._steps += 1
        self._at[:2] += 0.1 * np.clip(action, -1, 1)
        return self._at.copy(), float(-np.abs(self._at).sum()), self._steps == 13, {}


def collected(
    model: Callable[[], Any], environment: Any = "CartPole-v1", calls: int = 3, **options: Any
) -> tuple[Hash, SampleManager]:
    """Data of several calls, with other weights for each."""
    settings = {"num_steps": 25, "use_ray": False, "seed": 3, **options}
    found = Hash()
    manager = SampleManager(model, environment, 4, 100, **settings)
    for call in range(calls):
        manager.set_agent(weights_of(manager.get_agent().model, call))
        found.add(manager.get_data())
    return found, manager


EXTRA = [
    "value_estimate",
    "log_prob",
    "monte_carlo",
    "advantage",
    "truncated",
    "episode_end",
    "policy_version",
    "agent",
]


def epsilon_greedy() -> Hash:
    found, manager = collected(network(q_values=2), action_sampling_type="epsilon_greedy", epsilon=0.3)
    manager.set_epsilon(0.9)
    found.add(manager.get_data())
    found.add(manager.test(60, test_episodes=5, evaluation_measure="time_and_reward"))
    return found


def thompson() -> Hash:
    return collected(network(q_values=2, v_estimate=1), returns=EXTRA, temperature=0.4)[0]


def discrete_policy() -> Hash:
    return collected(network(policy=2, v_estimate=1), returns=EXTRA, num_steps=None, num_episodes=2)[0]


def continuous() -> Hash:
    return collected(network(mu=2, sigma=2, v_estimate=1), Push, returns=EXTRA)[0]


def normalised() -> Hash:
    options = {"normalize_observations": True, "normalize_rewards": True, "returns": EXTRA}
    return collected(network(policy=2, v_estimate=1), **options)[0]


def native_vector() -> Hash:
    return collected(network(q_values=2), vector="native")[0]


def with_ray() -> Hash:
    found, manager = collected(network(q_values=2, v_estimate=1), use_ray=True, num_workers=2, returns=EXTRA)
    manager.close()
    return found


def learned() -> Hash:
    import keras

    from really.learners import DQNLearner

    found, manager = collected(network(q_values=2), returns=["episode_end"])
    keys = ["state", "action", "reward", "state_new", "terminal", "episode_end"]
    manager.initialize_buffer(500, keys, alpha=0.6, n_step=3)
    manager.collect(300)
    learner = DQNLearner(manager, keras.optimizers.Adam(1e-2), target_every=3, jit_compile=False, n_step=3)
    for _ in range(6):
        batch = manager.sample(32)
        update = learner.update(batch)
        found.add([float(update.loss).hex(), manager.buffer.update_priorities(batch["index"], np.ones(32))])
    with tempfile.TemporaryDirectory() as folder:
        manager.save_checkpoint(folder, target=learner.target, optimizer=learner.optimizer, counters={"updates": 6})
        found.add(manager.load_checkpoint(folder, target=learner.target, optimizer=learner.optimizer))
        found.add([manager.sample(16), manager.get_data(), float(learner.update(manager.sample(32)).loss).hex()])
    return found


def proximal() -> Hash:
    import keras

    from really.learners import PPOLearner

    found, manager = collected(network(policy=2, v_estimate=1), returns=EXTRA)
    learner = PPOLearner(manager, keras.optimizers.Adam(1e-2), epochs=2, minibatch_size=25, seed=1)
    for _ in range(3):
        learner.update(manager.get_data())
        manager.set_agent(manager.get_agent().get_weights())
    found.add([np.asarray(weight) for weight in manager.get_agent().get_weights()])
    return found


EXACT: dict[str, Callable[[], Hash]] = {
    run.__name__: run
    for run in (
        *(uniform, many_dtypes, without_replacement, single_rows, indices, into_arrays, several_steps),
        *(stacked_frames, frames_of_the_last_axis, shuffled_frames, past_the_cache),
        *(half_life, removed_rows, windows, interchanged),
    )
}
ROUNDED: dict[str, Callable[[], Hash]] = {
    run.__name__: run for run in (prioritized, several_steps_by_priority, on_disk, saved, pickled, ahead)
}
COLLECTING: dict[str, Callable[[], Hash]] = {
    run.__name__: run
    for run in (
        *(epsilon_greedy, thompson, discrete_policy, continuous, normalised, native_vector, learned, proximal),
        *(with_ray,),
    )
}


def main(names: list[str]) -> None:
    """Prints the hash of each run of these names, or of all."""
    for name, run in (EXACT | ROUNDED | COLLECTING).items():
        if not names or name in names:
            print(name, run().hex(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
