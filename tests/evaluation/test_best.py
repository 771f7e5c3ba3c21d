"""evaluate_best: greedy episodes, and the best model so far on disk."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from really import Agent, SampleManager
from really.errors import InvalidFileError, InvalidTypeError, InvalidValueError, MissingPackageError

RIGHT = np.array([-1.0, 1.0], np.float32)


class Push:
    """A policy with one weight: the pole is pushed where it falls, in this part of the steps."""

    def __init__(self) -> None:
        self.weight = np.zeros(1, np.float32)

    def __call__(self, state: Any) -> dict[str, Any]:
        lean = (np.asarray(state)[:, 2] + np.asarray(state)[:, 3])[:, None]
        return {"q_values": lean * RIGHT * self.weight}

    def get_weights(self) -> list[Any]:
        return [self.weight]

    def set_weights(self, weights: list[Any]) -> None:
        self.weight = np.asarray(weights[0], np.float32)


@pytest.fixture
def manager() -> Any:
    options = {"num_steps": 20, "use_ray": False, "action_sampling_type": "epsilon_greedy", "seed": 1}
    with SampleManager(Push(), "CartPole-v1", 2, 40, **options) as manager:
        yield manager


def set_push(manager: SampleManager, push: float) -> None:
    manager.set_agent([np.full(1, push, np.float32)])


def test_a_missing_package_is_told_before_anything_is_played_or_written(
    manager: SampleManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def play(*_: Any) -> None:
        raise AssertionError("played")

    monkeypatch.setitem(sys.modules, "h5py", None)
    monkeypatch.setattr(manager._current, "evaluate", play)
    path = tmp_path / "saved"
    told = f"^{path}: expected h5py for HDF5 files, got no package h5py: pip install 'really-rl.hdf5.'$"
    for save in (
        lambda: manager.evaluate_best(path, 100, 4),
        lambda: manager.save_model(path, 1),
        lambda: manager.save_checkpoint(path),
    ):
        with pytest.raises(MissingPackageError, match=told):
            save()
    assert not path.exists()


def test_the_best_model_is_kept_alone(manager: SampleManager, tmp_path: Path, capsys: Any) -> None:
    other = manager.save_model(tmp_path, 0, "other")
    first = manager.evaluate_best(tmp_path, 100, 4)
    assert first.is_best
    assert (first.mean, first.std) == (np.mean(first.returns), np.std(first.returns))
    assert first.returns == first.lengths  # CartPole gives 1 a step
    set_push(manager, 1)
    second = manager.evaluate_best(tmp_path, 100, 4, epoch=5, do_print=True)
    assert second.is_best
    assert second.best == second.mean > first.mean
    assert "4 episodes: mean" in (printed := capsys.readouterr().out)
    assert printed.endswith("; the best so far, kept\n")
    set_push(manager, -1)
    third = manager.evaluate_best(tmp_path, 100, 4, do_print=True)
    assert not third.is_best
    assert (third.best, third.path) == (second.mean, second.path)
    assert capsys.readouterr().out.endswith(f"; the best so far has {second.mean:.2f}\n")
    assert sorted(map(str, tmp_path.iterdir())) == sorted([other, second.path])
    assert Agent.load(tmp_path, Push, model_name="best").epoch == 5
    assert manager.load_model(tmp_path, "best").get_weights()[0].tolist() == [1]


def test_a_run_that_resumes_compares_with_the_score_on_disk(manager: SampleManager, tmp_path: Path) -> None:
    set_push(manager, 1)
    best = manager.evaluate_best(tmp_path, 100, 4)
    options = {"num_steps": 20, "use_ray": False, "action_sampling_type": "epsilon_greedy"}
    with SampleManager(Push(), "CartPole-v1", 2, 40, **options) as resumed:
        found = resumed.evaluate_best(tmp_path, 100, 4)
    assert (found.is_best, found.best, found.path) == (False, best.mean, best.path)


def test_a_damaged_best_model_and_wrong_arguments_are_told(manager: SampleManager, tmp_path: Path) -> None:
    best = manager.evaluate_best(tmp_path, 10, 2)
    (Path(best.path) / "model.weights.h5").write_bytes(b"")
    with pytest.raises(InvalidFileError, match=r"model\.weights\.h5: expected"):
        manager.evaluate_best(tmp_path, 10, 2)
    with pytest.raises(InvalidTypeError, match=r"^max_steps: expected an integer"):
        manager.evaluate_best(tmp_path / "new", 1.5)
    with pytest.raises(InvalidValueError, match=r"^model_name: expected"):
        manager.evaluate_best(tmp_path / "new", 10, model_name="a/b")
