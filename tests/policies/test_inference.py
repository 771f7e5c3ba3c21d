"""Export and inference: exports that agree with the model are taken, others rejected; runners need no TensorFlow."""

import json
import os
import pickle
import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

from really.agents.models import ModelBuilder, build_model
from really.agents.tensorflow import export as exporting
from really.agents.tensorflow.export import export
from really.agents.verification import random_leaves
from really.data.spaces import nest
from really.errors import ModelError
from really.policies.inference import load
from really.policies.model_state import ModelState
from really.policies.outputs import OutputForms
from tests import models

BOX = spaces.Box(-np.inf, np.inf, (4,))
FRAMES = spaces.Box(0, 255, (84, 84, 4), np.uint8)
IMAGE_AND_SPEED = spaces.Dict(image=spaces.Box(0, 255, (8, 8, 1), np.uint8), speed=spaces.Box(-1, 1, (3,)))

EXPORTABLE = [
    (models.QNet, BOX),
    (models.QNet, spaces.Box(-np.inf, np.inf, (17,), np.float64)),
    (models.functional, BOX),
    (models.DecoratedCall, BOX),
    (models.OwnCall, BOX),
    (models.DecoratedOwnCall, BOX),
    (models.NestedDecorated, BOX),
    (models.ActorCritic, BOX),
    (models.Policy, BOX),
    (models.Normalised, BOX),
    (models.DictModel, IMAGE_AND_SPEED),
    (models.OneHot, spaces.Discrete(6)),
]
PYTHON_ONLY = [
    (models.Dropping, "changes its state while acting"),
    (models.Noisy, r"randomness \(RandomStandardNormal\)"),
    (models.Counting, "differs from the model's"),
    (models.InNumPy, "cannot be traced: .*numpy"),
    (models.Branching, "cannot be traced: .*tf.Tensor"),
    (models.Frozen, "do not depend on its weights"),
    (models.IntegerWeights, "weights of dtype int32"),
]


def build(maker, space, **kwargs):
    tf.keras.utils.set_random_seed(0)
    return build_model(maker, kwargs, None, space)


def exported_from(maker, space, batch_size=3, **kwargs):
    model = build(maker, space, **kwargs)
    return model, export(model, space, batch_size, ModelBuilder(maker, kwargs, None, space))


def observations(space, rows, seed=5):
    return random_leaves(space, rows, np.random.default_rng(seed))


def other_weights(model, seed=9):
    return exporting._random_weights(ModelState(model), np.random.default_rng(seed))


def expect_agreement(forward, model, space, rows):
    """Asserts that `forward` gives the outputs of the model, under its weights and under others that are set later."""
    for weights in (model.get_weights(), other_weights(model)):
        model.set_weights(weights)
        forward.set_weights(weights)
        leaves = observations(space, rows)
        expected = model(nest(space, leaves))
        got = forward(leaves)
        assert set(got) == set(expected)
        for name, value in got.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("maker", "space"), EXPORTABLE, ids=lambda x: getattr(x, "__name__", ""))
def test_exports_use_new_weights_at_any_batch_size(maker, space):
    model, exported = exported_from(maker, space)
    assert exported.kind.startswith("litert")
    for rows in (1, 2, 7):
        expect_agreement(load(exported, rows), model, space, rows)


@pytest.mark.parametrize(("maker", "reason"), PYTHON_ONLY, ids=lambda x: getattr(x, "__name__", ""))
def test_models_that_cannot_be_exported_run_as_python(maker, reason):
    model, exported = exported_from(maker, BOX)
    assert exported.kind == "eager"
    assert re.search(reason, exported.report["eager"])
    forward = load(pickle.loads(pickle.dumps(exported)), 3)
    forward.set_weights(model.get_weights())
    assert forward(observations(BOX, 3))["q_values"].shape == (3, 2)


def test_dropout_stays_random_in_the_runner():
    model, exported = exported_from(models.Dropping, BOX)
    forward = load(exported, 3)
    forward.set_weights(model.get_weights())
    leaves = observations(BOX, 3)
    assert not np.array_equal(forward(leaves)["q_values"], forward(leaves)["q_values"])


def test_python_side_effects_happen_in_each_call_in_the_runner():
    _, exported = exported_from(models.Counting, BOX)
    forward, leaves = load(exported, 3), observations(BOX, 3)
    first, second = forward(leaves)["q_values"], forward(leaves)["q_values"]
    np.testing.assert_allclose(second - first, 1.0, atol=1e-5)


def test_a_table_for_one_state_at_a_time_returns_a_batch():
    space = spaces.Discrete(6)
    table = models.Table()
    forms = OutputForms({"q_values": (2,)}, frozenset(), True, {})
    builder = ModelBuilder(models.Table, {}, False, space, framework="callable")
    exported = export(table, space, 3, builder, False, forms, ["q_values"])
    forward = load(exported, 3)
    forward.set_weights([np.arange(12, dtype=np.float32).reshape(6, 2)])
    got = forward([np.array([4, 0, 5])])["q_values"]
    np.testing.assert_array_equal(got, [[8, 9], [0, 1], [10, 11]])


@pytest.mark.parametrize(
    "maker", [models.QNet, models.DecoratedCall, models.DecoratedOwnCall, models.ActorCritic, models.Normalised]
)
def test_every_kind_agrees_with_the_model(maker, monkeypatch):
    monkeypatch.setattr(exporting, "NOTHING_TO_GAIN", 0)
    monkeypatch.setattr(exporting, "GOOD_WITHOUT_TENSORFLOW", 0)
    model = build(maker, BOX)
    _, report = found = measured(model)
    assert set(found[0]) == {"litert", "litert_static", "xla", "tf.function"}, report
    for exported in found[0].values():
        forward = load(pickle.loads(pickle.dumps(exported)), 2)
        assert forward.kind == exported.kind
        expect_agreement(forward, model, BOX, 2)


def measured(model, batch_size=2):
    leaves = exporting.model_leaves(BOX)
    trials = exporting._trials(exporting._InForm(model, None, ()), ModelState(model), BOX, batch_size)
    base = exporting.Exported(
        "eager", b"", leaves, tuple(trials[0].expected), tuple(tuple(each.shape) for each in model.weights)
    )
    function = exporting._trace(model, ModelState(model), BOX, leaves)
    found, report = exporting._measure(function, base, trials, batch_size)
    return {candidate.kind: candidate for candidate in found}, report


def test_an_export_that_ignores_its_weights_is_rejected():
    """The function was traced with its variables, so it is right only under the weights of that time."""
    model = build(models.DecoratedCall, BOX)
    trials = exporting._trials(exporting._InForm(model, None, ()), ModelState(model), BOX, 2)
    frozen = [tf.constant(weight) for weight in model.get_weights()]

    @tf.function(autograph=False)
    def ignores(x0, *weights):
        return [exporting._call_with(model, ModelState(model), frozen, x0)["q_values"]]

    specs = [tf.TensorSpec((None, 4), tf.float32, "x0")]
    specs += [tf.TensorSpec(w.shape, w.dtype, f"w{at}") for at, w in enumerate(frozen)]
    base = exporting.Exported(
        "litert", b"", exporting.model_leaves(BOX), ("q_values",), tuple(tuple(each.shape) for each in model.weights)
    )
    wrong = replace(base, payload=exporting._convert(ignores.get_concrete_function(*specs)))
    with pytest.raises(exporting._CannotExportError, match="'q_values' differs from the model's by"):
        exporting._verify_and_time(wrong, trials, 2)
    one_set = trials[:1]
    assert exporting._verify_and_time(wrong, one_set, 2)[0] > 0


def test_nature_cnn_is_exported_with_packed_weights_and_uint8_frames():
    model, exported = exported_from(models.NatureCNN, FRAMES, batch_size=2)
    assert exported.kind == "litert_static", exported.report
    assert set(exported.report) == {"litert", "litert_static", "xla", "tf.function"}
    assert exported.leaves[""].dtype == np.uint8
    expect_agreement(load(exported, 2), model, FRAMES, 2)


def test_the_report_has_the_time_of_a_kind_or_why_it_was_not_tried():
    _, exported = exported_from(models.QNet, BOX)
    assert "µs a call with 3 states" in exported.report["litert"]
    assert exported.report["xla"].startswith("not tried: a call takes")


@pytest.mark.parametrize("maker", [models.QNet, models.DecoratedOwnCall, models.Normalised, models.Dropping])
def test_export_changes_neither_the_model_nor_random_states(maker):
    model = build(maker, BOX)
    space = spaces.Box(-1, 1, (4,), seed=3)
    variables = [variable.numpy().copy() for variable in model.variables]
    expected_sample = spaces.Box(-1, 1, (4,), seed=3).sample()
    decorated = type(model).__call__
    tf.random.set_seed(1)
    expected_draw = float(tf.random.normal(()))
    tf.random.set_seed(1)
    states = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    export(model, space, 2, ModelBuilder(maker, {}, None, space))
    assert states == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    assert float(tf.random.normal(())) == expected_draw
    np.testing.assert_array_equal(space.sample(), expected_sample)
    assert type(model).__call__ is decorated
    assert not tf.config.functions_run_eagerly()
    for before, after in zip(variables, model.variables, strict=True):
        np.testing.assert_array_equal(before, after.numpy())


@pytest.mark.parametrize(("maker", "hidden"), [(models.QNet, 64), (models.QNet, 256)])
def test_a_row_does_not_depend_on_the_batch_it_is_in(maker, hidden):
    """So seeded data are the same for any number of runners."""
    model, exported = exported_from(maker, BOX, batch_size=1, hidden=hidden)
    leaves, outputs = observations(BOX, 40), {}
    for rows in (1, 2, 3, 5, 8, 40):
        forward = load(exported, rows)
        forward.set_weights(model.get_weights())
        outputs[rows] = forward([leaf[:rows] for leaf in leaves])["q_values"].copy()
    for rows, got in outputs.items():
        np.testing.assert_array_equal(got, outputs[40][:rows])


@pytest.mark.parametrize("kind", ["litert", "eager"])
def test_weights_of_another_model_are_refused(kind):
    model, exported = exported_from(models.QNet, BOX)
    exported = replace(exported, kind=kind, build=ModelBuilder(models.QNet, {}, None, BOX), observation_space=BOX)
    forward = load(exported, 3)
    with pytest.raises(ModelError, match=r"weights: expected 6 arrays"):
        forward.set_weights(model.get_weights()[:-1])
    other = build(models.QNet, BOX, num_actions=3)
    with pytest.raises(ModelError, match=r"weights\[4\].*: expected shape \[64, 2\], got \[64, 3\]"):
        forward.set_weights(other.get_weights())


def test_acting_with_litert_does_not_import_tensorflow(tmp_path):
    model, exported = exported_from(models.QNet, BOX)
    (tmp_path / "exported").write_bytes(pickle.dumps((exported, model.get_weights())))
    script = """
import pickle, sys
import numpy as np
from gymnasium import spaces
from really.policies.inference import load
from really.policies.model_state import ModelState
from really.policies.policy import make_policy
exported, weights = pickle.load(open(sys.argv[1], "rb"))
forward, policy = load(exported, 3), make_policy("epsilon_greedy", spaces.Discrete(2))
forward.set_weights(weights)
outputs = forward([np.ones((3, 4))])
actions = policy.sample(outputs, policy.noise(np.random.default_rng(0), 3))
print(actions.shape, "tensorflow" in sys.modules, "keras" in sys.modules)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "exported")]
    got = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert got.stdout.strip() == "(3,) False False"


def test_kinds_that_need_tensorflow_run_with_one_thread_in_a_new_process(tmp_path):
    model, eager = exported_from(models.Dropping, BOX, batch_size=2)
    other = build(models.QNet, BOX)
    function = exporting._trace(other, ModelState(other), BOX, eager.leaves)
    shapes = tuple(tuple(each.shape) for each in other.weights)
    base = replace(eager, output_names=("q_values",), weight_shapes=shapes, build=None)
    compiled = exporting._graph(function, base, "xla")
    pairs = [(eager, model.get_weights()), (compiled, other.get_weights())]
    (tmp_path / "exported").write_bytes(pickle.dumps(pairs))
    script = """
import pickle, sys
import numpy as np
from really.policies.inference import load
from really.policies.model_state import ModelState
pairs = pickle.load(open(sys.argv[1], "rb"))
for exported, weights in pairs:
    forward = load(exported, 2)
    forward.set_weights(weights)
    print(forward.kind, forward([np.ones((2, 4))])["q_values"].tolist(), flush=True)
import tensorflow as tf
print("threads", tf.config.threading.get_intra_op_parallelism_threads())
"""
    command = [sys.executable, "-c", script, str(tmp_path / "exported")]
    folder = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}"}
    got = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, env=environment)
    kinds = [line.split(" ", 1) for line in got.stdout.splitlines()]
    assert [kind for kind, _ in kinds] == ["eager", "xla", "threads"]
    assert kinds[2][1] == "1"
    expected = other(np.ones((2, 4), np.float32))["q_values"]
    np.testing.assert_allclose(np.array(json.loads(kinds[1][1])), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_memory_that_litert_moves_is_not_accessed_at_its_old_address():
    """MALLOC_PERTURB_ overwrites freed memory at once: reading it gives wrong outputs, writing it ends the process."""
    environment = {**os.environ, "MALLOC_PERTURB_": "165", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, str(Path(__file__).parents[1] / "moving_memory.py")]
    got = subprocess.run(command, capture_output=True, text=True, timeout=180, env=environment)
    assert got.returncode == 0, got.stdout + got.stderr[-2000:]
    assert len(got.stdout.splitlines()) == 4 * 2 * 2 * 2


@pytest.mark.parametrize(("units", "kind"), [(16, "litert"), (1024, "litert_static")])
def test_a_repeatable_export_does_not_depend_on_timing(monkeypatch, units, kind):
    def maker():
        state = tf.keras.Input((4,))
        hidden = tf.keras.layers.Dense(units, activation="relu")(state)
        hidden = tf.keras.layers.Dense(units, activation="relu")(hidden)
        return tf.keras.Model(state, {"q_values": tf.keras.layers.Dense(2)(hidden)})

    model = build_model(maker, {}, None, BOX)
    for slower in ("litert", "litert_static"):
        # Simulates a loaded machine: the candidate that is timed first, or a later one, appears slow.
        seconds = iter([1.0, 1e-6, 1e-6, 1e-6] if slower == "litert" else [1e-6, 1.0, 1.0, 1.0])
        monkeypatch.setattr(exporting, "seconds_per_call", lambda *_, seconds=seconds: next(seconds))
        assert export(model, BOX, 3, ModelBuilder(maker, {}, None, BOX), repeatable=True).kind == kind


@pytest.mark.parametrize(
    ("calls", "kind"), [(1, "litert"), (2, "litert"), (4, "litert_static"), (200, "litert_static")]
)
def test_packed_weights_are_taken_if_they_change_seldom_enough(monkeypatch, calls, kind):
    seconds = {"litert": (6e-3, 1e-4), "litert_static": (3e-3, 9e-3)}
    monkeypatch.setattr(exporting, "_verify_and_time", lambda candidate, *_: seconds[candidate.kind])
    model = build(models.QNet, BOX)
    assert export(model, BOX, 3, ModelBuilder(models.QNet, {}, None, BOX), calls=calls).kind == kind
