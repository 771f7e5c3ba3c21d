"""Which rows of a buffer on disk are as they were put: all bytes of rows and frames are compared with checksums."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from really._utils.progress import advance, progress_bar
from really.replay._ring import Ring
from really.replay.disk import runs
from really.replay.disk.checksum_file import Saved
from really.replay.disk.runs import Items, Runs

UNCHECKED, RIGHT, DAMAGED = 0, 1, 2

States = NDArray[np.int8]
"""[row] UNCHECKED, RIGHT or DAMAGED."""


@dataclass(frozen=True, eq=False)
class Verification:
    """What `ReplayBuffer.verify` found.

    Attributes:
        num_rows: rows held, without those that are removed.
        damaged: [n] int64, indices by age of the rows that may be damaged, as `take` takes them. A checksum covers
            about 64 kB, so rows beside a damaged one are among them.
        unchecked: [n] int64, indices by age of the rows that have no checksum, such as those put since the last
            `flush`.
        files: names of the files that are damaged.
    """

    num_rows: int
    damaged: NDArray[np.int64]
    unchecked: NDArray[np.int64]
    files: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether no row is damaged."""
        return len(self.damaged) == 0

    def __repr__(self) -> str:
        where = f" ({_ranges(self.damaged)}; {', '.join(self.files)})" if len(self.damaged) else ""
        return (
            f"Verification({self.num_rows:,} rows, {len(self.damaged):,} damaged{where}, "
            f"{len(self.unchecked):,} without a checksum)"
        )


def without_files(num_rows: int) -> Verification:
    """Of a buffer in memory: no row has a checksum."""
    return Verification(num_rows, np.zeros(0, np.int64), np.arange(num_rows))


def verified(ring: Ring, items: list[Items], saved: Saved | None) -> Verification:
    """Compares the rows held, and the frames that they need, with their checksums.

    Args:
        ring: of the buffer.
        items: the rows, then the frames of each file of frames.
        saved: the checksums; None if there are none.
    """
    first, num_put = ring.held_rows()
    states = np.full(num_put - first, UNCHECKED, np.int8)
    files: set[str] = set()
    if saved is not None:
        frames = [FrameCheck(ring, at, *of) for at, of in enumerate(zip(items[1:], saved.runs[1:], strict=True))]
        of_rows = saved.runs[0]
        with progress_bar("verifying", num_put - first, "row") as bar:
            for run in of_rows[(of_rows["end"] > first) & (of_rows["end"] <= num_put)]:
                start, end = int(run["first"]) - first, int(run["end"]) - first
                states[max(start, 0) : end] = _states(items[0], run, frames, files)[max(-start, 0) :]
                advance(bar, end)
    oldest = ring.held_rows()[0]
    found = states[oldest - first :][~ring.are_removed(np.arange(oldest, num_put))]
    damaged, unchecked = (np.flatnonzero(found == state) for state in (DAMAGED, UNCHECKED))
    return Verification(len(found), damaged, unchecked, tuple(sorted(files)) if len(damaged) else ())


def _states(rows: Items, run: np.void, frames: list[FrameCheck], files: set[str]) -> States:
    """The states of the rows of a run; adds the names of damaged files to `files`."""
    num = int(run["end"] - run["first"])
    content = runs.content(rows, run)
    if content is None:
        files.add(rows.path.name)
        return np.full(num, DAMAGED, np.int8)
    records = np.frombuffer(content, np.uint8).reshape(num, -1)
    states = np.full(num, RIGHT, np.int8)
    for of_frames in frames:
        found = of_frames.states(records)
        if np.any(found == DAMAGED):
            files.add(of_frames.items.path.name)
        states = np.where(states == RIGHT, found, np.where(found == DAMAGED, found, states))
    return states


class FrameCheck:
    """Compares the frames of one file with their checksums, each run once.

    Args:
        ring: of the buffer.
        at: number of the file.
        items: the frames.
        runs_of_file: with their checksums.
    """

    def __init__(self, ring: Ring, at: int, items: Items, runs_of_file: Runs) -> None:
        self.items, self._runs = items, runs_of_file
        positions, stack, _ = ring.shared[at]
        self._places = [(ring.offsets[position], 4 * stack) for position in positions]
        self._next = ring.frame_ranges[at][3]
        self._found = np.full(len(runs_of_file) + 1, UNCHECKED, np.int8)  # the last is that of frames without a run
        self._is_known = np.zeros(len(self._found), bool)
        self._is_known[-1] = True

    def states(self, records: NDArray[np.uint8]) -> States:
        """The states of rows, [row, stride] uint8, by those of the frames that they need."""
        stored = [records[:, start : start + nbytes] for start, nbytes in self._places]
        low = np.ascontiguousarray(np.concatenate(stored, axis=1)).view(np.uint32).astype(np.int64)
        numbers = self._next - ((self._next - low) & 0xFFFFFFFF)
        run = np.searchsorted(self._runs["first"], numbers, "right") - 1
        run[(run >= 0) & (numbers >= np.append(self._runs["end"], 0)[run])] = -1
        for at in np.unique(run[~self._is_known[run]]):
            self._found[at] = DAMAGED if runs.content(self.items, self._runs[at]) is None else RIGHT
            self._is_known[at] = True
        found = self._found[run]
        return np.where(np.any(found == DAMAGED, axis=1), DAMAGED, found.min(axis=1)).astype(np.int8)


def _ranges(numbers: NDArray[np.int64]) -> str:
    """The first ranges of ascending numbers, as text."""
    parts = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    shown = [f"{part[0]:,} to {part[-1]:,}" if len(part) > 1 else f"{part[0]:,}" for part in parts[:5]]
    return ", ".join(["indices " + shown[0], *shown[1:], *(["..."] if len(parts) > 5 else [])])
