"""Mutated files of each kind, read in a child process: `python -m tests.fuzzing KIND WHOLE FOLDER SEED NUM`.

A mutant is held if reading it raises an error of this package that names a file, or gives exactly what was written. It
fell if reading it crashes, raises something else, or gives something else without a word.
"""

from __future__ import annotations

import collections
import functools
import json
import shutil
import struct
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
WORDS = (0, 1, -1, 255, 65535, 1 << 31, (1 << 31) - 1, 1 << 62, -(1 << 63))


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """A copy with a flipped bit, another word, a part cut, doubled, zeroed, or exchanged for another."""
    at, other = (int(place) for place in rng.integers(0, len(content), 2))
    length = int(rng.integers(1, 200))
    kind = rng.integers(8)
    if kind < 3:
        return content[:at] + bytes([content[at] ^ (1 << int(rng.integers(8)))]) + content[at + 1 :]
    if kind == 3:
        word = struct.pack("<q", int(rng.choice(WORDS)))[: int(rng.choice([1, 2, 4, 8]))]
        return content[:at] + word + content[at + len(word) :]
    if kind == 4:
        return content[:at]
    if kind == 5:
        return content[:at] + content[at + length :]
    if kind == 6:
        return content[:at] + bytes(length) + content[at + length :]
    return content[:at] + content[other : other + length] + content[at + length :]


def in_a_child(kind: str, whole: Path, folder: Path, seed: int, num: int) -> dict[str, int]:
    """Reads mutants in a child process, and in another one from the mutant on that ended it; returns the counts."""
    counts: collections.Counter[str] = collections.Counter(attacks=0, held=0, fell=0)
    first = seed
    while first < seed + num:
        command = [sys.executable, "-m", "tests.fuzzing", kind, str(whole), str(folder), str(first), str(seed + num)]
        child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)
        lines = [json.loads(line) for line in child.stdout.splitlines() if line.startswith("{")]
        for line in lines:
            counts.update(attacks=1, **{line["end"]: 1})
            if line["end"] == "fell":
                print(kind, line, file=sys.stderr)
        first = first + len(lines)
        if first < seed + num:
            print(
                f"{kind}: mutant {first} ended the process: {child.returncode}\n{child.stderr[-2000:]}", file=sys.stderr
            )
            counts.update(attacks=1, fell=1)
            first += 1
    return dict(counts)


def _same(got: dict[str, Any], expected: dict[str, Any]) -> bool:
    return got.keys() == expected.keys() and all(
        got[key].dtype == expected[key].dtype and got[key].tobytes() == expected[key].tobytes() for key in expected
    )


def _rows(buffer: Any) -> dict[str, Any]:
    return dict(buffer.take(np.arange(len(buffer)))) if len(buffer) else {}


def _folder(path: Path) -> Any:
    """The rows of both modes, unless `verify` tells of damage; a writer also puts and saves."""
    from really import ReplayBuffer
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
    return found if _same(again, found) else {}


def _saved(path: Path) -> Any:
    from really import ReplayBuffer

    return _rows(ReplayBuffer.load(path))


def _parquet(path: Path) -> Any:
    from really import ReplayBuffer

    return _rows(ReplayBuffer.from_parquet(path))


def _csv(path: Path) -> Any:
    from really.metrics.aggregator import Aggregator

    Aggregator(path.parent, aggregator_keys=["loss", "reward"], init_epoch=10**6)
    return None


def _model(path: Path) -> Any:
    from really.checkpoints import load_model
    from tests.checkpoints.test_crafted_models import Model

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
        if not _same(_state(*run), before):
            raise AssertionError("a refused checkpoint has changed the run") from None
        raise
    return _state(*run)


def _crafted_checkpoint(path: Path) -> Any:
    """A checkpoint that a person made may have another content."""
    _checkpoint(path)


READERS: dict[str, Callable[[Path], Any]] = {
    "folder": _folder,
    "saved buffer": _saved,
    "Parquet": _parquet,
    "CSV": _csv,
    "model": _model,
    "checkpoint": _checkpoint,
    "crafted checkpoint": _crafted_checkpoint,
}
UNTOUCHED = ("lock", "saved", "model.keras")


def attack(kind: str, whole: Path, folder: Path, seed: int, expected: Any) -> str:
    """Reads one mutant; returns how it ended."""
    from really.errors import FileError, ModelError, NotEnoughMemoryError, ReallyError
    from tests.crafting import META, change_anything, change_checkpoint

    named = ReallyError if kind == "crafted checkpoint" else (FileError, ModelError, NotEnoughMemoryError)
    rng = np.random.default_rng(seed)
    target = folder / whole.name
    shutil.rmtree(target, ignore_errors=True)
    (shutil.copytree if whole.is_dir() else shutil.copy)(whole, target)
    files = sorted(file for file in target.iterdir() if file.name not in UNTOUCHED) if target.is_dir() else [target]
    file = files[int(rng.integers(len(files)))]
    if kind == "crafted checkpoint":
        if file.name != META and rng.random() < 0.5:
            file.write_bytes(mutated(file.read_bytes(), rng))
        change_checkpoint(target, lambda about: change_anything(about, rng))
    else:
        file.write_bytes(mutated(file.read_bytes(), rng))
    try:
        found = READERS[kind](target)
    except named as error:
        return "held" if isinstance(error, NotEnoughMemoryError) or str(folder) in str(error) else f"unnamed: {error}"
    except Exception:
        return traceback.format_exc()[-1500:]
    return "held" if expected is None or _same(found, expected) else f"other content, after a change of {file.name}"


def main(kind: str, whole: Path, folder: Path, first: int, end: int) -> None:
    """Reads the mutants with these seeds, and prints a line for each."""
    copy = folder / "whole" / whole.name
    copy.parent.mkdir(exist_ok=True)
    (shutil.copytree if whole.is_dir() else shutil.copy)(whole, copy)
    expected = READERS[kind](copy)
    shutil.rmtree(copy.parent)
    for seed in range(first, end):
        end_of_it = attack(kind, whole, folder, seed, expected)
        fell = {} if end_of_it == "held" else {"why": end_of_it}
        print(json.dumps({"seed": seed, "end": "held" if end_of_it == "held" else "fell", **fell}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
