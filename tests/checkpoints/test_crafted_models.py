"""Saved models whose checksums are right but whose files ask for more, or other, than the weights of the model."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from really.checkpoints import load_model, save_model
from really.errors import FileError, ModelError
from tests.crafting import META, WEIGHTS, measure_again


class Variable:
    """What `save_model` and `load_model` need of a variable."""

    def __init__(self, value: np.ndarray) -> None:
        self.path, self.shape, self.dtype, self.value = "m/kernel", value.shape, value.dtype.name, value

    def __array__(self, dtype=None, copy=None):
        return self.value


class Model:
    """A model of one variable."""

    name = "m"

    def __init__(self, value) -> None:
        self.weights = [Variable(np.asarray(value))]

    def get_weights(self) -> list[np.ndarray]:
        return [variable.value for variable in self.weights]

    def set_weights(self, weights) -> None:
        self.weights[0].value = weights[0]

    def save(self, path) -> None:
        raise ValueError("no Keras model")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_model(Model(np.arange(4, dtype=np.float32)), tmp_path / "models", 1)


def refused(folder: Path, message: str, error: type[Exception] = FileError) -> None:
    model = Model(np.full(4, 7, np.float32))
    with pytest.raises(error, match=message) as caught:
        load_model(model, folder)
    assert str(folder) in str(caught.value)
    np.testing.assert_array_equal(model.weights[0].value, np.full(4, 7, np.float32))


def huge(file: h5py.File, path: Path) -> None:
    file.create_dataset("weights/0", shape=(1 << 31,), dtype="f4", chunks=(1 << 20,), compression="gzip")


def external_link(file: h5py.File, path: Path) -> None:
    with h5py.File(path / "other.h5", "w") as other:
        other["secret"] = np.arange(4, dtype=np.float32)
    file["weights/0"] = h5py.ExternalLink(str(path / "other.h5"), "secret")


def soft_link(file: h5py.File, path: Path) -> None:
    file["other"] = np.arange(4, dtype=np.float32)
    file["weights/0"] = h5py.SoftLink("/other")


def external_storage(file: h5py.File, path: Path) -> None:
    (path / "secret").write_bytes(b"root:x:0:0:root:")
    file.create_dataset("weights/0", shape=(4,), dtype="f4", external=[(str(path / "secret"), 0, 16)])


def virtual(file: h5py.File, path: Path) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(str(path / "other.h5"), "secret", (4,))
    file.create_virtual_dataset("weights/0", layout)


def group(file: h5py.File, path: Path) -> None:
    file.create_group("weights/0")


CRAFTED = {
    "huge": (huge, r"weights/0: expected float32 of shape \[4\], got float32 of \[2147483648\]"),
    "a link to another file": (external_link, "weights/0: expected a data set of this file, got a link"),
    "a link": (soft_link, "weights/0: expected a data set of this file, got a link"),
    "storage in another file": (external_storage, "weights/0: expected values in one piece of this file"),
    "storage in other data sets": (virtual, "weights/0: expected values in one piece of this file"),
    "a group": (group, "weights/0: expected a data set, got Group"),
    "nothing": (lambda file, path: None, "weights/0: expected a data set, got nothing"),
    "complex": (
        lambda file, path: file.create_dataset("weights/0", data=np.ones(4, np.complex64)),
        "expected float32 of shape .*got complex64",
    ),
    "text": (
        lambda file, path: file.create_dataset("weights/0", data=np.full(4, b"text")),
        r"expected float32 of shape .*got \|S4",
    ),
    "NaN": (
        lambda file, path: file.create_dataset("weights/0", data=np.array([1, np.nan, 0, 0], np.float32)),
        "expected numbers at 0, got NaN",
    ),
}


@pytest.mark.parametrize(("craft", "message"), CRAFTED.values(), ids=CRAFTED)
def test_a_file_of_other_arrays_is_refused_before_they_are_read(folder, craft, message):
    with h5py.File(folder / WEIGHTS, "r+") as file:
        del file["weights/0"]
        craft(file, folder.parent)
    measure_again(folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(folder, message)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 17, "KiB"


def test_complex_weights_are_none_of_a_real_model(folder):
    save_model(Model(np.ones(4, np.complex64)), folder.parent, 2)
    newest = max(folder.parent.iterdir())
    refused(newest, "0: expected float32, got complex64", ModelError)


def test_a_dtype_that_is_no_text_of_numpy_is_refused(folder):
    """NumPy parses repetitions in a dtype's text as Python, and raises SyntaxError."""
    measure_again(folder, lambda meta: meta["weights"][0].update(dtype=",1"))
    refused(folder, "expected .*SyntaxError")


DESCRIPTIONS = {
    "negative length": lambda meta: meta["weights"][0].update(shape=[-4]),
    "no list": lambda meta: meta.update(weights=3),
    "no name": lambda meta: meta["weights"][0].pop("name"),
    "epoch": lambda meta: meta.update(epoch="x"),
    "statistics": lambda meta: meta.update(statistics=[{"name": "state", "shape": "x"}]),
    "no statistics": lambda meta: meta.pop("statistics"),
}


@pytest.mark.parametrize("change", DESCRIPTIONS.values(), ids=DESCRIPTIONS)
def test_a_description_that_no_model_has_is_refused(folder, change):
    measure_again(folder, change)
    refused(folder, "meta.json: expected the description of a saved model")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '{"format": 1' + "0" * 5000 + "}", "1", "\udcff"])
def test_json_that_is_too_deep_or_none_is_refused(folder, text):
    (folder / META).write_text(text, errors="surrogateescape")
    refused(folder, "meta.json: expected the description of a saved model")


def test_devices_and_fifos_are_no_files(folder, tmp_path):
    import os

    copy = shutil.copytree(folder, tmp_path / folder.name)
    for name in (META, WEIGHTS):
        (copy / name).unlink()
        os.mkfifo(copy / name)
        refused(copy, f"{name}: expected")
        (copy / name).unlink()
        (copy / name).symlink_to("/dev/zero")
        refused(copy, f"{name}: expected")
        (copy / name).unlink()
        shutil.copy(folder / name, copy / name)


def test_one_changed_bit_of_a_model_is_refused(folder):
    """Each bit of the files that are read; a mutant that loads must give the weights that were saved."""
    rng = np.random.default_rng(0)
    for name in (META, WEIGHTS):
        content = (folder / name).read_bytes()
        for at in rng.integers(0, len(content), 100):
            damaged = bytearray(content)
            damaged[at] ^= 1 << rng.integers(8)
            (folder / name).write_bytes(damaged)
            model = Model(np.zeros(4, np.float32))
            try:
                load_model(model, folder)
            except (FileError, ModelError):
                continue
            np.testing.assert_array_equal(model.weights[0].value, np.arange(4))
        (folder / name).write_bytes(content)
