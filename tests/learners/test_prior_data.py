"""The example of prior data: a short run of both variants, and what seeds learn."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest

from tests.learners.test_learning import ROOT, run_example

SHORT = {
    "num_critics": 2,
    "updates_a_step": 1,
    "batch_size": 8,
    "learning_starts": 20,
    "steps_a_test": 60,
    "steps_without_prior": 180,
    "medium": -2000.0,  # the first test is better
    "steps_of_dataset": 800,
    "test_episodes": 3,
}


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", "")  # which the example sets
    return importlib.import_module("rlpd_pendulum")


def test_a_run_with_prior_data_takes_a_third_of_the_steps(example: Any, tmp_path: Path) -> None:
    for prior, steps in ((True, 60), (False, 180)):
        folder = tmp_path / str(prior)
        example.main(example.Args(**SHORT, prior=prior, out=str(folder), data=str(tmp_path / "data")))
        result = json.loads((folder / "result.json").read_text())
        assert (result["env_steps"], result["updates"]) == (steps, steps)
        assert -2000 < result["mean_return"] < 0
        header, *rows = (folder / "progress" / "progress.csv").read_text().splitlines()
        assert header.startswith("epoch,step,reward.mean")
        assert len(rows) == steps // 60
    data = minari.load_dataset(example.DATASET)
    assert (data.total_episodes, data.total_steps) == (5, 800)  # the first one began while the policy learned


@pytest.mark.learning
@pytest.mark.timeout(1800)
def test_prior_data_save_steps(tmp_path: Path) -> None:
    """On average over seeds: a run without prior data is worse after as many steps."""
    options = f"--data={tmp_path / 'data'}", "--test-episodes=20"
    alone, helped = [], []
    for seed in range(5):
        folder = tmp_path / f"alone_{seed}"
        result, _ = run_example("rlpd_pendulum.py", seed, folder, *options, "--no-prior", "--steps-without-prior=400")
        alone.append(result["mean_return"])
        result, _ = run_example("rlpd_pendulum.py", seed, tmp_path / f"helped_{seed}", *options)
        assert result["env_steps"] == 400
        helped.append(result["mean_return"])
    assert np.mean(helped) > np.mean(alone) + 50
