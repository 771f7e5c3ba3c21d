"""Relative paths mean the current folder of the call that takes them, also after a later `os.chdir`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from really import ReplayBuffer, SampleManager
from really.metrics.aggregator import Aggregator
from tests.models import QNet


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Two folders; the first is the current one."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "first")
    return tmp_path / "first", tmp_path / "second"


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_an_aggregator_stays_in_its_folder(folders: tuple[Path, Path]) -> None:
    first, second = folders
    aggregator = Aggregator("progress", 2, tensorboard="events")
    aggregator.update(loss=1.0)
    os.chdir(second)
    aggregator.update(loss=2.0)
    aggregator.update(loss=3.0)
    assert (first / "progress" / "progress.csv").read_text().count("\n") == 4
    assert aggregator.plot_path == first / "progress" / "progress.png"
    assert aggregator.plot_path.exists()
    assert Aggregator(**aggregator.arguments()).curves["loss"].means == [1.0, 2.0, 3.0]
    assert not files(second)


def test_a_buffer_stays_in_its_folder(folders: tuple[Path, Path]) -> None:
    first, second = folders
    frames = np.random.default_rng(0).integers(0, 255, (3001, 1200), np.uint8)
    with ReplayBuffer(2000, ["state", "state_new"], path="rows") as buffer:
        os.chdir(second)
        for start in range(0, 3000, 1000):
            rows = slice(start, start + 1000)
            buffer.put({"state": frames[:-1][rows], "state_new": frames[1:][rows]})
        buffer.flush()
        assert buffer.path == first / "rows"
        reader = ReplayBuffer.open(buffer.path)
        np.testing.assert_array_equal(reader.buffer["state"], frames[1000:3000])
    assert not files(second)


def test_a_run_is_saved_and_resumed_across_folders(folders: tuple[Path, Path]) -> None:
    first, second = folders
    given: dict[str, Any] = {"environment": "CartPole-v1", "num_parallel": 1, "total_steps": 20, "use_ray": False}
    with SampleManager(QNet, action_sampling_type="thompson", num_steps=20, seed=0, **given) as manager:
        manager.initilize_buffer(100, path="rows")
        manager.initialize_aggregator("progress")
        manager.collect()
        model, checkpoint = manager.save_model("models", 1), manager.save_checkpoint("checkpoints")
        os.chdir(second)
        manager.update_aggregator(loss=1.0)
        assert manager.load_model(model).epoch == 1
        manager.load_checkpoint(checkpoint)
        assert manager.buffer is not None
        assert (len(manager.buffer), manager.buffer.path) == (20, first / "rows")
        manager.save_checkpoint(first / "checkpoints")
    with SampleManager(QNet, action_sampling_type="thompson", num_steps=20, seed=0, **given) as manager:
        manager.initilize_buffer(100, path=first / "rows")
        manager.initialize_aggregator(first / "progress")
        manager.load_checkpoint(first / "checkpoints")
    assert not files(second)
