"""DQN from pixels: where an update's time goes, and the whole loop beside that of Stable-Baselines3.

`make bench-pixels`; with `--publish` it writes the tables into docs/performance.md. Every measurement has a fresh
process.

- The loop: both packages play Pong in 8 environments and learn with the network, batch, rates and schedule of
  `examples/dqn_atari.py --recipe published`, at its last epsilon. Each has all cores. The clock starts after some
  updates. With `--precision bfloat16` hidden layers learn in that type; weights are float32, and agents act in it.
- The update: processor time on one thread, of the example's learner and of networks that are written in another way.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import models
from bench.fresh import ROOT, said
from bench.published import publish

STACK, SCREEN, ACTIONS = 4, 84, 6
START, WARM, STEPS, ROWS = 1_024, 1_024, 4_096, 20_000  # environment steps; rows of the buffers
ROUNDS, SECONDS = 5, 0.5

# Title -> how the network is written, its precision, and the environment variables of its process.
NETWORKS: dict[str, tuple[str, str, dict[str, str]]] = {
    "the example's: convolutions of tiles": ("tiles", "float32", {}),
    "`Conv2D` of Keras": ("keras", "float32", {}),
    "`Conv2D` of Keras, without oneDNN": ("keras", "float32", {"TF_ENABLE_ONEDNN_OPTS": "0"}),
    "the example's, in bfloat16": ("tiles", "bfloat16", {}),
    "`Conv2D` of Keras in bfloat16": ("keras", "bfloat16", {}),
}
# Title -> the turn of a loop.
LOOPS = {
    "the example": ("ours", "float32"),
    "... with `--precision bfloat16`": ("ours", "bfloat16"),
    "Stable-Baselines3": ("sb3",),
}
# What an update consists of, in the order of the table.
PARTS = ("batch", "columns", "pixels", "target", "forward", "backward")
TITLES = {
    "update": "the update",
    "batch": "... its batch from the ring",
    "columns": "... checks, and columns as tensors",
    "target": "... the target network's pass",
    "forward": "... the network's pass, for the loss",
    "backward": "... its gradients",
    "rest": "... Adam, and what else is left",
    "pixels": "of these passes: pixels of both states into tiles of float32",
}


def example() -> Any:
    """The module of the example."""
    sys.path.insert(0, str(ROOT / "examples"))
    import dqn_atari

    return dqn_atari


def training(folder: str, precision: str) -> Any:
    """A run of the example that has collected `START` rows."""
    module = example()
    arguments = argparse.Namespace(
        recipe="published",
        game="pong",
        precision=precision,
        path=None,
        buffer=ROWS,
        seed=0,
        steps=START + WARM + STEPS,
        learning_starts=START,
    )
    run = module.Training(arguments, Path(folder))
    run.warm_up()
    return run


def ours(precision: str) -> dict[str, float]:
    """Seconds of the example's loop."""
    import ray
    from tqdm import tqdm

    ray.init("local", include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        run = training(folder, precision)
        with run.manager, tqdm(disable=True) as bar:
            run.learn(WARM, bar)
            updates, began = run.counters["updates"], time.perf_counter()
            run.learn(STEPS, bar)
            return {"seconds": time.perf_counter() - began, "updates": run.counters["updates"] - updates}


def sb3() -> dict[str, float]:
    """Seconds of Stable-Baselines3's loop, as its documentation writes it."""
    import ale_py
    import gymnasium
    from stable_baselines3 import DQN
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.vec_env import VecFrameStack

    gymnasium.register_envs(ale_py)
    module = example()
    recipe, agents, chunk = module.RECIPES["published"], module.AGENTS, module.CHUNK
    game = {"frameskip": 1, "repeat_action_probability": 0.0}  # AtariWrapper skips frames itself
    envs = VecFrameStack(make_atari_env("ALE/Pong-v5", n_envs=agents, env_kwargs=game), STACK)
    learner = DQN(
        "CnnPolicy",
        envs,
        learning_rate=recipe.adam["learning_rate"],
        batch_size=module.BATCH,
        gamma=module.GAMMA,
        buffer_size=ROWS,
        learning_starts=START,
        train_freq=chunk,
        gradient_steps=agents * chunk // recipe.steps_an_update,
        target_update_interval=recipe.steps_an_update * recipe.options["target_every"],
        exploration_initial_eps=module.EPSILON_END,
        exploration_final_eps=module.EPSILON_END,
        device="cpu",
    )
    learner.learn(START + WARM)
    updates, began = learner._n_updates, time.perf_counter()
    learner.learn(STEPS, reset_num_timesteps=False)
    return {"seconds": time.perf_counter() - began, "updates": learner._n_updates - updates}


def update(network: str, precision: str) -> dict[str, float]:
    """Processor time of an update, in ms; of the example's network in float32 that of its parts, too."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    import really
    from really.learners import DQNLearner

    module = example()
    recipe, size = module.RECIPES["published"], (module.UPDATES_A_CALL, module.BATCH)
    in_parts = (network, precision) == ("tiles", "float32")
    build, given = nature, {"dtype": module.PRECISIONS[precision]}
    if network == "tiles":
        build = module.QNetwork
        given |= {name: getattr(recipe, name) for name in ("first", "convolutions", "hidden", "dueling")}
        given["num_actions"] = ACTIONS
    options = {"model_kwargs": given, "action_sampling_type": "epsilon_greedy", "epsilon": 1.0, "num_steps": 64}
    with really.SampleManager(build, really.atari("pong"), module.AGENTS, START, use_ray=False, **options) as manager:
        manager.initialize_buffer(ROWS)
        manager.collect()
        adam = tf.keras.optimizers.Adam(**recipe.adam)
        learner = DQNLearner(manager, adam, gamma=module.GAMMA, **recipe.options)
        calls: dict[str, Callable[[], Any]] = {"update": lambda: learner.update(manager.sample(size))}
        if in_parts:
            calls |= parts(learner, manager.sample, size)
        found = {name: 1e3 * least(call) / size[0] for name, call in calls.items()}
    if in_parts:
        # The function of the gradients has a forward pass of its own.
        found["backward"] -= found["forward"]
        found["rest"] = found["update"] - sum(found[name] for name in PARTS if name != "pixels")
    return found


def parts(learner: Any, sample: Callable[..., Any], size: tuple[int, int]) -> dict[str, Callable[[], Any]]:
    """Each part of as many updates as one call does."""
    import tensorflow as tf

    from really.learners.inputs import shared

    batch = sample(size)
    columns = {name: tf.constant(column) for name, column in learner._checked(batch).items()}
    states = learner.agent.model.convolutions[0]
    variables = learner.agent.trainable_variables

    def compiled(part: Callable[[dict[str, Any]], Any]) -> Callable[[], Any]:
        """A function that computes a number of each of the batches, as `DQNLearner._updates` goes through them."""

        @tf.function
        def all_of_them() -> Any:
            total = tf.zeros(())
            for at in tf.range(size[0]):
                total += part({name: rows[at] for name, rows in columns.items()})
            return total

        return lambda: all_of_them().numpy()

    def loss(rows: dict[str, Any]) -> Any:
        return tf.reduce_sum(learner._q_values(learner.agent, rows, "state"))

    def gradients(rows: dict[str, Any]) -> Any:
        with tf.GradientTape() as tape:
            total = loss(rows)
        return tf.add_n([tf.reduce_sum(each[..., 0]) for each in tape.gradient(total, variables)])

    def pixels(rows: dict[str, Any]) -> Any:
        return tf.add_n([tf.reduce_sum(states.tiles(rows[name])[:, 0, 0]) for name in ("state", "state_new")])

    return {
        "batch": lambda: sample(size),
        "columns": lambda: [tf.convert_to_tensor(column) for column in shared(learner._checked(batch)).values()],
        "pixels": compiled(pixels),
        "target": compiled(lambda rows: tf.reduce_sum(learner._next_value(rows))),
        "forward": compiled(loss),
        "backward": compiled(gradients),
    }


def nature(dtype: str) -> Any:
    """The network of Mnih et al. 2015 as one writes it in Keras."""
    import keras

    layers = keras.layers
    frames = keras.Input((STACK, SCREEN, SCREEN), dtype="uint8")
    pixels = layers.Rescaling(1 / 255, dtype=dtype)(layers.Permute((2, 3, 1), dtype="uint8")(frames))
    return keras.Model(frames, {"q_values": models.nature_head(pixels, ACTIONS, dtype)})


def least(call: Callable[[], Any]) -> float:
    """Processor time of a call, the least of rounds."""
    from bench.clocks import timed

    call()
    repeats = max(1, int(SECONDS / timed(call, 1, time.process_time)))
    return min(timed(call, repeats, time.process_time) / repeats for _ in range(ROUNDS))


TURNS: dict[str, Callable[..., dict[str, float]]] = {"ours": ours, "sb3": sb3, "update": update}


def turn(*arguments: str, **variables: str) -> dict[str, float]:
    """What a fresh process measures."""
    found: dict[str, float] = json.loads(said("bench.pixels", *arguments, **variables))
    print(f"{' '.join(arguments)}: {found}", file=sys.stderr, flush=True)
    return found


def loops(rounds: int) -> str:
    """The loops side by side as Markdown: medians of rounds in which they take turns."""
    seen: dict[str, list[dict[str, float]]] = {title: [] for title in LOOPS}
    for at in range(rounds):
        for title in list(LOOPS)[:: 1 if at % 2 else -1]:
            seen[title].append(turn(*LOOPS[title]))
    lines = ["| | updates/s | environment steps/s | times |", "| --- | --- | --- | --- |"]
    seconds = {title: statistics.median(each["seconds"] for each in found) for title, found in seen.items()}
    for title, found in seen.items():
        rates = f"{found[0]['updates'] / seconds[title]:,.1f} | {STEPS / seconds[title]:,.0f}"
        lines.append(f"| {title} | {rates} | {max(seconds.values()) / seconds[title]:.1f} |")
    return "\n".join(lines) + "\n"


def profile() -> tuple[str, str]:
    """The parts of an update, and updates of other networks, as Markdown."""
    found = {title: turn("update", *written, **variables) for title, (*written, variables) in NETWORKS.items()}
    own = next(iter(found.values()))
    lines = ["| part | ms |", "| --- | --- |"]
    lines += [f"| {title} | {own[name]:.2f} |" for name, title in TITLES.items()]
    others = ["| network | ms an update |", "| --- | --- |"]
    others += [f"| {title} | {each['update']:.2f} |" for title, each in found.items()]
    return "\n".join(lines) + "\n", "\n".join(others) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs="+", help="one turn, in this process: what, network, precision")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--publish", action="store_true", help="write the tables into docs/")
    arguments = parser.parse_args()
    if arguments.one:
        what, *rest = arguments.one
        print(json.dumps(TURNS[what](*rest)))
        return
    parts_table, networks = profile()
    tables = {"pixels": loops(arguments.rounds), "pixels, parts": parts_table, "pixels, networks": networks}
    print(*tables.values(), sep="\n")
    if arguments.publish:
        publish("pixels", "make bench-pixels", tables)


if __name__ == "__main__":
    main()
