"""A handler of a signal that saves while the interrupted call saves: an error, where it would wait for itself."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from really._utils import atomic_folders
from really.errors import LockedError


def fill(folder: Path, number: int) -> None:
    (folder / atomic_folders.META).write_text(f'{{"number": {number}}}')


def test_a_handler_that_saves_amid_a_save_is_told_and_the_save_goes_on(tmp_path: Path) -> None:
    told = []

    def save(number: int, frame: object) -> None:
        atomic_folders.write(tmp_path / "elsewhere", "checkpoint", fill)
        with pytest.raises(LockedError, match="path: expected one save at a time, got one in the middle of another"):
            atomic_folders.write(tmp_path / "here", "checkpoint", fill)
        told.append(number)

    def interrupted(folder: Path, number: int) -> None:
        signal.raise_signal(signal.SIGUSR1)
        fill(folder, number)

    before = signal.signal(signal.SIGUSR1, save)
    try:
        folders = [atomic_folders.write(tmp_path / "here", "checkpoint", interrupted) for _ in range(2)]
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert told == [signal.SIGUSR1] * 2
    assert sorted((tmp_path / "here").iterdir()) == folders
    assert len(list((tmp_path / "elsewhere").iterdir())) == 2
    atomic_folders.write(tmp_path / "here", "checkpoint", fill)
