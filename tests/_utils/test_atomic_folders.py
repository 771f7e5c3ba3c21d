"""A save in a signal's handler is an error, where it would wait for itself; folders that others put beside saves."""

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


NAMES = atomic_folders.names_of("checkpoint")
TIMES = ("99991231T235959-999999", "99991231T235959-999998", "20261399T999999-000000", "20990101T000000-000000")
DESCRIPTIONS = ("{", "[]", "null", '{"number": -1}', *(f'{{"number": {2**60 + more}}}' for more in (-2, -1, 0)))


@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize("description", DESCRIPTIONS)
def test_a_save_is_the_newest_whatever_lies_beside_it(time: str, description: str, tmp_path: Path) -> None:
    """Another's folder has a far time, or none, and a description that is damaged or has one of the last numbers."""
    atomic_folders.write(tmp_path, "checkpoint", fill)
    stray = tmp_path / f"checkpoint_{time}"
    stray.mkdir()
    (stray / atomic_folders.META).write_text(description)
    for _ in range(4):
        saved = atomic_folders.write(tmp_path, "checkpoint", fill, keep=2)
        assert saved.exists()
        assert atomic_folders.newest(tmp_path, "checkpoint") == saved
    assert atomic_folders.found(tmp_path, NAMES)[-1] == saved


def test_a_folder_without_number_and_time_is_ignored_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved = atomic_folders.write(tmp_path, "checkpoint", fill)
    stray = tmp_path / f"checkpoint_{TIMES[0]}"
    stray.mkdir()
    (stray / "agent.h5").write_bytes(b"mine")
    atomic_folders.write(tmp_path, "checkpoint", fill, keep=1)
    assert stray.exists()
    assert not saved.exists()
    assert not caplog.records
    assert atomic_folders.newest(tmp_path, "checkpoint") != stray
    assert [record.getMessage() for record in caplog.records] == [
        f"{stray} is ignored: expected a number and a time of a save, but neither can be read"
    ]
