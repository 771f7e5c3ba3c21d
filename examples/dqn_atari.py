"""DQN learns an Atari game from pixels, with a replay buffer of a million transitions that outlives the process.

    python examples/dqn_atari.py [--recipe fast|published] [--game pong] [--precision float32|bfloat16] [--steps N]
        [--path DIR] [--resume] [--seed N] [--out DIR]

`fast`, the default, is double DQN with a small dueling network, three-step returns and prioritized replay. Its run ends
early at the mean return that `WON` has for the game. `published` is the DQN of Mnih et al. 2015 with another optimizer,
exploration and warm-up. `RECIPES` says where each constant comes from. With `--precision bfloat16` the hidden layers
compute in that type while they learn, which is faster on a processor that has it. With `--path` the buffer lives in
files. `--resume` continues a run after any kind of end.

The run writes `result.json`, `checkpoints/`, and `progress/` with curves, CSV and TensorBoard events to the folder
`--out`. By default that is `runs/dqn_atari_recipe_<recipe>_<seed>`. It has `_game_<game>` before the recipe for another
game than Pong, and `_precision_bfloat16` after it for that precision.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import experiment  # noqa: F401 - must be imported before TensorFlow
import numpy as np
import ray
import tensorflow as tf
from tqdm import tqdm

import really
from really.learners import DQNLearner, DQNUpdate

AGENTS, CHUNK = 8, 64
BATCH, UPDATES_A_CALL, GAMMA = 32, 16, 0.99  # both papers have 32 and 0.99
EPSILON_START, EPSILON_END = 1.0, 0.01
TEST_EPISODES, LAST_EPISODES = 3, 20
WON = {"pong": 19.0}  # mean of 20 greedy games at which `fast` ends; 21 is the most
PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}  # as Keras names them
KEYS = ("state", "action", "reward", "state_new", "terminal", "episode_end")


@dataclass(frozen=True)
class Recipe:
    """The constants in which the two recipes differ."""

    screen: int  # height and width of a frame
    first: tuple[int, int]  # filters of the first convolution, and the edge of its tiles
    convolutions: tuple[tuple[int, int, int], ...]  # filters, size, strides of those after it
    hidden: int
    dueling: bool
    options: dict[str, Any]  # of the learner
    sampler: dict[str, Any]  # of the buffer
    adam: dict[str, float]
    steps: int
    steps_an_update: int
    learning_starts: int
    epsilon_part: float  # epsilon falls during this part of all steps
    beta: float | None = None  # exponent of the importance weights at the start; it grows to 1


RECIPES = {
    # Mnih et al. 2015, Methods and table 1: preprocessing, network, buffer, batch, steps per update. CleanRL's
    # dqn_atari.py: optimizer, learning rate, exploration, warm-up. The target network is updated every 4,000 steps
    # (published: every 40,000; CleanRL: every 1,000).
    "published": Recipe(
        screen=84,
        first=(32, 4),
        convolutions=((64, 4, 2), (64, 3, 1)),
        hidden=512,
        dueling=False,
        options={"target_every": 1_000, "double": False},
        sampler={},
        adam={"learning_rate": 1e-4},
        steps=10_000_000,
        steps_an_update=4,
        learning_starts=80_000,
        epsilon_part=0.1,
    ),
    # Wang et al. 2016: two streams. Hessel et al. 2018, table 1: double, three steps, priorities (exponents 0.5,
    # and 0.4 to 1). Adam's epsilon is not theirs (1.5e-4): most gradients of this loss are a tenth of that, or
    # less. Chosen here, and not tuned: frames of half the width (a quarter of the pixels), filters and hidden units
    # (as many as in Mnih et al. 2013), a third convolution, learning rate (Hessel et al.: 6.25e-5), steps per
    # update (4), target network (every 8,000 updates), warm-up (20,000 steps).
    "fast": Recipe(
        screen=42,
        first=(16, 2),
        convolutions=((32, 4, 2), (32, 3, 2)),
        hidden=128,
        dueling=True,
        options={"target_every": 1_000, "double": True, "n_step": 3},
        sampler={"alpha": 0.5, "n_step": 3, "gamma": GAMMA},
        adam={"learning_rate": 2e-4},
        steps=1_000_000,
        steps_an_update=2,
        learning_starts=10_000,
        epsilon_part=0.05,
        beta=0.4,
    ),
}


@tf.custom_gradient
def product(rows: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Any]:
    """`rows @ kernel`, with few rows and a wide kernel.

    The gradient by the rows is computed transposed: TensorFlow needs half to a third of the time for that on a CPU.
    """

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        by_rows = tf.transpose(tf.matmul(kernel, upstream, transpose_b=True))
        return by_rows, tf.matmul(rows, upstream, transpose_a=True)

    return tf.matmul(rows, kernel), gradient


class Hidden(tf.keras.layers.Dense):
    """A layer of many units, with ReLU."""

    def call(self, seen: tf.Tensor) -> tf.Tensor:
        return tf.nn.relu(product(seen, tf.convert_to_tensor(self.kernel)) + self.bias)


class Convolution(tf.keras.layers.Layer):
    """A convolution with ReLU, of `[row, height, width, channel]` floats.

    The bias is added with `+`: after `bias_add`, as in Keras's `Conv2D`, the gradient takes longer on a CPU.
    """

    def __init__(self, filters: int, size: int, strides: int = 1, dtype: str = "float32") -> None:
        super().__init__(dtype=dtype)
        self.filters, self.size, self.strides = filters, size, strides

    def build(self, shape: tuple[int | None, ...]) -> None:
        self.kernel = self.add_weight(shape=(self.size, self.size, shape[-1], self.filters), name="kernel")
        self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")

    def call(self, seen: tf.Tensor) -> tf.Tensor:
        return self.convolved(seen, self.kernel)

    def convolved(self, seen: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return tf.nn.relu(tf.nn.conv2d(seen, kernel, self.strides, "VALID") + self.bias)


class HalvingConvolution(Convolution):
    """A convolution of 4 x 4 at every second place: one of 2 x 2 tiles, which are 2 x 2 places each."""

    def __init__(self, filters: int, dtype: str = "float32") -> None:
        super().__init__(filters, 2, dtype=dtype)

    def build(self, shape: tuple[int | None, ...]) -> None:
        super().build((*shape[:-1], 4 * shape[-1]))

    def call(self, seen: tf.Tensor) -> tf.Tensor:
        return super().call(tf.nn.space_to_depth(seen, 2))


class PixelConvolution(Convolution):
    """A convolution of 2 x 2 tiles of `edge` x `edge` pixels, of `[row, stack, height, width]` uint8.

    With an edge of 4 it is one of 8 x 8 pixels at every fourth one, and with 2 one of 4 x 4 at every second one.
    """

    def __init__(self, filters: int, edge: int, dtype: str = "float32") -> None:
        super().__init__(filters, 2, dtype=dtype)
        self.edge = edge
        self.pixels = {2: tf.uint16, 4: tf.float32}[edge]  # a row of a tile as one number; oneDNN transposes float32

    def build(self, shape: tuple[int | None, ...]) -> None:
        _, stack, height, width = shape
        self.sizes = (stack, height // self.edge, self.edge, width // self.edge)
        super().build((None, height // self.edge, width // self.edge, self.edge**2 * stack))

    def call(self, state: tf.Tensor) -> tf.Tensor:
        return self.convolved(self.tiles(state), self.kernel / 255.0)

    def tiles(self, state: tf.Tensor) -> tf.Tensor:
        """The pixels of each tile, `[row, height, width, pixel]`, in the type in which the layer computes."""
        stack, tall, edge, wide = self.sizes
        rows = tf.bitcast(tf.reshape(state, [-1, *self.sizes, edge]), self.pixels)
        tiles = tf.bitcast(tf.transpose(rows, [0, 2, 4, 1, 3]), tf.uint8)
        return tf.cast(tf.reshape(tiles, [-1, tall, wide, edge**2 * stack]), self.compute_dtype)


class QNetwork(tf.keras.Model):
    """Convolutions and one hidden layer, for observations `[row, stack, height, width]` uint8.

    A dueling network has a hidden layer for the value and one for the advantages (Wang et al. 2016, equation 9).
    `dtype` is the policy of Keras for all layers but the last.
    """

    def __init__(
        self,
        num_actions: int,
        first: tuple[int, int],
        convolutions: tuple[Any, ...],
        hidden: int,
        dueling: bool,
        dtype: str = "float32",
    ) -> None:
        super().__init__()
        layers = tf.keras.layers
        self.convolutions = [PixelConvolution(*first, dtype=dtype)]
        for filters, size, strides in convolutions:
            if (size, strides) == (4, 2):
                self.convolutions.append(HalvingConvolution(filters, dtype=dtype))
            else:
                self.convolutions.append(Convolution(filters, size, strides, dtype=dtype))
        self.flat, self.hidden = layers.Flatten(dtype=dtype), Hidden(hidden, dtype=dtype)
        self.q = layers.Dense(num_actions)
        self.value = [Hidden(hidden, dtype=dtype), layers.Dense(1)] if dueling else []

    def call(self, state: tf.Tensor) -> dict[str, tf.Tensor]:
        seen = state
        for convolution in self.convolutions:
            seen = convolution(seen)
        value = seen = self.flat(seen)
        q = self.q(self.hidden(seen))
        for layer in self.value:
            value = layer(value)
        return {"q_values": value + q - tf.reduce_mean(q, axis=-1, keepdims=True) if self.value else q}


class Training:
    """A run that can end at any time: its manager and learner, its counters, its checkpoints."""

    def __init__(self, arguments: argparse.Namespace, out: Path) -> None:
        self.arguments, self.out, self.recipe = arguments, out, RECIPES[arguments.recipe]
        recipe, places = self.recipe, dict[str, Any]()
        if arguments.path:  # a checkpoint can be loaded until more than `spare` rows are put after it
            places = {"path": arguments.path, "spare": max(8_192, 2 * arguments.test_every)}
        played = really.atari(arguments.game).make_vector(1)
        self.lives = max(1, int(played.reset(seed=0)[1]["lives"][0]))  # a game without lives tells 0
        game = {"game": arguments.game, "screen_size": recipe.screen, "fire_reset": self.lives > 1}
        acting: dict[str, Any] = {
            "action_sampling_type": "epsilon_greedy",
            "model_kwargs": {
                "num_actions": int(played.single_action_space.n),
                "first": recipe.first,
                "convolutions": recipe.convolutions,
                "hidden": recipe.hidden,
                "dueling": recipe.dueling,
                "dtype": PRECISIONS[arguments.precision],
            },
            "num_steps": CHUNK,
            "seed": arguments.seed,
        }
        more = {"returns": ["episode_end"], "gamma": GAMMA, "epsilon": EPSILON_START}
        self.manager = really.SampleManager(QNetwork, really.atari(**game), AGENTS, AGENTS * CHUNK, **acting, **more)
        self.tester = self.manager
        if self.lives > 1:  # a lost life ends an episode: one agent plays the lives of a game one after the other
            whole = really.atari(**game, clip_rewards=False)
            self.tester = really.SampleManager(QNetwork, whole, 1, CHUNK, use_ray=False, **acting)
        self.manager.initialize_buffer(arguments.buffer, KEYS, **recipe.sampler, **places)
        events = out / "progress" / "events"
        self.manager.initialize_aggregator(out / "progress", 25, ["loss", "q_value", "reward"], tensorboard=events)
        optimizer = tf.keras.optimizers.Adam(**recipe.adam)
        self.learner = DQNLearner(self.manager, optimizer, gamma=GAMMA, **recipe.options)
        self.counters: dict[str, Any] = {"env_steps": 0, "updates": 0, "seconds": 0.0, "won": False}

    def resume(self) -> None:
        """Continues from the newest checkpoint."""
        parts = {"target": self.learner.target, "optimizer": self.learner.optimizer}
        self.counters = dict(self.manager.load_checkpoint(self.out / "checkpoints", **parts))

    def save(self) -> None:
        """Saves a checkpoint."""
        parts = {"target": self.learner.target, "optimizer": self.learner.optimizer}
        self.manager.save_checkpoint(self.out / "checkpoints", **parts, counters=self.counters, keep=2)

    def warm_up(self) -> None:
        """Fills the buffer with random actions up to `learning_starts` rows."""
        buffer = self.manager.buffer
        while len(buffer) < self.arguments.learning_starts:
            self.counters["env_steps"] += self.manager.collect()

    def run(self) -> None:
        """Trains in parts, and tests and saves the agent after each, until all steps are done or the games won."""
        arguments, began, before = self.arguments, time.perf_counter(), self.counters["seconds"]
        with tqdm(total=arguments.steps, initial=self.counters["env_steps"], unit="step") as bar:
            self.warm_up()
            bar.update(self.counters["env_steps"] - bar.n)
            while self.counters["env_steps"] < arguments.steps and not self.counters["won"]:
                self.learn(min(arguments.test_every, arguments.steps - self.counters["env_steps"]), bar)
                returns = self.play(TEST_EPISODES)
                self.manager.update_aggregator(reward=returns)
                self.counters["won"] = self.wins(returns) and self.wins(self.play(LAST_EPISODES))
                self.counters["seconds"] = before + time.perf_counter() - began
                self.save()

    def play(self, episodes: int) -> list[float]:
        """Returns of greedy games. Those of several lives have the rewards of the game, which are not clipped."""
        if self.tester is not self.manager:
            self.tester.set_agent(self.manager.get_agent().get_weights())
        returns = self.tester.test(self.arguments.max_steps, episodes * self.lives, evaluation_measure="reward")
        return [float(total) for total in np.reshape(returns, (episodes, self.lives)).sum(axis=1)]

    def wins(self, returns: list[float]) -> bool:
        """Whether these games end a run with the recipe `fast`."""
        return self.arguments.recipe == "fast" and float(np.mean(returns)) >= WON.get(self.arguments.game, np.inf)

    def learn(self, steps: int, bar: tqdm) -> None:
        """Trains for about `steps` more steps, collecting and updating in turns."""
        manager, recipe, counters, began = self.manager, self.recipe, self.counters, time.perf_counter()
        first, goal = counters["updates"], counters["env_steps"] + steps
        while counters["env_steps"] < goal:
            part = counters["env_steps"] / self.arguments.steps
            epsilon = np.interp(part, [0, recipe.epsilon_part], [EPSILON_START, EPSILON_END])
            manager.set_epsilon(float(epsilon))
            counters["env_steps"] += manager.collect()
            for _ in range(AGENTS * CHUNK // recipe.steps_an_update // UPDATES_A_CALL):
                found = self.update(part)
                counters["updates"] += UPDATES_A_CALL
            manager.set_agent(self.learner.agent.get_weights())
            manager.update_aggregator(loss=found.loss, q_value=found.q_value)
            self.show(bar, (counters["updates"] - first) / (time.perf_counter() - began))

    def update(self, part: float) -> DQNUpdate:
        """Does the updates of one call after this part of all steps."""
        buffer, beta, size = self.manager.buffer, self.recipe.beta, (UPDATES_A_CALL, BATCH)
        if beta is None:
            return self.learner.update(buffer.sample(size))
        batch = buffer.sample(size, beta=beta + (1.0 - beta) * part)
        found = self.learner.update(batch)
        buffer.update_priorities(batch["index"], np.abs(found.td_error))
        return found

    def show(self, bar: tqdm, updates_a_second: float) -> None:
        """Shows steps (of four frames), updates a second and the memory of the buffer."""
        memory = self.manager.buffer.memory()
        bar.update(self.counters["env_steps"] - bar.n)
        bar.set_postfix(
            frames=f"{4 * (bar.format_dict['rate'] or 0):.0f}/s",
            updates=f"{updates_a_second:.0f}/s",
            buffer=f"{memory['held'] / 1e9:.2f} GB (1/{memory['ratio']:.1f})",
        )


def main() -> None:
    arguments = parse()
    game = "" if arguments.game == "pong" else f"_game_{arguments.game}"
    precision = "" if arguments.precision == "float32" else f"_precision_{arguments.precision}"
    name = f"dqn_atari{game}_recipe_{arguments.recipe}{precision}_{arguments.seed}"
    out = arguments.out or Path("runs") / name
    tf.keras.utils.set_random_seed(arguments.seed)
    ray.init(include_dashboard=False, log_to_driver=False)
    training = Training(arguments, out)
    with training.manager as manager:
        if arguments.resume:
            training.resume()
        training.run()
        returns = training.play(arguments.episodes)
        memory = manager.buffer.memory()
        training.tester.close()
    counters = training.counters
    result = {
        "task": f"{arguments.game}, pixels",
        "seed": arguments.seed,
        "env_steps": counters["env_steps"],
        "updates": counters["updates"],
        "warm_up_steps": counters["env_steps"] - training.recipe.steps_an_update * counters["updates"],
        "tested": f"{TEST_EPISODES} greedy games a point",
        "wall_seconds": counters["seconds"],
        "mean_return": float(np.mean(returns)),
        "std_return": float(np.std(returns)),
        "buffer_rows": len(manager.buffer),
        "buffer_bytes": memory["held"],
    }
    (out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"{arguments.episodes} greedy games: {result['mean_return']:.1f} ± {result['std_return']:.1f}")
    print(f"learning curve: {manager.aggregator.plot()}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", choices=RECIPES, default="fast")
    parser.add_argument("--game", default="pong")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="in which hidden layers learn")
    parser.add_argument("--steps", type=int, help="environment steps, of four frames each (default: the recipe's)")
    parser.add_argument("--buffer", type=int, default=1_000_000, help="transitions")
    parser.add_argument("--learning-starts", type=int, help="steps before the first update (default: the recipe's)")
    parser.add_argument("--test-every", type=int, default=25_000, help="steps from one test and checkpoint to the next")
    parser.add_argument("--episodes", type=int, default=LAST_EPISODES, help="games played at the end")
    parser.add_argument("--max-steps", type=int, default=27_000, help="longest game in a test")
    parser.add_argument("--path", type=Path, help="folder for the buffer's files (default: the buffer is in memory)")
    parser.add_argument("--resume", action="store_true", help="continue from the newest checkpoint in --out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for results (default: below runs, named after the options)")
    arguments = parser.parse_args()
    recipe = RECIPES[arguments.recipe]
    arguments.steps = arguments.steps or recipe.steps
    arguments.learning_starts = arguments.learning_starts or recipe.learning_starts
    return arguments


if __name__ == "__main__":
    main()
