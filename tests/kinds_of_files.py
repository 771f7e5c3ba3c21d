"""The kinds of files that are damaged: how a whole one is written, and how one is read, whatever it holds."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from really import ReplayBuffer
from really.checkpoints import save_model
from really.metrics.aggregator import Aggregator
from tests.checkpoints.test_crafted_models import Model


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


def same(got: dict[str, Any], expected: dict[str, Any]) -> bool:
    return got.keys() == expected.keys() and all(
        got[key].dtype == expected[key].dtype and got[key].tobytes() == expected[key].tobytes() for key in expected
    )


def _rows(buffer: Any) -> dict[str, Any]:
    return dict(buffer.take(np.arange(len(buffer)))) if len(buffer) else {}


def _folder(path: Path) -> Any:
    """The rows of both modes, unless `verify` tells of damage; a writer also puts and saves."""
    from really.errors import FileError

    with ReplayBuffer.open(path) as buffer:
        told = buffer.verify()
        found = _rows(buffer)
        buffer.sample(8)
    with ReplayBuffer.open(path, "r+") as buffer:
        told_again = buffer.verify()
        again = _rows(buffer)
        for _ in range(5):
            buffer.sample(8)
        buffer.put({key: column[:3] for key, column in found.items()})
        buffer.save(path.parent / "saved")
    for told_once in (told, told_again):
        if not told_once.is_whole:
            raise FileError(f"{path}: {told_once}")
    return found if same(again, found) else {}


def _saved(path: Path) -> Any:
    return _rows(ReplayBuffer.load(path))


def _parquet(path: Path) -> Any:
    return _rows(ReplayBuffer.from_parquet(path))


def _csv(path: Path) -> Any:
    Aggregator(path.parent, aggregator_keys=["loss", "reward"], init_epoch=10**6)
    return None


def _model(path: Path) -> Any:
    from really.checkpoints import load_model

    model = Model(np.zeros(4, np.float32))
    load_model(model, path)
    return {"weights": model.weights[0].value}


@functools.cache
def _run(folder: Path) -> tuple[Any, Any]:
    """A manager and a learner with numbers of their own, which no refused checkpoint may change."""
    from tests.checkpoints.test_training_state import learner, make

    manager = make()
    manager.collect(10)
    manager.initialize_aggregator(folder / "own progress")
    return manager, learner(manager)


def _state(manager: Any, dqn: Any) -> dict[str, Any]:
    """All that `load_checkpoint` sets, as arrays."""
    variables = [*manager.get_agent().get_weights(), *dqn.target.get_weights(), *dqn.optimizer.variables]
    numbers = [manager.kwargs[name] for name in ("epsilon", "temperature", "total_steps")]
    counts = [manager.info()["policy_version"], manager.get_agent().epoch, manager.aggregator.epoch]
    generator = np.frombuffer(repr(manager.buffer.state_dict()).encode(), np.uint8)
    arrays = {f"variable {at}": np.asarray(variable) for at, variable in enumerate(variables)}
    return {"numbers": np.array(numbers), "counts": np.array(counts), "generator": generator, **arrays} | _rows(
        manager.buffer
    )


def _checkpoint(path: Path) -> Any:
    """The state of a run that loads it; one that is refused leaves the run as it was."""
    manager, dqn = run = _run(path.parent)
    manager.kwargs["epsilon"] = 0.125
    before = _state(*run)
    try:
        manager.load_checkpoint(path, target=dqn.target, optimizer=dqn.optimizer)
    except Exception:
        if not same(_state(*run), before):
            raise AssertionError("a refused checkpoint has changed the run") from None
        raise
    return _state(*run)


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        write: writes a whole one at a path; returns its path.
        read: reads one; returns its arrays, or None if nobody can tell whether they are what was written.
    """

    write: Callable[[Path], Path]
    read: Callable[[Path], Any]


KINDS = {
    "folder": Kind(folder, _folder),
    "saved buffer": Kind(saved, _saved),
    "Parquet": Kind(parquet, _parquet),
    "CSV": Kind(curves, _csv),
    "model": Kind(model, _model),
    "checkpoint": Kind(checkpoint, _checkpoint),
}
