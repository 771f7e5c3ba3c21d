"""The aggregator: its inputs, its numbers, its files at any end of the process, and its errors."""

import csv
import math
import os
import resource
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from really.errors import FileError, InvalidTypeError, InvalidValueError
from really.metrics.aggregator import Aggregator, Curve
from really.metrics.comparison import compare
from really.metrics.plots import COLOURS, MOST_POINTS


def rows(path):
    with (path / "progress.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def fill(path, epochs, **kwargs):
    aggregator = Aggregator(path, saving_after=1000, **kwargs)
    for epoch in range(epochs):
        aggregator.update(loss=float(epoch))
    return aggregator


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5), min_size=1, max_size=20), st.integers(1, 7))
def test_the_smoothed_curve_is_mean_and_spread_of_the_last_updates(updates, window):
    curve = Curve("loss", window)
    for epoch, values in enumerate(updates):
        curve.add(epoch, np.mean(values), np.std(values))
        last = updates[max(0, epoch + 1 - window) : epoch + 1]
        # Each update counts equally: values are repeated until all updates have the same number of them.
        pooled = np.concatenate([np.tile(values, 60 // len(values)) for values in last])
        np.testing.assert_allclose(curve.smoothed[-1], pooled.mean(), rtol=1e-9, atol=1e-6)
        np.testing.assert_allclose(curve.bands[-1], pooled.std(), rtol=1e-6, atol=1e-3)
    assert len(curve.smoothed) == len(curve.bands) == len(curve.epochs) == len(updates)


def test_values_of_all_supported_types_are_averaged_to_one_point(tmp_path):
    tf = pytest.importorskip("tensorflow")
    values = [
        2,
        2.0,
        True + 1,
        np.float32(2),
        [1, 3],
        (1.0, 3.0),
        np.array([[1, 3], [0, 4]]),
        tf.constant(2.0),
        tf.constant([[1.0, 3.0]], tf.bfloat16),
        tf.Variable([1.0, 3.0]),
        [tf.constant(1.0), tf.constant(3.0)],
        [[1], [2, 3], 2, np.array([2.0]), [[tf.constant([2.0])], []]],
    ]
    aggregator = Aggregator(tmp_path, aggregator_keys=["x"], saving_after=1000)
    for value in values:
        aggregator.update(x=value)
    assert aggregator.curves["x"].means == [2.0] * len(values)
    assert aggregator.curves["x"].spreads[4:6] == [1.0, 1.0]


def test_every_update_is_on_disk_before_the_call_returns(tmp_path):
    aggregator = Aggregator(tmp_path, aggregator_keys=["loss", "reward"], saving_after=1000)
    aggregator.update(loss=[1.0, 3.0])
    aggregator.update(reward=5, loss=[])
    aggregator.update(loss=0.1, reward=float("nan"))
    assert [list(row.values()) for row in rows(tmp_path)] == [
        ["1", "2.0", "1.0", "", ""],
        ["2", "", "", "5.0", "0.0"],
        ["3", "0.1", "0.0", "nan", "nan"],
    ]
    assert list(rows(tmp_path)[0]) == ["epoch", "loss.mean", "loss.std", "reward.mean", "reward.std"]
    assert not aggregator.plot_path.exists()


def test_nothing_is_lost_when_the_process_is_killed(tmp_path):
    program = (
        "import os, signal, sys; from really.metrics.aggregator import Aggregator\n"
        "aggregator = Aggregator(sys.argv[1])\n"
        "for number in range(13): aggregator.update(loss=number)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path)], env={**os.environ, "PYTHONPATH": str(root)})
    assert ended.returncode < 0
    assert [float(row["loss.mean"]) for row in rows(tmp_path)] == list(range(13))
    assert sorted(os.listdir(tmp_path)) == ["progress.csv", "progress.png", "progress.svg"]


def test_a_plot_is_drawn_every_saving_after_updates(tmp_path):
    aggregator = Aggregator(tmp_path, saving_after=3)
    drawn = []
    for number in range(7):
        aggregator.update(loss=number)
        drawn.append(aggregator.plot_path.exists())
        aggregator.plot_path.unlink(missing_ok=True)
    assert drawn == [False, False, True, False, False, True, False]
    assert aggregator.plot() == tmp_path / "progress.png" == aggregator.plot_path
    assert aggregator.plot_path.read_bytes().startswith(b"\x89PNG")
    assert sorted(os.listdir(tmp_path)) == ["progress.csv", "progress.png", "progress.svg"]


@pytest.mark.parametrize("keys", [["loss"], ["a", "b", "c"], [f"k{n}" for n in range(9)], ["$x_1$ {broken", "a,b"]])
def test_each_key_has_a_panel_in_its_own_colour(tmp_path, keys):
    aggregator = Aggregator(tmp_path, aggregator_keys=keys)
    for number in range(12):
        aggregator.update(**{key: [number, number + 1] for key in keys[:-1] or keys})
    svg = ET.parse(aggregator.plot().with_suffix(".svg"))
    panels = [group for group in svg.iter() if group.get("id", "").startswith("axes_")]
    assert len(panels) == len(keys) + (len(keys) % 2 if len(keys) > 3 else 0)
    text = (tmp_path / "progress.svg").read_text()
    assert all(colour.lower() in text for colour in COLOURS[: len(keys) - 1])


def test_plots_leave_out_values_that_are_not_finite(tmp_path):
    aggregator = Aggregator(tmp_path, saving_after=4)
    for value in (1.0, float("inf"), float("nan"), 1e300):
        aggregator.update(loss=value)
    assert aggregator.plot_path.exists()
    assert [row["loss.mean"] for row in rows(tmp_path)] == ["1.0", "inf", "nan", "1e+300"]


def test_a_long_run_keeps_its_plot_small(tmp_path):
    aggregator = Aggregator(tmp_path, saving_after=10**6)
    curve = aggregator.curves["loss"]
    for epoch in range(20 * MOST_POINTS):
        curve.add(epoch, epoch % 7, 0.0)
    aggregator.plot()
    assert (tmp_path / "progress.svg").stat().st_size < 500_000


def test_plots_do_not_change_the_global_state_of_matplotlib(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    fill(tmp_path, 3).plot()
    assert dict(matplotlib.rcParams) == before
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_init_epoch_continues_the_stored_curve(tmp_path):
    before = fill(tmp_path, 6)
    after = fill(tmp_path, 2, init_epoch=6)
    assert after.curves["loss"].epochs == [1, 2, 3, 4, 5, 6, 7, 8]
    assert after.curves["loss"].smoothed[:6] == before.curves["loss"].smoothed
    assert [row["epoch"] for row in rows(tmp_path)] == list("12345678")
    assert os.listdir(tmp_path) == ["progress.csv"]


def test_to_resume_from_an_earlier_epoch_keeps_later_rows_in_another_file(tmp_path):
    fill(tmp_path, 6)
    after = fill(tmp_path, 1, init_epoch=4)
    assert after.curves["loss"].epochs == [1, 2, 3, 4, 5]
    assert [row["loss.mean"] for row in rows(tmp_path)] == ["0.0", "1.0", "2.0", "3.0", "0.0"]
    assert len((tmp_path / "progress_1.csv").read_text().splitlines()) == 7
    again = fill(tmp_path, 1)
    assert again.curves["loss"].epochs == [1]
    assert sorted(os.listdir(tmp_path)) == ["progress.csv", "progress_1.csv", "progress_2.csv"]


def test_an_aggregator_with_other_keys_continues_the_keys_in_common(tmp_path):
    fill(tmp_path, 2)
    after = fill(tmp_path, 1, init_epoch=2, aggregator_keys=["reward", "loss"])
    assert after.curves["loss"].means == [0.0, 1.0, 0.0]
    assert [list(row.values())[1:] for row in rows(tmp_path)] == [["", "", f"{n}.0", "0.0"] for n in (0, 1, 0)]


def test_an_incomplete_last_line_is_left_out(tmp_path):
    fill(tmp_path, 2)
    with (tmp_path / "progress.csv").open("a") as file:
        file.write("3,0.12")
    after = fill(tmp_path, 1, init_epoch=3)
    assert after.curves["loss"].epochs == [1, 2, 4]
    assert [row["epoch"] for row in rows(tmp_path)] == ["1", "2", "4"]


@pytest.mark.parametrize("where", [True, "elsewhere"])
def test_event_files_have_the_scalars(tmp_path, where):
    tf = pytest.importorskip("tensorflow")
    folder = tmp_path / "tensorboard" if where is True else tmp_path / where
    aggregator = Aggregator(tmp_path, max_size=2, tensorboard=True if where is True else folder)
    for value in (1.0, 3.0):
        aggregator.update(loss=value)
    (file,) = folder.iterdir()
    records = tf.data.TFRecordDataset(str(file)).as_numpy_iterator()
    events = [tf.compat.v1.Event.FromString(record) for record in records]
    found = [
        (event.step, value.tag, float(tf.make_ndarray(value.tensor)), value.metadata.plugin_data.plugin_name)
        for event in events
        for value in event.summary.value
    ]
    expected = [(1, "mean", 1.0), (1, "smoothed", 1.0), (2, "mean", 3.0), (2, "smoothed", 2.0)]
    assert found == [(step, f"loss/{what}", value, "scalars") for step, what, value in expected]


@pytest.mark.parametrize(("init_epoch", "steps"), [(3, [1, 2, 3, 4]), (0, [1])])
def test_tensorboard_drops_steps_after_the_epoch_that_a_run_resumes_from(tmp_path, init_epoch, steps):
    pytest.importorskip("tensorflow")
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.plugin_event_accumulator")
    tensors = pytest.importorskip("tensorboard.util.tensor_util")
    first = Aggregator(tmp_path, tensorboard=True)
    for value in range(6):
        first.update(loss=value)
    Aggregator(tmp_path, tensorboard=True, init_epoch=init_epoch).update(loss=100.0)
    # TensorBoard's accumulator reads files in the order of their names, which start with the second of their creation.
    old, new = sorted((tmp_path / "tensorboard").iterdir(), key=lambda file: file.stat().st_mtime_ns)
    new.rename(new.with_name(old.name + ".later"))
    accumulator = accumulators.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    found = accumulator.Tensors("loss/mean")
    assert [event.step for event in found] == steps
    assert float(tensors.make_ndarray(found[-1].tensor_proto)) == 100.0


def test_an_undeclared_key_is_refused_with_the_declared_ones(tmp_path):
    aggregator = Aggregator(tmp_path, aggregator_keys=["loss", "reward"])
    with pytest.raises(InvalidValueError, match=r"expected one of 'loss', 'reward', got 'los'. Did you mean 'loss'"):
        aggregator.update(loss=1, los=2)
    assert (aggregator.epoch, aggregator.curves["loss"].means, rows(tmp_path)) == (0, [], [])


@pytest.mark.parametrize("value", ["3.5", None, {"a": 1}, [1.0, "2"], [[1], [None]], 1j, object(), {1.0}])
def test_values_that_are_no_numbers_are_refused_with_their_key(tmp_path, value):
    aggregator = Aggregator(tmp_path, aggregator_keys=["loss", "reward"])
    with pytest.raises(InvalidTypeError, match=r"expected numbers at 'reward', got"):
        aggregator.update(loss=1, reward=value)
    assert (aggregator.epoch, rows(tmp_path)) == (0, [])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"saving_after": 0}, InvalidValueError, "saving_after: expected an integer >= 1, got 0"),
        ({"max_size": 2.5}, InvalidTypeError, "max_size: expected an integer >= 1, got 2.5"),
        ({"init_epoch": -1}, InvalidValueError, "init_epoch: expected an integer >= 0, got -1"),
        ({"aggregator_keys": "loss"}, InvalidTypeError, r"expected a list of names, got 'loss' \(str\)"),
        ({"aggregator_keys": None}, InvalidTypeError, r"expected a list of names, got None \(NoneType\)"),
        (
            {"units": {"los": "nats"}},
            InvalidValueError,
            "units: expected one of 'loss', got 'los'",
        ),
        ({"units": {"loss": 3}}, InvalidTypeError, "units: expected text at 'loss', got 3"),
        ({"aggregator_keys": []}, InvalidValueError, "aggregator_keys: expected at least one name"),
        ({"aggregator_keys": ["a", 3]}, InvalidTypeError, "aggregator_keys: expected names, got 3"),
    ],
)
def test_arguments_are_checked(tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        Aggregator(tmp_path, **arguments)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["path", "tensorboard"])
def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path, name):
    pytest.importorskip("tensorflow")
    (tmp_path / "file").write_text("")
    folders = {"path": tmp_path / "plots", name: tmp_path / "file" / "below"}
    with pytest.raises(InvalidValueError, match=rf"{name}: expected a folder that can be written, got '.*below'"):
        Aggregator(**folders)


def test_axes_show_units(tmp_path):
    aggregator = Aggregator(tmp_path, aggregator_keys=["loss", "reward"], units={"reward": "points"})
    aggregator.update(loss=1, reward=2)
    text = aggregator.plot().with_suffix(".svg").read_text()
    assert "reward [points]" in text
    assert ">loss<" in text or "<!-- loss -->" in text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("progress.csv", "path: expected a file that can be written, got '.*progress.csv'"),
        ("progress.png", "path: .*progress.png: expected a figure to replace, or nothing, got a folder"),
        ("progress.svg", "path: .*progress.svg: expected a figure to replace, or nothing, got a folder"),
    ],
)
def test_a_file_name_in_use_is_refused_at_once(tmp_path, name, message):
    (tmp_path / name).mkdir()
    with pytest.raises(InvalidValueError, match=message):
        Aggregator(tmp_path)


@pytest.mark.parametrize("name", ["path", "tensorboard"])
def test_an_argument_that_is_no_path_is_refused_at_once(tmp_path, name):
    pytest.importorskip("tensorflow")
    with pytest.raises(InvalidTypeError, match=f"{name}: expected a path, got 3"):
        Aggregator(**{"path": tmp_path, name: 3})


def test_the_error_for_a_full_disk_names_the_file(tmp_path):
    aggregator = Aggregator(tmp_path)
    aggregator.csv_path.unlink()
    aggregator.csv_path.symlink_to("/dev/full")
    with pytest.raises(FileError, match=r"progress.csv: expected to write values, but No space left on device"):
        aggregator.update(loss=1)


def test_an_empty_panel_gives_the_reason_and_a_long_name_is_broken_into_lines(tmp_path):
    name = "mean_of_the/largest_q_values_of_all_states"
    aggregator = Aggregator(tmp_path, aggregator_keys=["never", "lost", name])
    aggregator.update(lost=float("nan"), **{name: -1.5})
    text = aggregator.plot().with_suffix(".svg").read_text()
    for shown in ("no values yet", "no value is finite", "mean_of_the/largest_q_", "values_of_all_states", "−1.5"):  # noqa: RUF001
        assert f"<!-- {shown} -->" in text


def test_the_file_of_another_program_is_refused_and_not_changed(tmp_path):
    (tmp_path / "progress.csv").write_text("time/iterations,rollout/ep_rew_mean\n1,20.5\n")
    with pytest.raises(InvalidValueError, match="path: expected an aggregator's file, or none, got another's"):
        Aggregator(tmp_path)
    assert (tmp_path / "progress.csv").read_text().endswith("1,20.5\n")


def test_a_run_that_resumes_from_a_checkpoint_keeps_its_events(tmp_path):
    pytest.importorskip("tensorflow")
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.plugin_event_accumulator")
    first = Aggregator(tmp_path / "run", tensorboard=True)
    for _ in range(5):
        first.update(loss=1.0)
    first.write_csv(tmp_path / "saved.csv")
    again = Aggregator(tmp_path / "run", tensorboard=True)
    again.resume(tmp_path / "saved.csv", 5)
    again.update(loss=2.0)
    folder = tmp_path / "run" / "tensorboard"
    old, new = sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime_ns)
    new.rename(new.with_name(old.name + ".later"))
    found = accumulators.EventAccumulator(str(folder)).Reload().Tensors("loss/mean")
    assert [event.step for event in found] == [1, 2, 3, 4, 5, 6]


def test_a_line_that_a_full_disk_cut_is_removed(tmp_path):
    aggregator = Aggregator(tmp_path)
    aggregator.update(loss=1)
    whole, limits = aggregator.csv_path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 3, limits[1]))
    try:
        with pytest.raises(FileError, match=r"progress.csv: expected to write values"):
            aggregator.update(loss=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert aggregator.csv_path.read_bytes() == whole
    aggregator.update(loss=3)
    assert aggregator.csv_path.read_bytes() == whole + b"3,3.0,0.0\n"


DAMAGED_LINES = {
    "another key": ("epoch,loss.mean,lost.std\n1,2.0,0.0\n", "line 1: expected epoch, then"),
    "no epoch": ("epoch,loss.mean,loss.std\n1,2.0,0.0\nx,2.0,0.0\n3,2.0,0.0\n", "line 3: expected an epoch after 1"),
    "an epoch twice": ("epoch,loss.mean,loss.std\n1,2.0,0.0\n1,2.0,0.0\n", "line 3: expected an epoch after 1"),
    "a long epoch": ("epoch,loss.mean,loss.std\n" + "9" * 5000 + ",1.0,0.0\n", "line 2: expected an epoch after -1"),
    "a value too few": (
        "epoch,loss.mean,loss.std\n1,2.0\n2,2.0,0.0\n",
        "line 2: expected .* and 2 values, got '1,2.0'",
    ),
    "a value too many": ("epoch,loss.mean,loss.std\n1,2.0,0.0,1.0\n", "line 2: expected .* and 2 values"),
    "no deviation": ("epoch,loss.mean,loss.std\n1,2.0,\n", "line 2: expected a mean and a deviation, or neither, got"),
    "no number": ("epoch,loss.mean,loss.std\n1,2.0,0_0\n", "line 2: expected numbers, got '1,2.0,0_0'"),
    "an empty line": ("epoch,loss.mean,loss.std\n\n1,2.0,0.0\n", "line 2: expected an epoch"),
    "an open quote": ('epoch,loss.mean,loss.std\n1,"2.0,0.0\n', "expected the values of an aggregator"),
    "no text": ("epoch,loss.mean,loss.std\n1,\udcff.0,0.0\n", "expected the values of an aggregator"),
}


@pytest.mark.parametrize(("text", "message"), DAMAGED_LINES.values(), ids=DAMAGED_LINES)
def test_a_damaged_line_is_named_and_no_row_is_dropped(tmp_path, text, message):
    content = text.encode(errors="surrogateescape")
    (tmp_path / "progress.csv").write_bytes(content)
    with pytest.raises(FileError, match=rf"progress.csv: {message}"):
        Aggregator(tmp_path, init_epoch=5)
    assert (tmp_path / "progress.csv").read_bytes() == content


def test_steps_are_the_axis_of_csv_plots_and_comparisons(tmp_path):
    aggregator = Aggregator(tmp_path, aggregator_keys=["loss", "reward"])
    aggregator.update(step=np.int64(1000), loss=1.0)
    aggregator.update(step=2500.5, loss=2.0, reward=3.0)
    assert rows(tmp_path)[0] == {
        "epoch": "1",
        "step": "1000",
        "loss.mean": "1.0",
        "loss.std": "0.0",
        "reward.mean": "",
        "reward.std": "",
    }
    assert aggregator.curves["loss"].x == [1000, 2500.5]
    assert aggregator.curves["reward"].x == [2500.5]
    aggregator.plot()
    assert "<!-- step -->" in (tmp_path / "progress.svg").read_text()
    assert compare({"a": [tmp_path]}, "loss", x="step")["a"].epochs.tolist() == [1000.0, 2500.5]


def test_steps_continue_after_init_epoch_and_resume(tmp_path):
    first = Aggregator(tmp_path / "a")
    for step in (10, 20, 30):
        first.update(step=step, loss=step)
    first.write_csv(tmp_path / "saved.csv")
    again = Aggregator(tmp_path / "a", init_epoch=2)
    assert again.curves["loss"].x == [10, 20]
    with pytest.raises(InvalidValueError, match="step: expected a number >= 20"):
        again.update(step=19, loss=0.0)
    again.update(step=25, loss=0.0)
    other = Aggregator(tmp_path / "b")
    other.resume(tmp_path / "saved.csv", 3)
    assert other.curves["loss"].x == [10, 20, 30]
    other.update(step=30, loss=0.0)
    assert [row["step"] for row in rows(tmp_path / "b")] == ["10", "20", "30", "30"]


def test_all_updates_have_a_step_or_none_has(tmp_path):
    aggregator = Aggregator(tmp_path)
    aggregator.update(loss=1.0)
    with pytest.raises(InvalidValueError, match="step: expected one in every update or in none, got 5 where those"):
        aggregator.update(loss=1.0, step=5)
    assert (aggregator.epoch, list(rows(tmp_path)[0])) == (1, ["epoch", "loss.mean", "loss.std"])
    other = Aggregator(tmp_path / "other")
    for step, expected in ((math.nan, "step: expected a finite number"), ("x", "step: expected a finite number")):
        with pytest.raises((InvalidValueError, InvalidTypeError), match=expected):
            other.update(loss=1.0, step=step)
    other.update(loss=1.0, step=5)
    with pytest.raises(InvalidValueError, match="got None where the updates before have one"):
        other.update(loss=1.0)
    assert other.epoch == 1


def test_a_key_named_step_is_a_key(tmp_path):
    aggregator = Aggregator(tmp_path, aggregator_keys=["step", "loss"])
    aggregator.update(step=[1, 3], loss=1.0)
    assert aggregator.curves["step"].means == [2.0]
    assert aggregator.curves["loss"].x == [1]
