"""DQN on CartPole-v1 in JAX: a bare loop in one file, with parameters in a pytree and an optimizer of optax.

`python examples/jax_dqn.py [--seed N] [--out FOLDER]` trains for at most 80,000 steps, prints the mean of 100 greedy
episodes and writes it to FOLDER/result.json, by default in runs/.
The update is double DQN (van Hasselt et al. 2016) with a slowly moving target network (Lillicrap et al. 2016).
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

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
    tau: float = 0.01  # the target moves by this part of the way in each update
    end_epsilon: float = 0.04
    exploration_steps: int = 8_000


def init(key, sizes=(4, 128, 128, 2)):
    def layer(key, fan_in, fan_out):
        bound = fan_in**-0.5
        kernel, bias = jax.random.split(key)
        return {
            "kernel": jax.random.uniform(kernel, (fan_in, fan_out), minval=-bound, maxval=bound),
            "bias": jax.random.uniform(bias, (fan_out,), minval=-bound, maxval=bound),
        }

    return [layer(*args) for args in zip(jax.random.split(key, len(sizes) - 1), sizes[:-1], sizes[1:], strict=True)]


def q_network(params, x):
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return {"q_values": x @ params[-1]["kernel"] + params[-1]["bias"]}


def main(args: Args) -> None:
    params = target_params = init(jax.random.key(args.seed))
    updates = args.total_steps // args.steps_a_call * args.updates_a_call
    schedule = optax.linear_schedule(args.learning_rate, args.learning_rate / 20, updates)
    optimizer = optax.adam(schedule)
    opt_state = optimizer.init(params)

    @jax.jit
    def update(params, target_params, opt_state, data):
        best_action = q_network(params, data["state_new"])["q_values"].argmax(1)
        value = q_network(target_params, data["state_new"])["q_values"]
        value = jnp.take_along_axis(value, best_action[:, None], 1)[:, 0]
        # terminal is 0 where only a time limit ended the episode
        td_target = data["reward"] + args.gamma * (1 - data["terminal"]) * value

        def mse_loss(params):
            q_values = q_network(params, data["state"])["q_values"]
            old_value = jnp.take_along_axis(q_values, data["action"][:, None], 1)[:, 0]
            return jnp.mean((old_value - td_target) ** 2)

        loss, grads = jax.value_and_grad(mse_loss)(params)
        changes, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, changes)
        return params, optax.incremental_update(params, target_params, args.tau), opt_state, loss

    manager = SampleManager(
        model=(q_network, params),
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
    batches = manager.batches(args.batch_size, as_="jax")
    step, best, started = 0, (-np.inf, params), time.time()
    while step < args.total_steps:
        manager.set_epsilon(np.interp(step, [0, args.exploration_steps], [1.0, args.end_epsilon]))
        step += manager.collect()
        for _ in range(args.updates_a_call):
            params, target_params, opt_state, loss = update(params, target_params, opt_state, next(batches))
        manager.set_agent(params)  # the environments are stepped with these weights from now on
        if step % (4 * args.steps_a_call) == 0:
            score = np.mean(manager.test(500, 20, "reward"))
            if score >= best[0]:
                best = score, params
            print(f"step {step}: loss {loss:.5f}, greedy score {score:.1f}, {step / (time.time() - started):.0f}/s")
            if score == 500 and np.mean(manager.test(500, 100, "reward")) >= 499:
                break
    manager.set_agent(best[1])
    returns = manager.test(500, 100, "reward")
    result = {"task": "CartPole-v1", "seed": args.seed, "mean_return": np.mean(returns), "std_return": np.std(returns)}
    result |= {"env_steps": step, "updates": step // args.steps_a_call * args.updates_a_call}
    result |= {"wall_seconds": time.time() - started}
    print(f"{result['mean_return']:.1f} in 100 greedy episodes of CartPole-v1 after {step} steps, seed {args.seed}")
    folder = Path(args.out or f"runs/jax_dqn_{args.seed}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(result, default=float))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name, value in vars(Args()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    main(Args(**vars(parser.parse_args())))
