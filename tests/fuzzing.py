"""Mutated files of each kind, read in a child process: `python -m tests.fuzzing FOLDER '[["folder", 0, 200], ...]'`.

A mutant of chance is held if reading it raises an error of this package that names a file, or gives exactly what was
written. A crafted one has checksums that agree, so it may also give another content. A mutant fell if reading it
crashes, raises something else, or gives something else without a word.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import traceback
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.kinds_of_files import KINDS, same

ROOT = Path(__file__).parents[1]
CRAFTED = "crafted "
ATTACKS = [*KINDS, *(f"{CRAFTED}{kind}" for kind in KINDS if kind != "CSV")]
"""Names of what is attacked: a kind, or a kind whose checksums agree."""
WORDS = (0, 1, -1, 255, 65535, 1 << 31, (1 << 31) - 1, 1 << 62, -(1 << 63))
UNTOUCHED = ("lock", "saved", "model.keras")
MEMORY, LEAST_BYTES = Path("/dev/shm"), 256 << 20


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


@contextlib.contextmanager
def folder_in_memory(otherwise: Path) -> Iterator[Path]:
    """A new folder whose files need not wait for a disk; `otherwise` if the machine has no room for one."""
    if not MEMORY.is_dir() or not os.access(MEMORY, os.W_OK) or shutil.disk_usage(MEMORY).free < LEAST_BYTES:
        yield otherwise
        return
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="really-mutants-") as folder:
        yield Path(folder)


def in_a_child(names: Sequence[str], num: int, otherwise: Path) -> dict[str, dict[str, int]]:
    """Reads `num` mutants of each name in one child process; returns the counts of each.

    A mutant that ends the child fell, and another child continues with the next one.
    """
    counts = {name: collections.Counter(attacks=0, held=0, fell=0) for name in names}
    done = dict.fromkeys(names, 0)
    while todo := [[name, done[name], num] for name in names if done[name] < num]:
        with folder_in_memory(otherwise) as folder:
            command = [sys.executable, "-m", "tests.fuzzing", str(folder), json.dumps(todo)]
            child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3000)
        for line in (json.loads(line) for line in child.stdout.splitlines() if line.startswith("{")):
            done[line["name"]] += 1
            counts[line["name"]].update(attacks=1, **{line["end"]: 1})
            if line["end"] == "fell":
                print(line, file=sys.stderr)
        if child.returncode == 1:
            raise RuntimeError(f"the child could not read mutants:\n{child.stderr[-2000:]}")
        if ended := next((name for name in names if child.returncode and done[name] < num), None):
            print(f"{ended}: a mutant ended the process: {child.returncode}\n{child.stderr[-2000:]}", file=sys.stderr)
            done[ended] += 1
            counts[ended].update(attacks=1, fell=1)
    return {name: dict(count) for name, count in counts.items()}


@contextlib.contextmanager
def checksums_agree() -> Iterator[None]:
    """Whatever is written and read in the block has right checksums."""
    before, zlib.crc32 = zlib.crc32, lambda *content: 0
    try:
        yield
    finally:
        zlib.crc32 = before


class Target:
    """What is attacked in a folder of its own: a whole file of a kind, and mutants of it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.kind = KINDS[name.removeprefix(CRAFTED)]
        self.name, self.is_crafted, self._folder = name, name.startswith(CRAFTED), folder
        (folder / "work").mkdir(parents=True)
        with self._checksums():
            self._whole = self.kind.write(folder / "whole")
            self._expected = None if self.is_crafted else self.kind.read(self._copy())

    def attack(self, seed: int) -> str:
        """Reads one mutant; returns how it ended: "held", or why it fell."""
        from tests.crafting import META, change_anything, change_checkpoint

        rng = np.random.default_rng(seed)
        with self._checksums():
            copy = self._copy()
            file = (files := self.files(copy))[int(rng.integers(len(files)))]
            if self.is_crafted and (copy / META).exists() and "checkpoint" in self.name and rng.random() < 0.5:
                change_checkpoint(copy, lambda about: change_anything(about, rng))
            else:
                file.write_bytes(mutated(file.read_bytes(), rng))
            return self.read(copy, file.name)

    def contents(self) -> list[tuple[int, bytes]]:
        """Number and content of each file of the whole one."""
        return [(number, file.read_bytes()) for number, file in enumerate(self.files(self._whole))]

    def attack_with(self, number: int, content: bytes) -> str:
        """Reads a copy one of whose files has this content; returns how it ended."""
        with self._checksums():
            copy = self._copy()
            file = (files := self.files(copy))[number % len(files)]
            file.write_bytes(content)
            return self.read(copy, file.name)

    def read(self, path: Path, changed: str) -> str:
        """Reads a mutant; returns how it ended."""
        from really.errors import FileError, InvalidTypeError, ModelError, NotEnoughMemoryError, ReallyError

        # The description of a checkpoint says what the run must be like: errors name arguments of the run.
        checkpoint = self.is_crafted and "checkpoint" in self.name
        named = ReallyError if checkpoint else (FileError, ModelError, NotEnoughMemoryError)
        if self.is_crafted and "Parquet" in self.name:
            named = (*named, InvalidTypeError)  # that of other programs' files, whose columns may be of any type
        try:
            found = self.kind.read(path)
        except named as error:
            is_named = checkpoint or isinstance(error, NotEnoughMemoryError) or str(path.parent) in str(error)
            return "held" if is_named else f"unnamed: {error}"
        except Exception:
            return traceback.format_exc()[-1500:]
        expected = self._expected
        return "held" if expected is None or same(found, expected) else f"other content, after a change of {changed}"

    @staticmethod
    def files(path: Path) -> list[Path]:
        """The files of one that may be changed."""
        return sorted(file for file in path.iterdir() if file.name not in UNTOUCHED) if path.is_dir() else [path]

    def _copy(self) -> Path:
        copy = self._folder / "work" / self._whole.name
        shutil.rmtree(copy, ignore_errors=True)
        (shutil.copytree if self._whole.is_dir() else shutil.copy)(self._whole, copy)
        return copy

    def _checksums(self) -> contextlib.AbstractContextManager[Any]:
        return checksums_agree() if self.is_crafted else contextlib.nullcontext()


def main(folder: Path, todo: list[tuple[str, int, int]]) -> None:
    """Reads the mutants of each name with seeds from the first number to before the second; prints a line for each."""
    for name, first, end in todo:
        target = Target(name, folder / name)
        for seed in range(first, end):
            ended = target.attack(seed)
            fell = {} if ended == "held" else {"why": ended}
            print(json.dumps({"name": name, "seed": seed, "end": "fell" if fell else "held", **fell}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
