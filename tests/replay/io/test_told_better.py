"""Inputs that are easily mistaken: several Parquet files, a folder for a file, a slice for indices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from really import ReplayBuffer
from really.errors import InvalidFileError, InvalidTypeError, InvalidValueError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        buffer = ReplayBuffer(4)
        buffer.put({"reward": np.arange(4, dtype=np.float32) + 4 * number})
        buffer.to_parquet(tmp_path / f"{number}.parquet")
    return tmp_path


def rewards(buffer: ReplayBuffer) -> list[float]:
    return buffer.take(np.arange(len(buffer)))["reward"].tolist()


def test_parquet_files_of_a_folder_a_pattern_and_a_list(folder: Path) -> None:
    assert rewards(ReplayBuffer.from_parquet(folder)) == list(range(12))
    assert rewards(ReplayBuffer.from_parquet(str(folder / "[01].parquet"))) == list(range(8))
    files = [folder / "2.parquet", str(folder / "0.parquet")]
    assert rewards(ReplayBuffer.from_parquet(files)) == [8, 9, 10, 11, 0, 1, 2, 3]
    assert ReplayBuffer.from_parquet(folder, capacity=5).capacity == 5


def test_no_parquet_files_are_told(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    empty = tmp_path_factory.mktemp("empty")
    for path in (empty, empty / "*.parquet", []):
        with pytest.raises(InvalidValueError, match="path: expected a Parquet file, got none in"):
            ReplayBuffer.from_parquet(path)
    (folder / "1.parquet").write_text("no rows")
    with pytest.raises(InvalidFileError, match=r"1\.parquet: expected a Parquet file, got"):
        ReplayBuffer.from_parquet(folder)


def test_load_of_a_folder_and_open_of_a_file_name_each_other(tmp_path: Path) -> None:
    buffer = ReplayBuffer(4, path=tmp_path / "folder")
    buffer.put({"reward": np.zeros(2, np.float32)})
    buffer.save(tmp_path / "file")
    buffer.close()
    with pytest.raises(InvalidFileError, match=r"; ReplayBuffer\.open\(\) opens the folder of a buffer$"):
        ReplayBuffer.load(tmp_path / "folder")
    with pytest.raises(InvalidValueError, match=r"; ReplayBuffer\.load\(\) reads a file that save\(\) wrote$"):
        ReplayBuffer.open(tmp_path / "file")


def test_a_slice_names_arange() -> None:
    buffer = ReplayBuffer(4)
    buffer.put({"reward": np.zeros(2, np.float32)})
    with pytest.raises(InvalidTypeError, match=r"got slice\(0, 2, None\); numpy\.arange makes indices of a range$"):
        buffer.take(slice(0, 2))


def test_a_minari_data_set_gives_n_step_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    numbers = np.arange(6, dtype=np.float32)
    buffer = ReplayBuffer(6)
    ends = (numbers % 3 == 2).astype(np.float32)
    states = {"state": numbers[:, None], "state_new": numbers[:, None] + 1}
    buffer.put(states | {"action": np.zeros(6, np.int64), "reward": numbers, "terminal": ends})
    buffer.to_minari("some/steps-v0")
    of_steps = ReplayBuffer.from_minari("some/steps-v0", n_step=2, gamma=0.5)
    assert of_steps.take(np.arange(6))["reward"].tolist() == [0.5, 2, 2, 5, 6.5, 5]
    assert "episode_end" not in ReplayBuffer.from_minari("some/steps-v0").spec
    with pytest.raises(InvalidTypeError, match=r"^gamma: expected a number from 0 to 1 with n_step=3, got None$"):
        ReplayBuffer.from_minari("some/steps-v0", n_step=3)


def test_a_minari_id_with_a_folder_of_one_letter_is_told() -> None:
    buffer = ReplayBuffer(4)
    buffer.put({"reward": np.zeros(2, np.float32)})
    with pytest.raises(InvalidValueError, match=r"got 'x/y-v0'; the name of a folder has two letters or more$"):
        buffer.to_minari("x/y-v0")
