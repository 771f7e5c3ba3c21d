"""DQN on CartPole-v1 with Keras 3: one file for TensorFlow, PyTorch and JAX.

`KERAS_BACKEND=torch python examples/keras_any.py [--seed N] [--out FOLDER]` trains for at most 80,000 steps, prints the
mean of 100 greedy episodes and writes it to FOLDER/result.json, by default in runs/. The backend is `tensorflow`,
`torch` or `jax`.
The update is double DQN (van Hasselt et al. 2016) with a slowly moving target network (Lillicrap et al. 2016).
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from really import SampleManager


@dataclass
class Args:
    seed: int = 0
    out: str = ""
    total_steps: int = 80_000
    num_envs: int = 8
    steps_a_call: int = 256  # rows of one call, from all environments together
    updates_a_call: int = 128
    batch_size: int = 64
    learning_rate: float = 1e-3  # falls linearly to a twentieth of it
    gamma: float = 0.99
    tau: float = 0.7  # the target moves by this part of the way after each call
    end_epsilon: float = 0.04
    exploration_steps: int = 8_000


def make_q_network(num_actions=2):
    state = keras.Input((4,))
    hidden = keras.layers.Dense(128, activation="relu")(state)
    hidden = keras.layers.Dense(128, activation="relu")(hidden)
    return keras.Model(state, {"q_values": keras.layers.Dense(num_actions)(hidden)})


def td_loss(target, q_values):
    """The squared error of the values of taken actions; `target` is `[n, 2]`: action and value."""
    taken = keras.ops.one_hot(keras.ops.cast(target[:, 0], "int32"), q_values.shape[1])
    return (keras.ops.sum(q_values * taken, axis=1) - target[:, 1]) ** 2


def main(args: Args) -> None:
    keras.utils.set_random_seed(args.seed)
    q_network, target_network = make_q_network(), make_q_network()
    target_network.set_weights(q_network.get_weights())
    optimizer = keras.optimizers.Adam(args.learning_rate)
    q_network.compile(optimizer, loss={"q_values": td_loss})
    manager = SampleManager(
        model=q_network,
        environment="CartPole-v1",
        num_parallel=args.num_envs,
        total_steps=args.steps_a_call,
        num_steps=args.steps_a_call // args.num_envs,
        action_sampling_type="epsilon_greedy",
        reward_scale=0.02,  # values stay near 1
        seed=args.seed,
        use_ray=False,
    )
    manager.initialize_buffer(args.total_steps)
    rows = np.arange(args.updates_a_call * args.batch_size)
    step, best, started = 0, (-np.inf, q_network.get_weights()), time.time()
    while step < args.total_steps:
        manager.set_epsilon(np.interp(step, [0, args.exploration_steps], [1.0, args.end_epsilon]))
        optimizer.learning_rate = args.learning_rate * (1 - 0.95 * step / args.total_steps)
        step += manager.collect()
        data = manager.sample(len(rows))
        best_action = q_network.predict_on_batch(data["state_new"])["q_values"].argmax(1)
        value = target_network.predict_on_batch(data["state_new"])["q_values"][rows, best_action]
        # terminal is 0 where only a time limit ended the episode
        td_target = data["reward"] + args.gamma * (1 - data["terminal"]) * value
        target = {"q_values": np.stack([data["action"], td_target], axis=1).astype(np.float32)}
        # One update for each batch of rows. Their targets do not change meanwhile.
        history = q_network.fit(data["state"], target, args.batch_size, shuffle=False, verbose=0).history
        weights = q_network.get_weights()
        pairs = zip(target_network.get_weights(), weights, strict=True)
        target_network.set_weights([old + args.tau * (new - old) for old, new in pairs])
        manager.set_agent(weights)  # the environments are stepped with these weights from now on
        if step % (4 * args.steps_a_call) == 0:
            score = np.mean(manager.test(500, 20, "reward"))
            if score >= best[0]:
                best = score, weights
            speed = step / (time.time() - started)
            print(f"step {step}: loss {history['loss'][0]:.5f}, greedy score {score:.1f}, {speed:.0f}/s")
            if score == 500 and np.mean(manager.test(500, 100, "reward")) >= 499:
                break
    manager.set_agent(best[1])
    returns = manager.test(500, 100, "reward")
    result = {"task": "CartPole-v1", "seed": args.seed, "mean_return": np.mean(returns), "std_return": np.std(returns)}
    result |= {"env_steps": step, "updates": step // args.steps_a_call * args.updates_a_call}
    result |= {"wall_seconds": time.time() - started, "backend": keras.config.backend()}
    print(f"{result['mean_return']:.1f} in 100 greedy episodes of CartPole-v1 after {step} steps, seed {args.seed}")
    folder = Path(args.out or f"runs/keras_any_{keras.config.backend()}_{args.seed}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(result, default=float))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name, value in vars(Args()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    main(Args(**vars(parser.parse_args())))
