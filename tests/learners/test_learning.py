"""The examples learn, run as a user runs them: CartPole with one seed by default, all tasks with a marker."""

from __future__ import annotations

import heapq
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from really import ReplayBuffer

pytestmark = pytest.mark.xdist_group("ray")

ROOT = Path(__file__).parents[2]
KEYS = {"task", "seed", "env_steps", "updates", "mean_return", "std_return", "wall_seconds"}


def run_example(name: str, seed: int, out: Path, *options: str) -> tuple[dict[str, Any], str]:
    """Runs an example; returns the content of `result.json`, and the last line that it prints."""
    command = [sys.executable, str(ROOT / "examples" / name), "--seed", str(seed), "--out", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((out / "result.json").read_text()), done.stdout.splitlines()[-1]


def check(example: str, task: str, goal: float, seed: int, out: Path) -> None:
    result, last = run_example(example, seed, out)
    assert set(result) == KEYS
    assert (result["task"], result["seed"]) == (task, seed)
    assert result["mean_return"] >= goal
    assert result["updates"] > 0
    plot = Path(last.removeprefix("learning curve: "))
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert list((out / "models").glob("model_*/model.weights.h5"))


def run_atari(folder: Path, steps: int, *more: str) -> dict[str, Any]:
    sizes = {"steps": steps, "buffer": 2000, "learning-starts": 512, "test-every": 512, "episodes": 1, "max-steps": 50}
    arguments = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    places = ["--path", str(folder / "buffer"), "--out", str(folder / "out")]
    command = [sys.executable, str(ROOT / "examples" / "dqn_atari.py"), *arguments, *places, *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert all(unit in done.stderr for unit in ("frames=", "updates=", "buffer="))
    return dict(json.loads((folder / "out" / "result.json").read_text()))


@pytest.mark.learning
@pytest.mark.timeout(1300)
@pytest.mark.parametrize(
    ("recipe", "game", "updates"),
    [
        (("fast",), "pong", 256),
        (("published",), "pong", 128),
        (("published", "--precision", "bfloat16"), "pong", 128),
        (("fast",), "breakout", 256),
    ],
)
def test_dqn_on_pixels_resumes_with_its_buffer_on_disk(
    recipe: tuple[str, ...], game: str, updates: int, tmp_path: Path
) -> None:
    first = run_atari(tmp_path, 1024, "--recipe", *recipe, "--game", game)
    assert (first["env_steps"], first["updates"], first["buffer_rows"]) == (1024, updates, 1024)
    second = run_atari(tmp_path, 1536, "--recipe", *recipe, "--game", game, "--resume")
    assert (second["env_steps"], second["updates"], second["buffer_rows"]) == (1536, 2 * updates, 1536)
    assert second["wall_seconds"] > first["wall_seconds"]
    assert (tmp_path / "out" / "progress" / "progress.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((tmp_path / "out" / "progress" / "events").glob("events.out.tfevents.*"))) == 2
    with ReplayBuffer.open(tmp_path / "buffer") as buffer:
        assert len(buffer) == 1536
        assert buffer.memory()["ratio"] > 4


def test_dqn_learns_cartpole(tmp_path: Path) -> None:
    check("dqn_cartpole.py", "CartPole-v1", 475, 0, tmp_path)


@pytest.mark.learning
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("example", "task", "goal"),
    [
        ("dqn_cartpole.py", "CartPole-v1", 475),
        ("dqn_acrobot.py", "Acrobot-v1", -90),
        ("ppo_lunarlander.py", "LunarLanderContinuous-v3", 230),
        ("sac_pendulum.py", "Pendulum-v1", -180),
        ("gridworld.py", "gridworld", -18),
    ],
)
def test_every_seed_reaches_the_goal_of_the_task(
    example: str, task: str, goal: float, seed: int, tmp_path: Path
) -> None:
    check(example, task, goal, seed, tmp_path)


@pytest.mark.learning
def test_several_steps_are_compared_with_one(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "compare_n_step.py"), "--seeds", "2", "--out", str(tmp_path)]
    command += ["--figure", str(tmp_path / "comparison.png")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    ends = {line[:7].strip(): float(line[7:].split()[0]) for line in done.stdout.splitlines() if "(2 seeds)" in line}
    assert ends["3 steps"] > ends["1 step"] > 50
    assert (tmp_path / "comparison.svg").exists()


def test_value_iteration_finds_the_best_path_through_the_gridworld(monkeypatch: pytest.MonkeyPatch) -> None:
    """Value iteration against Dijkstra's algorithm; the path with the fewest steps is another one and costs more."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import gridworld

    def cheapest(cost_of_mud: float) -> float:
        seen, heap = set(), [(0.0, gridworld.cell_of("S"))]
        while True:
            cost, cell = heapq.heappop(heap)
            if cell == gridworld.cell_of("G"):
                return cost
            if cell not in seen:
                seen.add(cell)
                for to, reward in (gridworld.neighbour(cell, action) for action in range(4)):
                    heapq.heappush(heap, (cost + (1.0 if reward == -1.0 else cost_of_mud), to))

    assert gridworld.best_return() == -cheapest(5.0) == -18
    assert cheapest(1.0) == 14


def values_and_gradients(layer: Any, seen: Any) -> tuple[Any, Any, Any]:
    import tensorflow as tf

    with tf.GradientTape() as tape:
        if seen.dtype != tf.uint8:
            tape.watch(seen)
        values = layer(seen)
        loss = tf.reduce_sum(tf.sin(values))
    return values, *tape.gradient(loss, [layer.kernel.value, seen])


def of_tiles(kernel: Any, edge: int) -> Any:
    """A kernel `[2 edge, 2 edge, channel, filter]` as `[row, column, y, x, channel, filter]`, by tiles."""
    channels, filters = kernel.shape[2:]
    return np.asarray(kernel).reshape(2, edge, 2, edge, channels, filters).transpose(0, 2, 1, 3, 4, 5)


def test_a_network_of_bfloat16_has_the_values_of_one_of_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for roundings; its weights, its last layers and the gradients are float32."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import tensorflow as tf
    from dqn_atari import RECIPES, QNetwork

    recipe = RECIPES["fast"]
    networks = [
        QNetwork(6, recipe.first, recipe.convolutions, recipe.hidden, recipe.dueling, dtype)
        for dtype in ("float32", "mixed_bfloat16")
    ]
    pixels = tf.constant(np.random.default_rng(0).integers(0, 256, (5, 4, 42, 42), dtype=np.uint8))
    single, mixed = (network(pixels)["q_values"] for network in networks)
    assert single.dtype == mixed.dtype == tf.float32
    networks[1].set_weights(networks[0].get_weights())
    with tf.GradientTape() as tape:
        mixed = networks[1](pixels)["q_values"]
    gradients = tape.gradient(mixed, [weight.value for weight in networks[1].trainable_variables])
    assert {gradient.dtype for gradient in gradients} == {tf.float32}
    np.testing.assert_allclose(mixed, single, atol=0.03 * np.abs(single).max())
    assert not np.array_equal(mixed, single)


@pytest.mark.parametrize(("edge", "size"), [(4, 84), (2, 42)])
def test_the_layer_of_pixels_is_a_convolution(edge: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values and gradient of dqn_atari.py's first layer are those of Keras' layer."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import tensorflow as tf
    from dqn_atari import PixelConvolution

    tf.keras.utils.set_random_seed(0)
    pixels = tf.constant(np.random.default_rng(0).integers(0, 256, (3, 4, size, size), dtype=np.uint8))
    scaled = tf.transpose(tf.cast(pixels, tf.float32) / 255.0, [0, 2, 3, 1])
    layer, keras = PixelConvolution(16, edge), tf.keras.layers.Conv2D(16, 2 * edge, edge, activation="relu")
    layer(pixels)
    keras.build(scaled.shape)
    by_stack = np.moveaxis(of_tiles(keras.kernel, edge), 4, 2)  # row, column, stack, y, x, filter
    layer.kernel.assign(by_stack.reshape(layer.kernel.shape))
    values, gradient, _ = values_and_gradients(layer, pixels)
    expected, by_kernel, _ = values_and_gradients(keras, scaled)
    np.testing.assert_allclose(values, expected, atol=1e-5)
    by_tile = np.moveaxis(of_tiles(by_kernel, edge), 4, 2).reshape(gradient.shape)
    np.testing.assert_allclose(gradient, by_tile, rtol=1e-4, atol=1e-3)


def test_the_layer_that_halves_is_a_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values and gradients of dqn_atari.py's second layer are those of Keras' layer for 4 x 4."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import tensorflow as tf
    from dqn_atari import HalvingConvolution

    tf.keras.utils.set_random_seed(0)
    seen = tf.constant(np.random.default_rng(0).normal(size=(3, 20, 20, 16)).astype(np.float32))
    layer, keras = HalvingConvolution(32), tf.keras.layers.Conv2D(32, 4, 2, activation="relu")
    layer(seen)
    keras.build(seen.shape)
    layer.kernel.assign(of_tiles(keras.kernel, 2).reshape(layer.kernel.shape))
    values, gradient, by_input = values_and_gradients(layer, seen)
    expected, by_kernel, by_input_expected = values_and_gradients(keras, seen)
    np.testing.assert_allclose(values, expected, atol=1e-5)
    np.testing.assert_allclose(by_input, by_input_expected, atol=1e-4)
    np.testing.assert_allclose(gradient, of_tiles(by_kernel, 2).reshape(gradient.shape), rtol=1e-4, atol=1e-3)


def test_the_wide_layer_is_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values and gradients of dqn_atari.py's hidden layer are those of Keras' layer."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import tensorflow as tf
    from dqn_atari import Hidden

    tf.keras.utils.set_random_seed(0)
    seen = tf.constant(np.random.default_rng(0).normal(size=(5, 30)).astype(np.float32))
    layer, keras = Hidden(20), tf.keras.layers.Dense(20, activation="relu")
    layer(seen)
    keras.build(seen.shape)
    keras.set_weights(layer.get_weights())
    for found, expected in zip(values_and_gradients(layer, seen), values_and_gradients(keras, seen), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def write_run(folder: Path, seed: int, returns: list[str]) -> None:
    result = {"task": "CartPole-v1", "seed": seed, "env_steps": 400, "updates": 40, "wall_seconds": 2.0}
    (folder / "progress").mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({**result, "mean_return": 480.0 + seed, "std_return": 1.5}))
    rows = "".join(f"{epoch},0.5,0.0,{mean},0.0\n" for epoch, mean in enumerate(returns, 1))
    (folder / "progress" / "progress.csv").write_text("epoch,loss.mean,loss.std,reward.mean,reward.std\n" + rows)


def test_the_report_is_a_table_and_a_figure(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "dqn_cartpole_0", 0, ["", "20.0", "", "40.0"])
    write_run(tmp_path / "runs" / "dqn_cartpole_1", 1, ["10.0", "30.0", "50.0", ""])
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / "report.py"), "--figure"]
    figure, folder = tmp_path / "learning.png", tmp_path / "runs"
    done = subprocess.run([*command, str(figure), str(folder)], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    row = "| `examples/dqn_cartpole.py` | CartPole-v1 | 0, 1 | 480.0 ± 1.5, 481.0 ± 1.5 | 400 | 40 | 2 |"
    assert done.stdout.splitlines()[-1] == row
    assert figure.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("folder", "options"),
    [
        ("dqn_atari_recipe_fast", "--recipe fast"),
        ("dqn_atari_recipe_fast_precision_bfloat16", "--recipe fast --precision bfloat16"),
        ("dqn_atari_game_ms_pacman_recipe_fast", "--game ms_pacman --recipe fast"),
    ],
)
def test_the_report_names_the_game_and_the_recipe_of_a_run(folder: str, options: str, tmp_path: Path) -> None:
    run, figure = tmp_path / f"{folder}_0", tmp_path / "learning.svg"
    write_run(run, 0, ["", "20.0"])
    (run / "result.json").write_text(json.dumps({**json.loads((run / "result.json").read_text()), "tested": "3 games"}))
    command = [sys.executable, str(ROOT / "examples" / "report.py"), "--figure", str(figure), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1].startswith(f"| `examples/dqn_atari.py {options}` | CartPole-v1 | 0 |")
    drawn = figure.read_text()
    assert f"<!-- CartPole-v1 (dqn_atari.py {options.replace('--', '- -')}), 3 games -->" in drawn
    assert "greedy episodes in between" in drawn
    assert "exploring" not in drawn


def test_the_report_names_the_backend_of_a_run(tmp_path: Path) -> None:
    write_run(tmp_path / "keras_any_jax_0", 0, ["20.0"])
    command = [sys.executable, str(ROOT / "examples" / "report.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1].startswith("| `KERAS_BACKEND=jax examples/keras_any.py` | CartPole-v1 | 0 |")


def write_tests(folder: Path, seed: int, successes: list[float], task: str = "T-maze of length 20") -> None:
    result = {"task": task, "seed": seed, "env_steps": 300, "updates": 40, "wall_seconds": 2.0}
    (folder / "progress").mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({**result, "success": successes[-1]}))
    rows = "".join(f"{epoch},{100 * epoch},{part},0.0\n" for epoch, part in enumerate(successes, 1))
    (folder / "progress" / "progress.csv").write_text("epoch,step,success.mean,success.std\n" + rows)


def test_the_report_says_when_tests_reached_the_goal_and_draws_variants_in_one_panel(tmp_path: Path) -> None:
    for seed, successes in enumerate(([0.5, 0.96, 0.9], [0.2, 0.3, 0.4])):
        write_tests(tmp_path / "runs" / f"t_maze_{seed}", seed, successes)
        write_tests(tmp_path / "runs" / f"t_maze_no_memory_{seed}", seed, [0.5, 0.5, 0.5])
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / "report.py"), "--figure"]
    figure, folder = tmp_path / "variants.svg", tmp_path / "runs"
    done = subprocess.run([*command, str(figure), str(folder)], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "| `examples/t_maze.py` | T-maze of length 20 | 0, 1 | 90.0 %, 40.0 % | 300 | 40 | 2 |" in lines
    assert "| `examples/t_maze.py` | 95 % | 200, never |" in lines
    assert "| `examples/t_maze.py --no-memory` | 95 % | never, never |" in lines
    titles = re.findall(r"<!-- (.*t_maze.*) -->", figure.read_text())
    assert sorted(titles) == ["T-maze of length 20 (t_maze.py)", "t_maze.py"]


def test_a_task_without_a_goal_has_a_row_and_a_curve_alone(tmp_path: Path) -> None:
    write_tests(tmp_path / "t_maze_0", 0, [0.5, 0.96], "T-maze of length 7")
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / "report.py"), "--figure"]
    figure = tmp_path / "curve.svg"
    done = subprocess.run([*command, str(figure), str(tmp_path)], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("| `examples/t_maze.py` | T-maze of length 7 | 0 | 96.0 % |")
    assert "<!-- T-maze of length 7 (t_maze.py) -->" in figure.read_text()


def test_a_run_without_an_episode_has_no_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import report

    write_run(tmp_path / "dqn_cartpole_0", 0, ["", ""])
    with pytest.raises(SystemExit, match=r"expected returns of episodes in .*progress\.csv, got none"):
        report.draw(report.runs_by_example([tmp_path]), tmp_path / "learning.png")


def test_a_learning_curve_is_the_mean_of_the_last_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import report

    returns = [str(float(number)) for number in range(20)]
    returns[3] = ""  # no episode ended
    write_run(tmp_path / "dqn_cartpole_0", 0, returns)
    ((run,),) = report.runs_by_example([tmp_path]).values()
    steps, means = report.learning_curve(run)
    numbers = [float(mean) for mean in returns if mean]
    assert steps.tolist() == [20.0 * number for number in range(1, 21) if number != 4]
    expected = [sum(numbers[max(0, end - 10) : end]) / min(10, end) for end in range(1, 20)]
    assert means.tolist() == pytest.approx(expected)
