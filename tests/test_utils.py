"""The helpers of the published API, used as its scripts use them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from really import utils
from really.errors import InvalidTypeError, InvalidValueError

tf = pytest.importorskip("tensorflow")


@pytest.fixture
def columns():
    return {
        "state": np.arange(20, dtype=np.float32).reshape(10, 2),
        "action": np.arange(10),
        "reward": [float(n) for n in range(10)],
        "not_done": tf.ones(10),
    }


def test_exactly_the_helpers_are_exported():
    assert utils.__all__ == ["all_subdirs_of", "dict_to_dataset", "dict_to_dict_of_datasets", "discount_cumsum"]
    assert utils.discount_cumsum([1, 1], 0.5).tolist() == [1.5, 1.0]


def test_a_dataset_of_tuples_in_the_order_of_the_keys(columns):
    dataset, keys = utils.dict_to_dataset(columns, batch_size=4)
    assert list(keys) == ["state", "action", "reward", "not_done"]
    batches = list(dataset.as_numpy_iterator())
    assert [len(batch[0]) for batch in batches] == [4, 4, 2]
    for number, key in enumerate(keys):
        np.testing.assert_array_equal(np.concatenate([batch[number] for batch in batches]), columns[key])
    assert batches[0][1].dtype == np.int64


def test_single_rows_without_a_batch_size(columns):
    dataset, _ = utils.dict_to_dataset(columns)
    rows = list(dataset.as_numpy_iterator())
    assert len(rows) == 10
    assert rows[3][0].tolist() == [6.0, 7.0]


def test_a_dict_of_datasets_is_zipped_in_a_loop(columns):
    datasets = utils.dict_to_dict_of_datasets(columns, batch_size=5)
    seen = [
        (state.shape, float(reward[0])) for state, reward in zip(datasets["state"], datasets["reward"], strict=True)
    ]
    assert seen == [((5, 2), 0.0), ((5, 2), 5.0)]
    assert len(list(utils.dict_to_dict_of_datasets(columns)["action"])) == 10


def test_folders_are_listed_and_files_are_not(tmp_path, monkeypatch):
    for name in ("b", "a"):
        (tmp_path / name / "deeper").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    assert utils.all_subdirs_of(str(tmp_path)) == [str(tmp_path / "a"), str(tmp_path / "b")]
    monkeypatch.chdir(tmp_path)
    assert [os.path.basename(path) for path in utils.all_subdirs_of()] == ["a", "b"]


@pytest.mark.parametrize("helper", [utils.dict_to_dataset, utils.dict_to_dict_of_datasets])
def test_columns_that_make_no_dataset_are_refused(helper, columns):
    with pytest.raises(InvalidValueError, match=r"expected columns of one length, got \{.*'action': 3"):
        helper({**columns, "action": [1, 2, 3]})
    with pytest.raises(InvalidTypeError, match=r"expected a dict of columns, got list"):
        helper([1, 2])
    with pytest.raises(InvalidValueError, match=r"batch_size: expected an integer of at least 1 or None, got 0"):
        helper(columns, batch_size=0)


def test_importing_the_helpers_imports_no_large_package():
    program = "import sys, really.utils, really.metrics; print([name for name in sys.argv[1:] if name in sys.modules])"
    large = ["tensorflow", "ray", "matplotlib", "pyarrow", "h5py", "keras"]
    root = str(Path(__file__).parents[1])
    ended = subprocess.run(
        [sys.executable, "-c", program, *large],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.strip() == "[]"
