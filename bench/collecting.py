"""Collection side by side: `get_data()`, the bare loop in as many processes, Stable-Baselines3.

`make bench-collecting`. Every measurement has a fresh process. In each round each competitor has one turn, in an order
that rotates, and the table shows medians. `--sb3` names the Python that runs Stable-Baselines3, which needs PyTorch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.fresh import ROOT, said
from bench.published import publish

CARTPOLE = {1: 200_000, 2: 400_000, 8: 400_000, 64: 2_000_000}
# Pong in three packages: ale_py's vector environment, gymnasium's wrappers around single games, EnvPool.
PONG = ("Pong", "Pong in gymnasium", "Pong in EnvPool")
CASES = [("CartPole-v1", number) for number in CARTPOLE] + [(task, 16) for task in PONG] + [("HalfCheetah-v5", 8)]
STEPS = {**dict.fromkeys(PONG, 20_000), "HalfCheetah-v5": 60_000}
# What the bare loop runs.
LOOPED = ("CartPole-v1", "Pong", "HalfCheetah-v5")
PROCESSES = 2
# Targets in steps/s by `num_parallel`.
ASKED = {1: 50_000, 2: 90_000, 8: 105_000, 64: 500_000}


def ours(task: str, number: int) -> float:
    """Steps/s of `get_data()` after a first call, with a Ray runtime on two CPUs."""
    import ray

    import really
    from bench import models

    # Ray gives its workers niceness 15: other work on a shared machine would slow only them.
    options = {"_system_config": {"worker_niceness": 0}}
    ray.init("local", num_cpus=PROCESSES, include_dashboard=False, log_to_driver=False, **options)
    model, environment, sampling = {
        "CartPole-v1": (models.q_network, lambda: task, "epsilon_greedy"),
        "Pong": (models.pong_network, lambda: really.atari("pong"), "epsilon_greedy"),
        "Pong in gymnasium": (models.pong_network, lambda: gymnasium_pong, "epsilon_greedy"),
        "Pong in EnvPool": (models.pong_network, envpool_pong, "epsilon_greedy"),
        "HalfCheetah-v5": (models.actor, lambda: task, "continuous_normal_diagonal"),
    }[task]
    steps = STEPS.get(task) or CARTPOLE[number]
    options = {"num_steps": 128, "action_sampling_type": sampling, "epsilon": 0.1}
    with really.SampleManager(model, environment(), number, steps, **options) as manager:
        manager.get_data()
        began = time.perf_counter()
        rows = len(manager.get_data()["reward"])
        return rows / (time.perf_counter() - began)


def gymnasium_pong() -> Any:
    """One game of Pong with gymnasium's wrappers, preprocessed as by `really.atari`."""
    import ale_py
    import gymnasium
    from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

    gymnasium.register_envs(ale_py)
    game = gymnasium.make("ALE/Pong-v5", frameskip=1, repeat_action_probability=0.0, disable_env_checker=True)
    return FrameStackObservation(AtariPreprocessing(game, terminal_on_life_loss=True), 4)


def envpool_pong() -> Any:
    """Pong of EnvPool, preprocessed alike."""
    from really.envs import envpool

    return envpool("Pong-v5", episodic_life=True, reward_clip=True)


def bare(task: str, number: int) -> float:
    """Steps/s of the bare loop in `min(number, 2)` processes at once."""
    processes = min(number, PROCESSES)
    steps = (STEPS.get(task) or CARTPOLE[number]) // processes
    command = [sys.executable, "-m", "bench.collecting", "--one", "loop", task, str(number // processes), str(steps)]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for _ in range(processes)
    ]
    for process in running:
        process.stdout.readline()
    for process in running:
        process.stdin.write("go\n")
        process.stdin.flush()
    return sum(float(process.communicate()[0].split()[-1]) for process in running)


def loop(task: str, number: int, steps: int) -> float:
    """Steps/s of the bare loop in this process, which starts on a line from standard input."""
    from bench.bare_loop import LOOPS, seconds

    made = LOOPS[task](steps, number)
    warm = LOOPS[task](steps // 10, number)
    warm()
    print("ready", flush=True)
    sys.stdin.readline()
    return steps // number * number / seconds(made)


def sb3(number: int) -> float:
    """Steps/s of Stable-Baselines3 collecting CartPole with its DQN policy, as its documentation does it."""
    import torch
    from stable_baselines3 import DQN
    from stable_baselines3.common.env_util import make_vec_env

    torch.set_num_threads(1)
    env = make_vec_env("CartPole-v1", n_envs=number)
    settings = {"learning_starts": 0, "gradient_steps": 0, "train_freq": 128, "buffer_size": 100_000}
    model = DQN("MlpPolicy", env, exploration_initial_eps=0.1, exploration_final_eps=0.1, device="cpu", **settings)
    model.learn(1000 * number)
    steps = 20_000 if number < 64 else 200_000
    began = time.perf_counter()
    model.learn(steps)
    return steps / (time.perf_counter() - began)


def measure(rounds: int, other: str | None, only: str | None) -> dict[str, dict[str, float]]:
    """Median steps/s of every competitor in every case."""
    results = {}
    for task, number in CASES:
        if only and task != only:
            continue
        if task == "Pong in EnvPool" and find_spec("envpool") is None:
            results[f"{task} {number}"] = {}
            continue
        competitors = {"ours": (sys.executable, "ours", task, number)}
        if task in LOOPED:
            competitors["bare"] = (sys.executable, "bare", task, number)
        if other and task == "CartPole-v1":
            competitors["sb3"] = (other, "sb3", number)
        seen: dict[str, list[float]] = {name: [] for name in competitors}
        for at in range(rounds):
            names = list(competitors)
            for name in names[at % len(names) :] + names[: at % len(names)]:
                python, *turn = competitors[name]
                seen[name].append(float(said("bench.collecting", *turn, python=python)))
        results[f"{task} {number}"] = {name: statistics.median(rates) for name, rates in seen.items()}
        print(f"{task} {number}: {results[f'{task} {number}']}", flush=True)
    return results


def table(results: dict[str, dict[str, float]]) -> str:
    """The results as Markdown."""
    lines = [
        "| task, `num_parallel` | ours | bare loop | share | Stable-Baselines3 | ours / SB3 |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for case, rates in results.items():
        if "ours" not in rates:
            lines.append(f"| {case} | not installed | - | - | - | - |")
            continue
        bare = f"{rates['bare']:,.0f} | {rates['ours'] / rates['bare']:.0%}" if "bare" in rates else "- | -"
        peer = f"{rates['sb3']:,.0f} | {rates['ours'] / rates['sb3']:.1f} x" if "sb3" in rates else "- | -"
        lines.append(f"| {case} | {rates['ours']:,.0f} | {bare} | {peer} |")
    return "\n".join(lines) + "\n"


def summary(results: dict[str, dict[str, float]]) -> str:
    """Markdown table of CartPole alone: steps a second, and that rate in multiples of the others' rates."""
    rates = {number: results[f"CartPole-v1 {number}"] for number in CARTPOLE}
    rows = {
        "steps/s": [f"{rate['ours']:,.0f}" for rate in rates.values()],
        "of the bare loop": [f"{rate['ours'] / rate['bare']:.0%}" for rate in rates.values()],
        "\u00d7 SB3": [f"{rate['ours'] / rate['sb3']:.1f}" if "sb3" in rate else "-" for rate in rates.values()],
    }
    lines = [f"| `num_parallel` | {' | '.join(map(str, rates))} |", "| --- " * (1 + len(rates)) + "|"]
    return "\n".join(lines + [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]) + "\n"


def figure(results: dict[str, dict[str, float]], path: Path) -> None:
    """Steps/s over `num_parallel` for CartPole, and those of Pong in three packages."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from bench.colours import COLOURS

    numbers = [number for number in CARTPOLE if f"CartPole-v1 {number}" in results]
    drawing = Figure(figsize=(9.6, 3.8), layout="constrained")
    FigureCanvasAgg(drawing)
    axes, games = drawing.subplots(1, 2, width_ratios=(2, 1))
    styles = {
        "bare": ("bare loop", COLOURS["bare"], "--"),
        "ours": ("really", COLOURS["really"], "-"),
        "sb3": ("SB3", COLOURS["sb3"], "-"),
    }
    for name, (label, colour, line) in styles.items():
        rates = [results[f"CartPole-v1 {number}"].get(name) for number in numbers]
        if None not in rates:
            axes.loglog(numbers, rates, line, color=colour, marker="o", label=label)
    axes.set(xlabel="environments (num_parallel)", ylabel="steps per second", title="Collecting CartPole-v1 on 2 cores")
    axes.set_xticks(numbers, [str(number) for number in numbers])
    axes.grid(alpha=0.3)
    axes.legend()
    found = {task: results.get(f"{task} 16", {}).get("ours") for task in PONG}
    known = {"ale_py" if task == "Pong" else task.partition(" in ")[2]: rate for task, rate in found.items() if rate}
    games.bar(list(known), list(known.values()), color=COLOURS["really"])
    games.set(ylabel="steps per second", title="Pong, 16 games, by package")
    drawing.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs="+", help="one turn, in this process: what, task, number")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sb3", help="a Python that has Stable-Baselines3")
    parser.add_argument("--only", help="this task alone")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--publish", action="store_true", help="write the tables into docs/")
    arguments = parser.parse_args()
    if arguments.one:
        what, *rest = arguments.one
        turns = {"ours": ours, "bare": bare, "loop": loop, "sb3": sb3}
        print(turns[what](*(int(value) if value.isdigit() else value for value in rest)))
        return
    results = measure(arguments.rounds, arguments.sb3, arguments.only)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "collecting.json").write_text(json.dumps(results, indent=1))
    (arguments.out / "collecting.md").write_text(table(results))
    print(table(results))
    if arguments.publish:
        publish("collecting", "make bench-collecting", {"collecting": table(results), "steps": summary(results)})
    if arguments.figure:
        figure(results, arguments.figure)


if __name__ == "__main__":
    main()
