"""Mutated files of each kind: an error that names the file, or what was written (`make test-damage`: 2,000 each)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from really import ReplayBuffer
from really.checkpoints import save_model
from really.metrics.aggregator import Aggregator
from tests.checkpoints.test_crafted_models import Model
from tests.fuzzing import in_a_child


def rows() -> dict[str, np.ndarray]:
    frames = np.random.default_rng(0).integers(0, 255, (44, 24, 24), np.uint8)
    stacks = np.stack([frames[at : at + 4] for at in range(41)])
    plain = {"flag": np.arange(40) % 2 == 0, "name": np.array(["ab", "c"] * 20)}
    return {"state": stacks[:-1], "action": np.arange(40), "state_new": stacks[1:], **plain}


def folder(path: Path) -> Path:
    with ReplayBuffer(40, spare=10, seed=0, alpha=0.6, path=path) as buffer:
        buffer.put(rows())
    return path


def filled() -> ReplayBuffer:
    buffer = ReplayBuffer(40, seed=0, alpha=0.6)
    buffer.put(rows())
    return buffer


def saved(path: Path) -> Path:
    filled().save(path, compression="none")
    return path


def parquet(path: Path) -> Path:
    filled().to_parquet(path, compression="none")
    return path


def curves(path: Path) -> Path:
    aggregator = Aggregator(path, aggregator_keys=["loss", "reward"], saving_after=10**6)
    for at in range(20):
        aggregator.update(loss=at / 7, reward=[at, 2 * at])
    return path


def model(path: Path) -> Path:
    return save_model(Model(np.arange(4, dtype=np.float32)), path, 1)


def checkpoint(path: Path) -> Path:
    from tests.checkpoints.test_training_state import learner, make

    manager = make()
    dqn = learner(manager)
    manager.collect(20)
    manager.initialize_aggregator(path.parent / "progress")
    manager.update_aggregator(loss=1.0)
    saved = manager.save_checkpoint(path, target=dqn.target, optimizer=dqn.optimizer)
    manager.close()
    return Path(saved)


KINDS: dict[str, Callable[[Path], Path]] = {
    "folder": folder,
    "saved buffer": saved,
    "Parquet": parquet,
    "CSV": curves,
    "model": model,
    "checkpoint": checkpoint,
    "crafted checkpoint": checkpoint,
}
SLOWEST = {"checkpoint": 300, "crafted checkpoint": 300}
"""Mutants of kinds that take long to read, in place of 2,000."""


@pytest.mark.parametrize("num", [25, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_mutants_are_held(kind, num, tmp_path, record_property):
    num = min(num, SLOWEST.get(kind, num))
    (tmp_path / "work").mkdir()
    counts = in_a_child(kind, KINDS[kind](tmp_path / "whole"), tmp_path / "work", seed=0, num=num)
    record_property("attacks", (f"mutants: {kind}", counts["attacks"], counts["held"]))
    assert counts["fell"] == 0
