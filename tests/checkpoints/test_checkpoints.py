"""Saved models: every kind of model, foreign folders, damaged files, and the contents of a folder."""

import json
import os

import numpy as np
import pytest

from really.checkpoints.saved_models import load_model, newest_checkpoint, save_model
from really.errors import InvalidTypeError, InvalidValueError, ModelError

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")


class Called(keras.Model):
    """Overrides `call`, keeps layers in a list, and takes an argument that does not serialise."""

    def __init__(self, units=(8, 8), activation=None):
        super().__init__()
        self.hidden = [keras.layers.Dense(n, activation=activation or "relu") for n in units]
        self.norm = keras.layers.BatchNormalization()
        self.out = keras.layers.Dense(2)

    def call(self, x):
        for layer in self.hidden:
            x = layer(x)
        return {"q_values": self.out(self.norm(x))}


class Overridden(keras.Model):
    """Overrides `__call__`, so that Keras never marks it as built."""

    def __init__(self):
        super().__init__()
        self.hidden, self.out = keras.layers.Dense(5), keras.layers.Dense(2)

    @tf.function
    def __call__(self, x):
        return {"q_values": self.out(self.hidden(x))}


def functional():
    inputs = keras.Input((4,))
    return keras.Model(inputs, {"q_values": keras.layers.Dense(2)(keras.layers.Dense(3)(inputs))})


def mixed():
    return Called(activation=lambda x: x * 2)


def bfloat16():
    model = functional()
    return keras.models.clone_model(
        model, clone_function=lambda layer: layer.__class__.from_config({**layer.get_config(), "dtype": "bfloat16"})
    )


def build(make):
    model = make()
    model(tf.ones((1, 4)))
    return model


def values(model):
    return [np.asarray(weight, np.float64) for weight in model.weights]


@pytest.mark.parametrize("make", [Called, Overridden, functional, mixed, bfloat16])
def test_weights_come_back_exactly_in_a_new_model_of_the_class(make, tmp_path):
    saved = build(make)
    folder = save_model(saved, tmp_path / "deep" / "down", 7, "dqn")
    fresh = build(make)
    assert any(not np.array_equal(a, b) for a, b in zip(values(saved), values(fresh), strict=True))
    assert load_model(fresh, tmp_path / "deep" / "down") == 7
    for expected, found in zip(values(saved), values(fresh), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert load_model(fresh, folder) == 7


def test_the_contents_of_a_folder(tmp_path):
    folder = save_model(build(functional), tmp_path, np.int64(12))
    assert folder.parent == tmp_path
    assert folder.name.startswith("model_12_20")
    assert sorted(os.listdir(folder)) == ["meta.json", "model.keras", "model.weights.h5"]
    meta = json.loads((folder / "meta.json").read_text())
    assert (meta["format"], meta["epoch"], meta["keras"]) == ("really-checkpoint-2", 12, "model.keras")
    assert [weight["shape"] for weight in meta["weights"]] == [[4, 3], [3], [3, 2], [2]]
    assert {weight["dtype"] for weight in meta["weights"]} == {"float32"}


def test_the_keras_file_loads_with_safe_mode_on(tmp_path):
    model = build(functional)
    folder = save_model(model, tmp_path, 1)
    again = keras.models.load_model(folder / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(again(tf.ones((1, 4)))["q_values"], model(tf.ones((1, 4)))["q_values"])


def test_the_newest_model_is_loaded_and_other_entries_are_ignored(tmp_path):
    model = build(functional)
    for epoch in (100, 3, 20):
        folder = save_model(model, tmp_path, epoch, f"name_{epoch}")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "model_9_99990101T000000-000000").write_text("not a folder")
    (tmp_path / "model_9_99990101T000000-000000.1.partial").mkdir()
    (tmp_path / "zzz").mkdir()
    assert newest_checkpoint(tmp_path) == folder
    assert load_model(model, tmp_path) == 20


LAST_INSTANT = "99991231T235959-999999"


@pytest.mark.parametrize("time", ["20990101T000000-000000", LAST_INSTANT, "20261399T999999-000000"])
def test_the_model_saved_last_is_loaded_also_if_the_clock_went_back(time, tmp_path):
    model = build(functional)
    for epoch in (1, 2):
        folder = save_model(model, tmp_path, epoch)
        folder.rename(folder.with_name(f"model_{epoch}_{time}"))
    for epoch in (3, 2):
        folder = save_model(model, tmp_path, epoch, f"name_{epoch}")
        assert newest_checkpoint(tmp_path) == folder
        assert load_model(model, tmp_path) == epoch
    assert newest_checkpoint(tmp_path, "model").name == f"model_2_{time}"


def test_a_folder_that_only_has_the_name_of_a_model_is_ignored(tmp_path):
    model = build(functional)
    (tmp_path / f"model_9_{LAST_INSTANT}").mkdir()
    (tmp_path / f"model_9_{LAST_INSTANT}" / "notes.txt").write_text("mine")
    folder = save_model(model, tmp_path, 4)
    assert newest_checkpoint(tmp_path) == folder
    assert folder.name.startswith("model_4_20")


def test_saves_in_quick_succession_are_all_kept(tmp_path):
    model = build(Overridden)
    folders = [save_model(model, tmp_path, 1) for _ in range(5)]
    assert sorted(tmp_path.iterdir()) == folders


def test_a_failed_save_leaves_nothing_behind(tmp_path):
    class Broken(Overridden):
        @property
        def weights(self):
            return [*super().weights, object()]

    with pytest.raises(AttributeError):
        save_model(Broken(), tmp_path, 1)
    assert list(tmp_path.iterdir()) == []


def test_the_error_for_a_folder_without_models_lists_its_entries(tmp_path):
    model = build(functional)
    with pytest.raises(InvalidValueError, match=r"expected folders <model_name>_<epoch>_<time>.*but it is empty"):
        load_model(model, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InvalidValueError, match=r"but it holds 'notes.txt'"):
        load_model(model, tmp_path)
    with pytest.raises(InvalidValueError, match=r"got '.*nowhere': no folder"):
        load_model(model, tmp_path / "nowhere")


def test_weights_of_another_model_are_refused_and_nothing_changes(tmp_path):
    save_model(build(Called), tmp_path, 1)
    other = build(functional)
    before = values(other)
    with pytest.raises(ModelError, match=r"expected weights of this model \(dense.*\[4, 3\].*got .*\[4, 8\]"):
        load_model(other, tmp_path)
    for expected, found in zip(before, values(other), strict=True):
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(ModelError, match=r"expected a built model before weights are loaded"):
        load_model(Called(), tmp_path)


def test_same_shapes_under_other_names_are_refused(tmp_path):
    def named(name):
        inputs = keras.Input((4,))
        return keras.Model(inputs, keras.layers.Dense(2, name=name)(inputs))

    save_model(named("policy"), tmp_path, 1)
    with pytest.raises(ModelError, match=r"got policy/kernel"):
        load_model(named("value"), tmp_path)


def test_the_name_of_the_model_itself_does_not_matter(tmp_path):
    saved, fresh = (keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name=name) for name in ("a", "b"))
    save_model(saved, tmp_path, 1)
    assert load_model(fresh, tmp_path) == 1
    np.testing.assert_array_equal(values(fresh)[0], values(saved)[0])


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("meta.json", b"{}", r"meta.json: expected the description of a saved model"),
        ("meta.json", b"[", r"meta.json: expected the description of a saved model"),
        ("meta.json", b'{"format": "other"}', r"expected format 'really-checkpoint-2', got 'other'"),
        ("model.weights.h5", b"x" * 100, r"model.weights.h5: expected [0-9,]+ bytes, got 100"),
    ],
)
def test_a_damaged_model_raises_and_no_older_one_is_loaded(tmp_path, file, content, message):
    model = build(functional)
    save_model(model, tmp_path, 1)
    (save_model(model, tmp_path, 2) / file).write_bytes(content)
    with pytest.raises(InvalidValueError, match=message):
        load_model(model, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"epoch": 1.5}, InvalidTypeError, r"epoch: expected an integer >= 0, got 1.5"),
        ({"epoch": True}, InvalidTypeError, r"epoch: expected an integer >= 0, got True"),
        ({"epoch": -1}, InvalidValueError, r"epoch: expected an integer >= 0, got -1"),
        ({"model_name": "a/b"}, InvalidValueError, r"model_name: expected a name .* without path separators"),
        ({"model_name": "a\nb"}, InvalidValueError, r"model_name: expected a name that can be printed.*got 'a\\nb'"),
        ({"model_name": "a\ud800"}, InvalidValueError, r"model_name: expected a name that can be printed"),
        ({"model_name": ""}, InvalidValueError, r"model_name: expected"),
        ({"model": dict}, InvalidTypeError, r"model: expected a tf.keras.Model, or an object with get_weights"),
    ],
)
def test_arguments_are_checked_before_anything_is_written(tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        save_model(**{"model": build(functional), "path": tmp_path / "new", "epoch": 1, **arguments})
    assert not (tmp_path / "new").exists()


def test_a_path_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidValueError, match=r"path: expected a folder that can be written, got '.*below'"):
        save_model(build(functional), tmp_path / "file" / "below", 1)
