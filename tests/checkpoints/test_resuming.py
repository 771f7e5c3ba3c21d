"""A run with its buffer on disk resumes with the losses of the uninterrupted run, or says why it cannot."""

import os
import shutil
import signal
import threading

import gymnasium
import numpy as np
import pytest

from really.errors import EnvironmentFailedError, FileError, InvalidValueError, ReallyError
from really.replay.disk import rollback
from tests.checkpoints.test_training_state import CAPACITY, KEYS, all_rows, assert_refused, learner, make, rows, same

keras = pytest.importorskip("keras")

KINDS = {
    "uniform": {},
    "prioritized": {"alpha": 0.6},
    "n-step": {"n_step": 3},
    "frames": {"stack": {"picture": (4, 0)}},
}


def keys_of(kind):
    return [*KEYS, *(["episode_end"] if kind == "n-step" else []), *(["picture"] if kind == "frames" else [])]


def more_rows(kind, num, first=0):
    """Rows with the columns of this kind."""
    columns = rows(num, first)
    columns["episode_end"] = (np.arange(first, first + num) % 7 == 6).astype(np.float32)
    if kind == "frames":
        screens = np.random.default_rng(first).integers(0, 255, (num + 3, 20, 20), np.uint8)
        columns["picture"] = np.stack([screens[at : at + 4] for at in range(num)])
    return {key: columns[key] for key in keys_of(kind)}


def run(path, kind="uniform", **options):
    """A manager with a buffer on disk, and its learner."""
    manager = make(capacity=0)
    manager.initialize_buffer(CAPACITY, keys_of(kind), path=path, **KINDS[kind] | options)
    return manager, learner(manager, n_step=manager.buffer.n_step)


def train(manager, dqn, updates=4):
    """Losses; of a prioritized buffer, errors become priorities."""
    losses = []
    for _ in range(updates):
        batch = manager.sample(8)
        update = dqn.update(batch)
        losses.append(float(np.ravel(update.loss)[0]).hex())
        if "index" in batch:
            manager.buffer.update_priorities(batch["index"], np.abs(np.ravel(update.td_error)))
        if "picture" in batch:
            losses.append(int(batch["picture"].sum()))
    return losses


def parts(dqn):
    return {"target": dqn.target, "optimizer": dqn.optimizer}


@pytest.mark.parametrize(("kind", "later"), [("uniform", 7), *((kind, 3 * CAPACITY) for kind in KINDS)])
def test_a_killed_run_resumes_with_the_losses_of_the_uninterrupted_one(tmp_path, kind, later):
    manager, dqn = run(tmp_path / "ring", kind)
    manager.store_in_buffer(more_rows(kind, CAPACITY - 5))
    train(manager, dqn)
    manager.save_checkpoint(tmp_path / "checkpoints", **parts(dqn), counters={"updates": 4})
    expected = train(manager, dqn)
    for first in range(0, later, 7):
        manager.store_in_buffer(more_rows(kind, min(7, later - first), 1000 + first))
        train(manager, dqn, 1)
    manager.buffer.flush()
    shutil.copytree(tmp_path / "ring", tmp_path / "as a kill leaves it")
    manager.buffer.close()
    shutil.rmtree(tmp_path / "ring")
    (tmp_path / "as a kill leaves it").rename(tmp_path / "ring")
    resumed, other = run(tmp_path / "ring", kind)
    assert resumed.load_checkpoint(tmp_path / "checkpoints", **parts(other)) == {"updates": 4}
    assert resumed.rolled_back.rows_dropped == min(later, CAPACITY)
    assert train(resumed, other) == expected
    resumed.buffer.close()


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("kind", ["uniform", "prioritized"])
def test_batches_drawn_ahead_of_a_save_come_next_in_the_resumed_run(tmp_path, kind, on_disk):
    managers = [make(capacity=0) for _ in range(2)]
    managers[0].initialize_buffer(CAPACITY, KEYS, path=tmp_path / "ring" if on_disk else None, **KINDS[kind])
    managers[0].store_in_buffer(rows(CAPACITY))
    with managers[0].batches(8, prefetch=3) as batches:
        for _ in range(2):
            next(batches)
        managers[0].save_checkpoint(tmp_path / "checkpoints")
        expected = [next(batches)["reward"].tolist() for _ in range(6)]
    managers[0].buffer.close()
    managers[1].load_checkpoint(tmp_path / "checkpoints")
    with managers[1].batches(8, prefetch=1) as batches:
        assert [next(batches)["reward"].tolist() for _ in range(6)] == expected
    managers[1].buffer.close()


def test_policy_versions_in_the_buffer_keep_their_meaning(tmp_path):
    manager = make(capacity=0, returns=["policy_version"])
    manager.initialize_buffer(CAPACITY, ["reward", "policy_version"], path=tmp_path / "ring")
    manager.collect(10)
    manager.save_checkpoint(tmp_path / "checkpoints")
    version = manager.info()["policy_version"]
    for factor in (2, 3):
        manager.set_agent([weight * factor for weight in manager.get_agent().get_weights()])
        manager.collect(10)
    assert max(all_rows(manager.buffer)["policy_version"]) == version + 2
    manager.load_checkpoint(tmp_path / "checkpoints")
    assert max(all_rows(manager.buffer)["policy_version"]) == manager.info()["policy_version"] == version
    manager.buffer.close()


def test_a_moved_buffer_is_found_where_the_manager_has_it_or_where_the_caller_says(tmp_path):
    manager, _ = run(tmp_path / "ring")
    manager.store_in_buffer(rows(20))
    manager.save_checkpoint(tmp_path / "checkpoints")
    manager.store_in_buffer(rows(5, 1000))
    manager.buffer.close()
    (tmp_path / "ring").rename(tmp_path / "moved")
    fresh = make(capacity=0)
    with pytest.raises(InvalidValueError, match=r"ring'.*buffer_path= names its folder if it was moved"):
        fresh.load_checkpoint(tmp_path / "checkpoints")
    assert fresh.buffer is None
    fresh.load_checkpoint(tmp_path / "checkpoints", buffer_path=tmp_path / "moved")
    assert all_rows(fresh.buffer)["reward"] == list(range(20))
    fresh.store_in_buffer(rows(5, 2000))
    fresh.buffer.close()
    own, _ = run(tmp_path / "moved")
    own.load_checkpoint(tmp_path / "checkpoints")
    assert all_rows(own.buffer)["reward"] == list(range(20))
    own.buffer.close()


def test_a_run_whose_whole_folder_was_moved_resumes(tmp_path):
    manager, _ = run(tmp_path / "run" / "ring")
    manager.store_in_buffer(rows(20))
    manager.save_checkpoint(tmp_path / "run" / "checkpoints")
    manager.buffer.close()
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    fresh = make(capacity=0)
    fresh.load_checkpoint(tmp_path / "elsewhere" / "checkpoints")
    assert fresh.buffer.path == tmp_path / "elsewhere" / "ring"
    fresh.buffer.close()


def test_another_buffer_under_the_same_path_is_refused(tmp_path):
    manager, _ = run(tmp_path / "ring")
    manager.store_in_buffer(rows(20))
    manager.save_checkpoint(tmp_path / "checkpoints")
    manager.buffer.close()
    shutil.rmtree(tmp_path / "ring")
    for number in (5, 0):
        other, _ = run(tmp_path / "ring")
        if number:
            other.store_in_buffer(rows(number, 9000))
        message = "expected the buffer of the checkpoint, whose identity is [0-9a-f]{32}, got another one"
        assert_refused(other, tmp_path / "checkpoints", InvalidValueError, message)
        assert_refused(other, tmp_path / "checkpoints", InvalidValueError, message, missing="accept")
        other.buffer.close()
        shutil.rmtree(tmp_path / "ring")
    with pytest.raises(InvalidValueError, match="buffer_path: expected none"):
        make(capacity=0).load_checkpoint(saved_without_buffer(tmp_path), buffer_path=tmp_path / "ring")


def saved_without_buffer(path):
    make(capacity=0).save_checkpoint(path / "without")
    return path / "without"


def test_rows_that_are_gone_are_an_error_unless_they_are_accepted(tmp_path):
    manager, dqn = run(tmp_path / "ring", spare=10)
    manager.store_in_buffer(rows(CAPACITY))
    manager.save_checkpoint(tmp_path / "checkpoints", **parts(dqn))
    for first in range(0, 30, 5):
        manager.store_in_buffer(rows(5, 1000 + first))
    message = "expected the 40 rows that the buffer held at the checkpoint, got 20: 20 of them are gone"
    assert_refused(manager, tmp_path / "checkpoints", InvalidValueError, message, **parts(dqn))
    manager.load_checkpoint(tmp_path / "checkpoints", **parts(dqn), missing="accept")
    assert (manager.rolled_back.rows_missing, manager.rolled_back.rows_dropped) == (20, 30)
    assert all_rows(manager.buffer)["reward"] == list(range(20, 40))
    manager.buffer.close()


def test_rows_put_in_the_background_during_and_after_a_save_are_dropped(tmp_path):
    manager, dqn = run(tmp_path / "ring", "prioritized", spare=20_000)
    # The limiter keeps runners from putting more than `spare` rows, however slow the learner is.
    with manager.collect_in_background(samples_per_insert=0.1, error_buffer=100, min_rows=200):
        train(manager, dqn)
        manager.save_checkpoint(tmp_path / "checkpoints", **parts(dqn))
        target = manager._background.rows + 300
        while manager._background.rows < target:
            train(manager, dqn, 1)
    after = all_rows(manager.buffer)
    resumed = []
    for _ in range(2):
        manager.load_checkpoint(tmp_path / "checkpoints", **parts(dqn))
        assert manager.rolled_back.rows_dropped == CAPACITY
        resumed.append((all_rows(manager.buffer), train(manager, dqn)))
        assert resumed[-1][0] != after
        manager.store_in_buffer(rows(50))
    assert resumed[0] == resumed[1]
    manager.buffer.close()


def test_a_buffer_with_another_sampler_or_unit_is_refused(tmp_path):
    from really.replay import SAMPLERS, Sampler

    class Oldest(Sampler):
        def __init__(self, share=0.5):
            self.share = share

        def options(self):
            return {"share": self.share}

        def draw(self, ring, shape, beta=None):
            return np.full(shape, ring.oldest_row, np.int64), {}

    SAMPLERS["oldest"] = Oldest
    try:
        managers = [make(capacity=0) for _ in range(3)]
        for manager in managers[:2]:
            manager.initialize_buffer(CAPACITY, KEYS, sampler=("oldest", {"share": 0.5}))
        managers[2].initialize_buffer(CAPACITY, KEYS)
        managers[0].store_in_buffer(rows(5))
        managers[0].save_checkpoint(tmp_path)
        managers[1].load_checkpoint(tmp_path)
        assert_refused(managers[2], tmp_path, InvalidValueError, r"with sampler=None, got one with \['oldest'")
    finally:
        del SAMPLERS["oldest"]


class Sometimes(gymnasium.Wrapper):
    """An environment that can be made `left` more times."""

    left = 10**9

    def __init__(self):
        Sometimes.left -= 1
        if Sometimes.left < 0:
            raise OSError("no licence is left")
        super().__init__(gymnasium.make("CartPole-v1"))


def state_of(manager, dqn):
    """All that a load could change."""
    return {
        "weights": [weight.tolist() for weight in manager.get_agent().get_weights()],
        "target": [weight.tolist() for weight in dqn.target.get_weights()],
        "optimizer": [np.asarray(variable).tolist() for variable in dqn.optimizer.variables],
        "generator": manager.get_agent().rng.bit_generator.state,
        "settings": {name: manager.kwargs[name] for name in ("epsilon", "temperature", "total_steps")},
        "info": {name: str(value) for name, value in manager.info().items()},
        "rows": all_rows(manager.buffer),
        "steps": manager.steps,
        "curves": {key: (curve.epochs, curve.means) for key, curve in manager.aggregator.curves.items()},
        "csv": manager.aggregator.csv_path.read_text(),
        "files": sorted(file.name for file in manager.aggregator.path.iterdir()),
        "buffer": id(manager.buffer),
    }


@pytest.mark.parametrize("reason", ["runners", "disk"])
def test_a_load_that_fails_changes_nothing(tmp_path, reason, monkeypatch):
    Sometimes.left = 10**9
    managers = []
    for _ in range(2):
        manager = make(environment=Sometimes, capacity=0, normalize_observations=True)
        manager.initialize_buffer(CAPACITY, KEYS, path=tmp_path / f"ring {len(managers)}")
        manager.initialize_aggregator(tmp_path / f"progress {len(managers)}")
        managers.append((manager, learner(manager)))
    (manager, dqn), (twin, _) = managers
    manager.update_aggregator(loss=1.0)
    manager.collect(20)
    train(manager, dqn)
    manager.save_checkpoint(tmp_path / "checkpoints", **parts(dqn))
    manager.set_epsilon(0.125)
    manager.update_aggregator(loss=2.0)
    train(manager, dqn)
    manager.set_agent([weight * 2 for weight in manager.get_agent().get_weights()])
    manager.collect(20)
    before = state_of(manager, dqn)
    if reason == "runners":
        Sometimes.left = 1
        error = pytest.raises((EnvironmentFailedError, ReallyError, OSError), match="no licence is left")
    else:
        (tmp_path / "ring 0" / "rollback").mkdir()
        error = pytest.raises((FileError, InvalidValueError), match="rollback")
    with error:
        manager.load_checkpoint(tmp_path / "checkpoints", **parts(dqn))
    Sometimes.left = 10**9
    shutil.rmtree(tmp_path / "ring 0" / "rollback", ignore_errors=True)
    assert state_of(manager, dqn) == before
    assert manager.rolled_back is None
    assert len(manager.get_data()["reward"]) >= 10
    manager.load_checkpoint(tmp_path / "checkpoints", **parts(dqn))
    assert manager.kwargs["epsilon"] == 0.5
    assert manager.rolled_back.rows_dropped == 20
    assert manager.aggregator.curves["loss"].means == [1.0]
    for each in (manager, twin):
        each.buffer.close()


@pytest.mark.parametrize("step", ["before", "during", "after"])
def test_an_interrupt_of_a_load_leaves_the_old_or_the_saved_state(tmp_path, step, monkeypatch):
    manager, dqn = run(tmp_path / "ring")
    manager.initialize_aggregator(tmp_path / "progress")
    manager.store_in_buffer(rows(20))
    manager.save_checkpoint(tmp_path / "checkpoints", **parts(dqn))
    saved = state_of(manager, dqn)["rows"]
    manager.set_epsilon(0.125)
    manager.store_in_buffer(rows(5, 1000))
    before = state_of(manager, dqn)
    place, name = {
        "before": (rollback, "write"),
        "during": (rollback, "place_files"),
        "after": (type(manager), "_start_collector"),
    }[step]
    call = getattr(place, name)

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return call(*arguments)

    monkeypatch.setattr(place, name, interrupted)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore SIGINT
    try:
        with pytest.raises(KeyboardInterrupt):
            manager.load_checkpoint(tmp_path / "checkpoints", **parts(dqn))
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, handler)
    monkeypatch.undo()
    after = state_of(manager, dqn)
    assert after == before or (manager.kwargs["epsilon"], after["rows"]) == (0.5, saved)
    manager.buffer.close()


def test_a_failed_load_leaves_episodes_and_random_streams_as_they_are(tmp_path):
    Sometimes.left = 10**9
    manager, other = (make(environment=Sometimes) for _ in range(2))
    for each in (manager, other):
        each.collect(20)
    manager.save_checkpoint(tmp_path)
    Sometimes.left = 0
    with pytest.raises((ReallyError, OSError), match="no licence is left"):
        manager.load_checkpoint(tmp_path)
    Sometimes.left = 10**9
    ours, theirs = manager.get_data(), other.get_data()
    assert same(ours.values(), theirs.values())


def test_the_steps_of_a_run_and_the_axis_of_its_curves_go_on_after_a_return(tmp_path):
    manager, resumed = make(), make()
    manager.initialize_aggregator(tmp_path / "progress", aggregator_keys=["loss"])
    manager.collect(20)
    manager.update_aggregator(step=manager.steps, loss=1.0)
    saved = manager.steps
    manager.save_checkpoint(tmp_path / "checkpoints")
    manager.collect(20)
    resumed.collect(10)
    for each in (manager, resumed):
        each.load_checkpoint(tmp_path / "checkpoints")
        assert each.steps == saved > 10
    rows = resumed.collect(10)
    resumed.update_aggregator(step=resumed.steps, loss=0.5)
    assert resumed.steps == saved + rows
    assert resumed.aggregator.curves["loss"].steps == [saved, saved + rows]


def test_a_save_while_others_put_keeps_the_rows_of_one_moment(tmp_path):
    manager, _ = run(tmp_path / "ring", spare=1_000_000)
    manager.store_in_buffer(rows(CAPACITY))
    stopping, number = threading.Event(), iter(range(CAPACITY, 10**9))

    def put():
        while not stopping.is_set():
            manager.buffer.put(rows(1, next(number)))

    thread = threading.Thread(target=put)
    thread.start()
    try:
        for _ in range(3):
            manager.save_checkpoint(tmp_path / "checkpoints")
    finally:
        stopping.set()
        thread.join()
    manager.load_checkpoint(tmp_path / "checkpoints")
    held = all_rows(manager.buffer)["reward"]
    assert len(held) == CAPACITY
    assert held == list(range(int(held[0]), int(held[0]) + CAPACITY))
    manager.buffer.close()
