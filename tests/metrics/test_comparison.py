"""Learning curves over seeds: their numbers against SciPy, their files, and the errors for runs that do not compare."""

from __future__ import annotations

import logging
import os
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from really import InvalidTypeError, InvalidValueError, compare
from really.metrics.aggregator import Aggregator
from really.metrics.comparison import STATISTICS, bootstrap, smoothed
from really.metrics.plots import COLOURS, LABEL_HEIGHT, _without_overlap


def record(path: Path, **values: Any) -> Path:
    """Writes a run's folder with an aggregator that gets these values, a list for each key."""
    aggregator = Aggregator(path, saving_after=10**6, aggregator_keys=list(values))
    for row in zip(*values.values(), strict=True):
        aggregator.update(**dict(zip(values, row, strict=True)))
    return path


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, list[Path]]:
    rng = np.random.default_rng(0)
    return {
        name: [record(tmp_path / f"{name}_{seed}", reward=rng.normal(level, 1, 20)) for seed in range(5)]
        for name, level in (("low", 0), ("high", 10))
    }


def test_the_curve_is_the_statistic_of_the_smoothed_seeds(tmp_path: Path) -> None:
    folders = [record(tmp_path / str(seed), reward=[seed, seed + 2, seed + 4]) for seed in range(4)]
    curve = compare({"a": folders}, max_size=2)["a"]
    np.testing.assert_array_equal(curve.epochs, [1, 2, 3])
    np.testing.assert_array_equal(curve.seeds, [[seed, seed + 1, seed + 3] for seed in range(4)])
    np.testing.assert_array_equal(curve.mean, [1.5, 2.5, 4.5])
    assert (curve.low < curve.mean).all()
    assert (curve.high > curve.mean).all()


@pytest.mark.parametrize("seeds", [1, 3, 4, 5, 8, 10])
def test_statistics_equal_those_of_scipy(seeds: int) -> None:
    values = np.random.default_rng(seeds).normal(size=(2, seeds, 7))
    np.testing.assert_allclose(STATISTICS["iqm"](values), scipy.stats.trim_mean(values, 0.25, axis=1))
    np.testing.assert_allclose(STATISTICS["median"](values), np.median(values, axis=1))
    np.testing.assert_allclose(STATISTICS["mean"](values), np.mean(values, axis=1))


@pytest.mark.parametrize("statistic", ["mean", "iqm"])
def test_the_interval_equals_the_percentile_bootstrap_of_scipy(statistic: str) -> None:
    values = np.random.default_rng(1).normal(size=(10, 120))
    low, high = bootstrap(values, STATISTICS[statistic], 0.9, np.random.default_rng(2))

    def of(sample: np.ndarray, axis: int) -> np.ndarray:
        return STATISTICS[statistic](np.moveaxis(sample, axis, -2))

    theirs = scipy.stats.bootstrap(
        (values,), of, axis=0, confidence_level=0.9, method="percentile", n_resamples=2000, rng=np.random.default_rng(3)
    ).confidence_interval
    np.testing.assert_allclose(low, theirs.low, atol=0.15)
    np.testing.assert_allclose(high, theirs.high, atol=0.15)


def test_the_same_seed_gives_the_same_interval(runs: dict[str, list[Path]]) -> None:
    first, again, other = compare(runs), compare(runs), compare(runs, seed=1)
    np.testing.assert_array_equal(first["low"].low, again["low"].low)
    assert (first["low"].low != other["low"].low).any()
    text = str(first)
    assert text.startswith("mean of reward at the end, with its 95% interval\nlow ")
    assert text.count("(5 seeds)") == 2


def test_curves_end_with_the_shortest_seed_or_hold_its_last_value(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folders = [record(tmp_path / "short", reward=[1, 1]), record(tmp_path / "long", reward=[3, 3, 3, 3])]
    cut = compare({"a": folders}, path=tmp_path / "figure")
    np.testing.assert_array_equal(cut["a"].epochs, [1, 2])
    np.testing.assert_array_equal(cut["a"].ends, [2, 4])
    assert "a: shown up to 2, where its shortest seed ends; others go on to 4" in caplog.text
    assert "(2 seeds, to 2 of 4)" in str(cut)
    assert "2 seeds, to 2 of 4" in (tmp_path / "figure.svg").read_text()
    held = compare({"a": folders}, hold_last=True)
    np.testing.assert_array_equal(held["a"].epochs, [1, 2, 3, 4])
    np.testing.assert_array_equal(held["a"].mean, [2, 2, 2, 2])
    assert "(2 seeds, the shortest held from 2)" in str(held)


def test_iqm_of_few_seeds_warns_that_it_is_the_mean(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folders = [record(tmp_path / str(seed), reward=[seed, seed]) for seed in range(4)]
    compare({"a": folders}, statistic="iqm")
    assert "iqm" not in caplog.text
    found = compare({"a": folders[:3]}, statistic="iqm")
    np.testing.assert_array_equal(found["a"].mean, [1, 1])
    assert "a: expected 4 seeds or more for iqm, got 3: it is the mean" in caplog.text


def test_a_huge_value_does_not_change_the_curve_after_it() -> None:
    values = np.array([1e20, 1.0, 2.0, 3.0, 4.0, 5.0])
    np.testing.assert_array_equal(smoothed(values, 2)[2:], [1.5, 2.5, 3.5, 4.5])
    for window in (1, 2, 6, 100):
        expected = [values[max(0, at + 1 - window) : at + 1].mean() for at in range(len(values))]
        np.testing.assert_allclose(smoothed(values, window), expected)


def test_another_key_can_be_the_x_axis(tmp_path: Path) -> None:
    folders = [
        record(tmp_path / "a", reward=[0, 10], steps=[100, 300]),
        record(tmp_path / "b", reward=[0, 20, 40], steps=[100, 200, 300]),
    ]
    curve = compare({"a": folders}, x="steps", max_size=1)["a"]
    np.testing.assert_array_equal(curve.epochs, [100, 200, 300])
    np.testing.assert_array_equal(curve.mean, [0, 12.5, 25])
    with pytest.raises(InvalidValueError, match="an x-axis that grows with each update, got 'reward'"):
        compare([record(tmp_path / "c", reward=[1, 1], steps=[1, 2])], "steps", x="reward")


def test_incomplete_rows_and_rows_without_a_finite_number_are_left_out(tmp_path: Path) -> None:
    folder = record(tmp_path / "a", reward=[1.0, float("nan"), [], 4.0], loss=[0.0] * 4)
    with (folder / "progress.csv").open("a") as file:
        file.write("5,1")
    curve = compare([folder, record(tmp_path / "b", reward=[0] * 4)], max_size=1)["a"]
    np.testing.assert_array_equal(curve.seeds, [[1, 4]])


def test_a_single_seed_is_drawn_without_interval_and_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = compare([record(tmp_path / "only" / "progress", reward=[1, 2])], path=tmp_path / "figure")
    (curve,) = found.curves.values()
    assert np.isnan(curve.low).all()
    assert np.isnan(curve.high).all()
    assert "expected several seeds for an interval, got 1" in caplog.text
    assert "1 seed, no interval" in str(found)
    assert "1 seed, no interval" in (tmp_path / "figure.svg").read_text()


def test_a_single_point_is_visible(tmp_path: Path) -> None:
    compare({"a": [record(tmp_path / str(seed), reward=[seed]) for seed in range(2)]}, path=tmp_path / "figure")
    drawn = ET.parse(tmp_path / "figure.svg").getroot().iterfind(".//{http://www.w3.org/2000/svg}use")
    assert any(COLOURS[0].lower() in use.get("style", "") for use in drawn), "a marker"


def test_the_figure_has_two_formats_with_names_and_colours(runs: dict[str, list[Path]], tmp_path: Path) -> None:
    out = tmp_path / "figures"
    found = compare(runs, path=out / "learning.png", y_label="return [points]", x_label="$x [updates]")
    assert sorted(os.listdir(out)) == ["learning.png", "learning.svg"]
    assert (out / "learning.png").read_bytes().startswith(b"\x89PNG")
    text = (out / "learning.svg").read_text()
    ET.fromstring(text)
    for expected in ("return [points]", "$x [updates]", "low (5 seeds)", *(colour.lower() for colour in COLOURS[:2])):
        assert expected in text
    assert found.plot(out / "again") == out / "again.png"


def test_labels_do_not_overlap() -> None:
    rng = np.random.default_rng(0)
    for number in range(1, 16):
        places = _without_overlap(sorted(rng.uniform(0.4, 0.6, number)))
        assert (np.diff(places) > LABEL_HEIGHT - 1e-9).all()
        assert max(places) <= 1


def test_folders_are_named_by_the_parts_that_differ(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    folders = [record(tmp_path / name / "progress", reward=[1, 2]) for name in ("dqn_0", "ppo_0")]
    assert list(compare(folders).curves) == ["dqn_0", "ppo_0"]
    assert list(compare([tmp_path / "dqn_0"]).curves) == ["dqn_0"]


def test_runs_that_do_not_compare_are_refused(tmp_path: Path) -> None:
    folder = record(tmp_path / "a", reward=[1.0], empty=[[]])
    (tmp_path / "file").write_text("")
    (tmp_path / "taken.svg").mkdir()
    cases: list[tuple[Any, dict[str, Any], str]] = [
        ([tmp_path / "none"], {}, "with an aggregator's progress.csv, got '.*none': no folder"),
        ([tmp_path], {}, "got '.*': a folder without"),
        (
            [folder],
            {"key": "rewards"},
            "expected one of 'empty', 'reward', got 'rewards'. Did you mean",
        ),
        ([folder], {"x": "steps"}, "expected one of 'empty', 'reward', got 'steps'"),
        ([folder], {"key": "empty"}, "expected values of 'empty', got none"),
        ([folder, folder], {}, "expected different folders"),
        ([], {}, "expected at least one folder, got none"),
        ([folder], {"statistic": "mode"}, "statistic: expected one of 'iqm', 'mean', 'median', got 'mode'"),
        ([folder], {"confidence": 95}, "confidence: expected a number between 0 and 1, got 95"),
        ([folder], {"max_size": 0}, "max_size: expected an integer >= 1, got 0"),
        ([folder], {"path": tmp_path / "file" / "x"}, "path: expected a folder that can be written"),
        (
            [folder],
            {"path": tmp_path / "taken"},
            "path: .*taken.svg: expected a figure to replace, or nothing, got a folder",
        ),
        ({"a": [folder, tmp_path / "b" / ".." / "a"]}, {}, "runs: expected a folder a seed of 'a', got one twice"),
        ([folder], {"path": tmp_path / "figure.pdf"}, "path: expected .png, .svg or no ending: .* got '.*figure.pdf'"),
        ([folder], {"key": ["reward"]}, r"key: expected the name of one key, got \['reward'\]"),
        ([folder], {"path": ""}, "path: expected the name of a figure, got ''"),
    ]
    for runs, options, message in cases:
        with pytest.raises((InvalidValueError, InvalidTypeError), match=message):
            compare(runs, **options)
    for bad in ([], [3], 3):
        with pytest.raises(InvalidTypeError, match="expected a folder or a list of folders for 'a', got"):
            compare({"a": bad})
