"""Checkpoints of training runs: buffers of every fill, a new process, kills, damage, and runs that do not fit."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from really import SampleManager
from really.checkpoints import training_state
from really.errors import InvalidTypeError, InvalidValueError, ModelError
from tests import saving_process

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")

ROOT = Path(__file__).parents[2]
CAPACITY = 40
KEYS = ("state", "action", "reward", "state_new", "terminal")


def q_network(units=8):
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(units, activation="relu")(inputs)
    return keras.Model(inputs, {"q_values": keras.layers.Dense(2)(hidden)})


def make(model=q_network, environment="CartPole-v1", capacity=CAPACITY, keys=KEYS, **arguments):
    manager = SampleManager(model, environment, 2, 10, num_steps=5, use_ray=False, seed=3, epsilon=0.5, **arguments)
    if capacity:
        manager.initialize_buffer(capacity, keys)
    return manager


def rows(number, first=0):
    """Rows with distinct values."""
    numbers = np.arange(first, first + number)
    states = np.repeat(numbers[:, None], 4, axis=1).astype(np.float32)
    plain = {"reward": numbers.astype(np.float32), "terminal": np.zeros(number, np.float32)}
    return {"state": states, "state_new": states + 1, "action": numbers % 2, **plain}


def learner(manager, **options):
    from really.learners import DQNLearner

    return DQNLearner(manager, keras.optimizers.Adam(1e-2), target_every=3, jit_compile=False, **options)


def same(ours, theirs):
    return all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def all_rows(buffer):
    """All rows of a buffer, oldest first."""
    return buffer.to_arrow().read_all().to_pydict() if buffer.spec else None


@pytest.mark.parametrize("number", [0, 1, CAPACITY - 1, CAPACITY, CAPACITY + 7])
def test_a_buffer_of_any_fill_is_restored(number, tmp_path):
    saved, fresh = make(), make()
    if number:
        saved.store_in_buffer(rows(min(number, CAPACITY)))
    if number > CAPACITY:
        saved.store_in_buffer(rows(number - CAPACITY, CAPACITY))
    counters = {"steps": number, "best": float("inf"), "won": False, "part": np.float32(0.5)}
    folder = saved.save_checkpoint(tmp_path, counters=counters)
    assert fresh.load_checkpoint(tmp_path) == counters
    assert Path(folder).parent == tmp_path
    assert len(fresh.buffer) == len(saved.buffer) == min(number, CAPACITY)
    assert all_rows(fresh.buffer) == all_rows(saved.buffer)
    assert same(fresh.get_agent().get_weights(), saved.get_agent().get_weights())
    for manager in (saved, fresh):
        manager.store_in_buffer(rows(9, 1000))
    ours, theirs = fresh.sample(16), saved.sample(16)
    assert all(np.array_equal(ours[key], theirs[key]) for key in KEYS)


def test_priorities_are_restored(tmp_path):
    saved, fresh = make(capacity=0), make(capacity=0)
    for manager in (saved, fresh):
        manager.initialize_buffer(CAPACITY, KEYS, alpha=0.7)
    saved.store_in_buffer(rows(CAPACITY))
    batch = saved.sample(16)
    saved.buffer.update_priorities(batch["index"], np.linspace(0.1, 9, 16))
    saved.save_checkpoint(tmp_path)
    fresh.load_checkpoint(tmp_path)
    ours, theirs = fresh.sample(32), saved.sample(32)
    assert all(np.array_equal(ours[key], theirs[key]) for key in (*KEYS, "index", "weight"))


def test_settings_and_weights_are_restored_without_buffer_and_aggregator(tmp_path):
    saved, fresh = make(capacity=0), make(capacity=0)
    saved.set_epsilon(0.125)
    saved.set_agent([weight + 1 for weight in saved.get_agent().get_weights()])
    saved.save_checkpoint(tmp_path)
    assert fresh.load_checkpoint(tmp_path) == {}
    assert fresh.buffer is None
    assert fresh.aggregator is None
    assert fresh.kwargs["epsilon"] == 0.125
    assert same(fresh.get_agent().get_weights(), saved.get_agent().get_weights())
    assert fresh.info()["policy_version"] == saved.info()["policy_version"]
    assert len(fresh.get_data()["reward"]) >= 10


def test_the_aggregator_is_restored_with_its_points_and_units(tmp_path):
    saved = make(capacity=0)
    saved.initialize_aggregator(tmp_path / "progress", 100, ["loss", "reward"], units={"reward": "points"})
    for value in (3.0, 2.0, 1.0):
        saved.update_aggregator(loss=[value, value + 1])
    saved.save_checkpoint(tmp_path / "checkpoints")
    saved.update_aggregator(loss=99.0)  # by the run that died
    fresh = make(capacity=0)
    fresh.load_checkpoint(tmp_path / "checkpoints")
    fresh.update_aggregator(loss=0.5)
    assert fresh.aggregator.curves["loss"].epochs == [1, 2, 3, 4]
    assert fresh.aggregator.curves["loss"].means == [3.5, 2.5, 1.5, 0.5]
    assert fresh.aggregator.curves["reward"].unit == "points"
    assert (tmp_path / "progress" / "progress_1.csv").exists()


def test_a_learner_is_restored_before_and_after_its_first_update(tmp_path):
    for updates in (0, 4):
        saved, fresh = make(), make()
        ours, theirs = learner(saved), learner(fresh)
        saved.store_in_buffer(rows(CAPACITY))
        for _ in range(updates):
            ours.update(saved.sample(8))
        saved.save_checkpoint(tmp_path / str(updates), target=ours.target, optimizer=ours.optimizer)
        fresh.load_checkpoint(tmp_path / str(updates), target=theirs.target, optimizer=theirs.optimizer)
        assert theirs.updates_done == updates
        assert same(theirs.target.get_weights(), ours.target.get_weights())
        losses = [
            [float(one.update(of.sample(8)).loss) for _ in range(5)] for one, of in ((ours, saved), (theirs, fresh))
        ]
        assert losses[0] == losses[1]


def test_an_optimizer_is_restored_into_one_that_is_not_built(tmp_path):
    for built in (False, True):
        saved, fresh = make(capacity=0), make(capacity=0)
        ours, theirs = keras.optimizers.Adam(0.25), keras.optimizers.Adam(0.5)
        variables = saved.get_agent().model.trainable_variables
        if built:
            ours.apply([tf.ones(v.shape) for v in variables], variables)
        saved.save_checkpoint(tmp_path / str(built), optimizer=ours)
        fresh.load_checkpoint(tmp_path / str(built), optimizer=theirs)
        assert float(np.asarray(theirs.learning_rate)) == 0.25
        assert int(np.asarray(theirs.iterations)) == built
        assert not built or same(map(np.asarray, theirs.variables), map(np.asarray, ours.variables))


def test_statistics_are_restored_also_those_for_the_next_policy_version(tmp_path):
    saved = make(normalize_observations=True, normalize_rewards=True)
    saved.collect(30)
    saved.set_agent([weight * 2 for weight in saved.get_agent().get_weights()])
    saved.collect(30)
    saved.save_checkpoint(tmp_path)
    fresh = make(normalize_observations=True, normalize_rewards=True)
    fresh.load_checkpoint(tmp_path)
    state = np.ones((1, 4), np.float32)
    for _ in range(2):
        assert np.array_equal(fresh.get_agent().normalize(state), saved.get_agent().normalize(state))
        ours, theirs = fresh.info()["normalization"], saved.info()["normalization"]
        assert ours["state"]["count"] == theirs["state"]["count"] > 0
        assert np.allclose(ours["state"]["variance"], theirs["state"]["variance"], rtol=1e-12)
        for manager in (fresh, saved):
            manager.set_agent([weight * 0 for weight in manager.get_agent().get_weights()])
    with pytest.raises(ModelError, match="normalize_observations=True"):
        make().load_checkpoint(tmp_path)


CONTINUED = """
import sys
sys.path[:0] = [{tests!r}, {root!r}]
from tests.checkpoints import test_training_state as t
manager = t.make()
learner = t.learner(manager)
counters = manager.load_checkpoint({path!r}, target=learner.target, optimizer=learner.optimizer)
print(counters, [float(learner.update(manager.sample(8)).loss).hex() for _ in range(6)])
"""


def test_a_new_process_continues_with_the_losses_of_the_uninterrupted_run(tmp_path):
    manager = make()
    dqn = learner(manager)
    manager.collect(30)
    for _ in range(4):
        dqn.update(manager.sample(8))
    manager.save_checkpoint(tmp_path, target=dqn.target, optimizer=dqn.optimizer, counters={"updates": 4})
    script = CONTINUED.format(tests=str(ROOT / "tests"), root=str(ROOT), path=str(tmp_path))
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    losses = [float(dqn.update(manager.sample(8)).loss).hex() for _ in range(6)]
    assert ran.stdout.splitlines()[-1] == f"{{'updates': 4}} {losses}"


def test_a_kill_at_any_instant_leaves_a_checkpoint_that_loads(tmp_path):
    draw, known = np.random.default_rng(5), 0
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for _ in range(10):
        command = [sys.executable, str(ROOT / "tests" / "saving_process.py"), str(tmp_path), str(known)]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            acknowledged = int(process.stdout.readline())
            time.sleep(draw.uniform(0, 0.2))
            process.kill()
            acknowledged = max([acknowledged, *map(int, process.stdout.read().split())])
        assert process.returncode == -signal.SIGKILL
        model = saving_process.OneArray(-1)
        restored = training_state.read(saving_process.parts(model), tmp_path)
        with restored.applied():
            buffer = restored.buffer.buffer
        known = int(restored.counters["number"])
        assert known >= acknowledged, "an acknowledged checkpoint is missing"
        assert (model.arrays[0] == known).all()
        assert len(buffer) == saving_process.ROWS
        assert (buffer.to_arrow(["reward"]).read_all()["reward"].to_numpy() == known).all()
    training_state.save(saving_process.parts(model), tmp_path, saving_process.STATE, None, keep=2)
    assert len(list(tmp_path.iterdir())) == 2  # no partial folder is left


def test_the_newest_checkpoints_are_kept_and_the_last_is_loaded(tmp_path):
    manager = make()
    (tmp_path / "other").mkdir()
    folders = [manager.save_checkpoint(tmp_path, counters={"n": n}, keep=2) for n in range(4)]
    assert sorted(map(str, tmp_path.iterdir())) == sorted([*folders[2:], str(tmp_path / "other")])
    assert manager.load_checkpoint(tmp_path) == {"n": 3}
    assert manager.load_checkpoint(folders[2]) == {"n": 2}


@pytest.mark.parametrize("time", ["99991231T235959-999999", "20990101T000000-000000", "20261399T999999-000000"])
def test_a_folder_of_a_far_year_ends_no_later_save(time, tmp_path):
    manager = make(capacity=0)
    (tmp_path / f"checkpoint_{time}").mkdir()
    first = Path(manager.save_checkpoint(tmp_path, counters={"n": 1}))
    assert manager.load_checkpoint(tmp_path) == {"n": 1}
    (tmp_path / f"checkpoint_{time}").rmdir()
    first.rename(tmp_path / f"checkpoint_{time}")  # a clock that was wrong
    folders = [manager.save_checkpoint(tmp_path, counters={"n": n}, keep=2) for n in (2, 3)]
    assert manager.load_checkpoint(tmp_path) == {"n": 3}
    assert sorted(map(str, tmp_path.iterdir())) == sorted(folders)


def test_links_that_are_left_or_too_old_are_removed_and_what_they_name_stays(tmp_path):
    manager = make(capacity=0)
    elsewhere, checkpoints = tmp_path / "elsewhere", tmp_path / "checkpoints"
    saved = Path(manager.save_checkpoint(elsewhere, counters={"n": 1}))
    checkpoints.mkdir()
    (checkpoints / saved.name).symlink_to(saved)
    for name in ("link", "broken"):
        (checkpoints / f".checkpoint_20200101T000000-000000.{len(name)}.partial").symlink_to(tmp_path / name)
    assert manager.load_checkpoint(checkpoints) == {"n": 1}
    folder = manager.save_checkpoint(checkpoints, counters={"n": 2}, keep=1)
    assert list(map(str, checkpoints.iterdir())) == [folder]
    assert manager.load_checkpoint(elsewhere) == {"n": 1}


def test_nothing_is_pickled(tmp_path):
    manager = make()
    dqn = learner(manager)
    manager.collect(10)
    manager.initialize_aggregator(tmp_path / "progress")
    folder = Path(manager.save_checkpoint(tmp_path / "all", target=dqn.target, optimizer={"adam": dqn.optimizer}))
    names = ["agent.h5", "buffer.arrow", "meta.json", "optimizer.adam.h5", "progress.csv", "target.h5"]
    assert sorted(file.name for file in folder.iterdir()) == names
    starts = {".h5": b"\x89HDF", ".arrow": b"ARROW1", ".json": b"{", ".csv": b"epoch"}
    assert all(file.read_bytes().startswith(starts[file.suffix]) for file in folder.iterdir())


def changed_meta(folder, change):
    """Changes meta.json, with a checksum that fits."""
    meta = json.loads((folder / "meta.json").read_text())
    change(meta)
    meta["crc32"] = zlib.crc32(json.dumps(meta["about"], sort_keys=True).encode())
    (folder / "meta.json").write_text(json.dumps(meta))


def flipped(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


DAMAGE = {
    "cut": (lambda f: os.truncate(f / "buffer.arrow", 100), "buffer.arrow: expected [0-9,]+ bytes, got 100"),
    "flipped": (lambda f: flipped(f / "agent.h5"), "agent.h5: expected bytes as they were saved"),
    "gone": (lambda f: (f / "agent.h5").unlink(), "agent.h5: expected a file of [0-9,]+ bytes, got nothing"),
    "no description": (lambda f: (f / "meta.json").unlink(), "meta.json: expected the description"),
    "cut description": (lambda f: os.truncate(f / "meta.json", 50), "meta.json: expected the description"),
    "changed description": (
        lambda f: (f / "meta.json").write_text(
            (f / "meta.json").read_text().replace('"epsilon": 0.5', '"epsilon": 0.6')
        ),
        "meta.json: expected a description as it was saved",
    ),
    "newer": (
        lambda f: changed_meta(f, lambda meta: meta.update(format="really-training-3")),
        "expected format 'really-training-2', got 'really-training-3'",
    ),
    "no counters": (
        lambda f: changed_meta(f, lambda meta: meta["about"].pop("counters")),
        "meta.json: expected the description of a checkpoint, .*expected .*counters, .*, got an object of",
    ),
    "a version in words": (
        lambda f: changed_meta(f, lambda meta: meta["about"]["standing"].update(version="three")),
        "meta.json: expected .*standing: version: .*expected an integer >= 0, got 'three'",
    ),
    "a key more": (
        lambda f: changed_meta(f, lambda meta: meta["about"]["standing"].update(more=1)),
        "meta.json: expected .*standing: .*expected settings, version, .*, got an object of .*more",
    ),
    "a setting of no agent": (
        lambda f: changed_meta(f, lambda meta: meta["about"]["standing"]["settings"].update(total_steps=-1)),
        "meta.json: expected .*total_steps: expected an integer >= 1, got -1",
    ),
    "another generator": (
        lambda f: changed_meta(f, lambda meta: meta["about"]["generators"]["agent"].update(state=[])),
        "meta.json: expected .*generators: ",
    ),
    "statistics that are none": (
        lambda f: changed_meta(f, lambda meta: meta["about"]["statistics"].update(frozen={"state": {}})),
        "meta.json: expected .*statistics: .*expected count, mean, squares",
    ),
    "no weights": (
        lambda f: changed_meta(f, lambda meta: meta["about"]["arrays"].update(agent=[])),
        "meta.json: expected .*arrays: .*expected an object, got list",
    ),
    "a buffer without its rows": (
        lambda f: changed_meta(f, lambda meta: meta["about"]["buffer"].update(moment={"first": 3})),
        "meta.json: expected .*buffer: .*expected identity, first",
    ),
    "foreign": (lambda f: (f / "meta.json").write_text('[{"epochs": 3}]'), "meta.json: expected the description"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_raises_and_changes_nothing(kind, tmp_path):
    manager = make()
    manager.store_in_buffer(rows(12))
    before = manager.save_checkpoint(tmp_path, counters={"n": 1})
    folder = Path(manager.save_checkpoint(tmp_path))
    damage, message = DAMAGE[kind]
    damage(folder)
    assert_refused(manager, tmp_path, InvalidValueError, message)
    assert manager.load_checkpoint(before) == {"n": 1}


def assert_refused(manager, path, error, message, **arguments):
    """Asserts that loading raises this error and leaves the manager unchanged."""
    buffer, aggregator, weights = manager.buffer, manager.aggregator, manager.get_agent().get_weights()
    settings, version, held = dict(manager.kwargs), manager.info()["policy_version"], buffer and all_rows(buffer)
    with pytest.raises(error, match=message):
        manager.load_checkpoint(path, **arguments)
    assert manager.buffer is buffer
    assert manager.aggregator is aggregator
    assert same(manager.get_agent().get_weights(), weights)
    assert (dict(manager.kwargs), manager.info()["policy_version"]) == (settings, version)
    assert (buffer and all_rows(buffer)) == held


class Renamed(gymnasium.Wrapper):
    """Another task with the same spaces."""

    def __init__(self):
        super().__init__(gymnasium.make("CartPole-v1"))


def test_the_error_for_another_model_environment_or_buffer_names_the_difference(tmp_path):
    saved = make()
    saved.store_in_buffer(rows(5))
    saved.save_checkpoint(tmp_path)
    assert_refused(
        make(model_kwargs={"units": 9}), tmp_path, ModelError, r"dense/kernel \[4, 9\], got dense/kernel \[4, 8\]"
    )
    assert_refused(make(environment=Renamed), tmp_path, InvalidValueError, "environment 'Renamed', got 'CartPole-v1'")
    assert_refused(
        make(capacity=50), tmp_path, InvalidValueError, "a buffer of 50 rows, as the manager has, got one of 40"
    )
    assert_refused(
        make(keys=KEYS[:4]), tmp_path, InvalidValueError, "buffer column 'terminal': expected no such column"
    )
    prioritized = make(capacity=0)
    prioritized.initialize_buffer(CAPACITY, KEYS, alpha=0.5)
    assert_refused(prioritized, tmp_path, InvalidValueError, "expected a buffer with alpha=0.5, got one with None")
    other = make()
    other.store_in_buffer({**rows(5), "reward": np.zeros((5, 2), np.float32)})
    assert_refused(other, tmp_path, InvalidValueError, r"column 'reward': expected float32\[2\], got float32\[\]")


def test_the_error_names_missing_and_additional_parts(tmp_path):
    manager = make(capacity=0)
    dqn = learner(manager)
    manager.save_checkpoint(tmp_path / "plain")
    manager.save_checkpoint(tmp_path / "both", target=dqn.target, optimizer=dqn.optimizer)
    assert_refused(manager, tmp_path / "plain", InvalidValueError, "expected target to be left out", target=dqn.target)
    assert_refused(
        manager, tmp_path / "both", InvalidValueError, "expected optimizer to be given, too", target=dqn.target
    )
    sgd = keras.optimizers.SGD()
    parts = {"target": dqn.target, "optimizer": sgd}
    assert_refused(manager, tmp_path / "both", ModelError, "expected the variables of SGD, got those of Adam", **parts)


def test_invalid_arguments_raise_before_anything_is_written(tmp_path):
    manager = make(capacity=0)
    for error, parts in (
        (InvalidTypeError, {"counters": [1]}),
        (InvalidTypeError, {"counters": {"steps": "many"}}),
        (InvalidValueError, {"keep": 0}),
        (InvalidTypeError, {"optimizer": "adam"}),
        (InvalidTypeError, {"target": 3}),
        (InvalidValueError, {"target": {"a/b": manager.get_agent()}}),
        (InvalidValueError, {"target": {"a\nb": manager.get_agent()}}),
    ):
        with pytest.raises(error, match=next(iter(parts))):
            manager.save_checkpoint(tmp_path / "new", **parts)
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InvalidValueError, match="expected a folder that can be written"):
        manager.save_checkpoint(tmp_path / "file")
    for path in (tmp_path / "file", tmp_path / "nowhere", tmp_path):
        with pytest.raises(InvalidValueError, match="expected a folder"):
            manager.load_checkpoint(path)


def test_a_buffer_on_disk_is_not_copied(tmp_path):
    ring, checkpoints = tmp_path / "ring", tmp_path / "checkpoints"
    manager, fresh = make(capacity=0), make(capacity=0)
    manager.initialize_buffer(CAPACITY, KEYS, path=ring)
    manager.store_in_buffer(rows(12))
    folder = Path(manager.save_checkpoint(checkpoints))
    assert not (folder / "buffer.arrow").exists()
    buffer, drawn = manager.buffer, manager.sample(8)
    manager.store_in_buffer(rows(3, 12))
    manager.load_checkpoint(checkpoints)
    assert manager.buffer is buffer
    assert len(buffer) == 12
    in_memory = make()
    buffer.close()  # another buffer can open the folder now
    fresh.load_checkpoint(checkpoints)
    assert fresh.buffer.path == ring
    assert all_rows(fresh.buffer)["reward"] == list(range(12))
    fresh.store_in_buffer(rows(1, 15))
    fresh.buffer.close()
    in_memory.load_checkpoint(checkpoints)
    assert len(in_memory.buffer) == 12
    assert set(drawn) == set(KEYS)
    saved_in_memory = make()
    saved_in_memory.save_checkpoint(tmp_path / "other")
    message = "expected a buffer that lives in .*ring', got one in memory"
    assert_refused(in_memory, tmp_path / "other", InvalidValueError, message)


def test_a_buffer_on_disk_has_the_priorities_of_the_checkpoint(tmp_path):
    manager, fresh = make(capacity=0), make(capacity=0)
    manager.initialize_buffer(CAPACITY, KEYS, path=tmp_path / "ring", alpha=1.0, eps=0.0)
    manager.store_in_buffer(rows(12))
    manager.buffer.update_priorities(range(12), [0.0] * 11 + [2.0])
    manager.save_checkpoint(tmp_path / "checkpoints")
    drawn = manager.sample(32)["index"]
    assert set(drawn) == {11}
    shutil.copytree(tmp_path / "ring", tmp_path / "after a kill")
    manager.buffer.update_priorities([3], [100.0])
    manager.buffer.close()
    shutil.rmtree(tmp_path / "ring")
    shutil.move(tmp_path / "after a kill", tmp_path / "ring")
    fresh.load_checkpoint(tmp_path / "checkpoints")
    assert set(fresh.sample(32)["index"]) == {11}
    fresh.buffer.close()


def test_a_buffer_with_another_n_step_is_refused(tmp_path):
    keys = [*KEYS, "episode_end"] if "episode_end" not in KEYS else KEYS
    manager, fresh = make(capacity=0), make(capacity=0)
    manager.initialize_buffer(CAPACITY, keys)
    manager.save_checkpoint(tmp_path / "checkpoints")
    fresh.initialize_buffer(CAPACITY, keys, n_step=3)
    assert_refused(
        fresh, tmp_path / "checkpoints", InvalidValueError, "expected a buffer with n_step=3, got one with 1"
    )


def test_a_buffer_with_another_eps_is_refused(tmp_path):
    manager, fresh = make(capacity=0), make(capacity=0)
    manager.initialize_buffer(CAPACITY, KEYS, alpha=0.6)
    manager.save_checkpoint(tmp_path / "checkpoints")
    fresh.initialize_buffer(CAPACITY, KEYS, alpha=0.6, eps=0.01)
    assert_refused(
        fresh, tmp_path / "checkpoints", InvalidValueError, "expected a buffer with eps=0.01, got one with 1e-06"
    )
    fresh.initialize_buffer(CAPACITY, KEYS, alpha=0.6, eps=1e-6)
    fresh.load_checkpoint(tmp_path / "checkpoints")


def test_an_aggregator_with_other_keys_is_refused(tmp_path):
    manager, fresh = make(capacity=0), make(capacity=0)
    manager.initialize_aggregator(tmp_path / "progress", 100, ["loss", "reward"])
    manager.update_aggregator(loss=1.0, reward=2.0)
    manager.save_checkpoint(tmp_path / "checkpoints")
    fresh.initialize_aggregator(tmp_path / "other", 100, ["los"])
    fresh.update_aggregator(los=3.0)
    message = r"expected an aggregator of \['los'\], as the manager has, got one of \['loss', 'reward'\]"
    assert_refused(fresh, tmp_path / "checkpoints", InvalidValueError, message)
    assert (tmp_path / "other" / "progress.csv").read_text().endswith("1,3.0,0.0\n")


def test_a_missing_buffer_on_disk_is_refused(tmp_path):
    manager, fresh = make(capacity=0), make(capacity=0)
    manager.initialize_buffer(CAPACITY, KEYS, path=tmp_path / "ring")
    manager.save_checkpoint(tmp_path / "checkpoints")
    manager.buffer.close()
    shutil.rmtree(tmp_path / "ring")
    assert_refused(fresh, tmp_path / "checkpoints", InvalidValueError, "ring")
