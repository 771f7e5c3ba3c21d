"""PPO in PyTorch on CartPole-v1 or LunarLanderContinuous-v3: a bare loop in one file, with a loss of your own.

`python examples/torch_ppo.py [--task TASK] [--seed N] [--out FOLDER]` stops early at weights that solve the task in 100
greedy episodes, prints the mean of 100 more and writes it to FOLDER/result.json, by default in runs/.
LunarLander needs `gymnasium[box2d]`. The runners deliver log-probabilities and generalised advantages; the loss is that
of Schulman et al. 2017.
"""

import argparse
import copy
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from really import SampleManager


@dataclass
class Args:
    task: str = "CartPole-v1"
    seed: int = 0
    out: str = ""
    num_envs: int = 16
    epochs: int = 6
    minibatch_size: int = 128
    learning_rate: float = 1e-3  # falls linearly to a tenth of it
    clip: float = 0.2
    max_grad_norm: float = 0.5


TASKS = {  # steps a call and at most, time limit, score that solves it, gamma, lambda, unit of values
    "CartPole-v1": (2_048, 300_000, 500, 499, 0.99, 0.95, 20.0),
    "LunarLanderContinuous-v3": (8_192, 1_000_000, 1000, 250, 0.999, 0.98, 100.0),
}


class ActorCritic(nn.Module):
    def __init__(self, inputs: int, outputs: int, is_continuous: bool, value_unit: float):
        super().__init__()
        self.actor, self.critic = mlp(inputs, outputs, 0.01), mlp(inputs, 1, 1.0)
        self.log_sigma = nn.Parameter(torch.zeros(outputs)) if is_continuous else None
        self.value_unit = value_unit

    def forward(self, x):
        values = {"v_estimate": self.value_unit * self.critic(x)}
        if self.log_sigma is None:
            return values | {"policy": self.actor(x)}
        return values | {"mu": self.actor(x), "sigma": self.log_sigma.exp()}


def mlp(inputs: int, outputs: int, gain: float) -> nn.Sequential:
    layers = [nn.Linear(inputs, 64), nn.Linear(64, 64), nn.Linear(64, outputs)]
    for layer, each in zip(layers, (2**0.5, 2**0.5, gain), strict=True):
        nn.init.orthogonal_(layer.weight, each)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])


def main(args: Args) -> None:
    steps_a_call, total_steps, max_steps, solved, gamma, gae_lambda, value_unit = TASKS[args.task]
    is_continuous = args.task != "CartPole-v1"
    torch.set_num_threads(1)  # threads of small layers wait for each other, above all on a busy machine
    torch.manual_seed(args.seed)
    model = ActorCritic(8 if is_continuous else 4, 2, is_continuous, value_unit)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.learning_rate, eps=1e-5)
    manager = SampleManager(
        model=model,
        environment=args.task,
        num_parallel=args.num_envs,
        total_steps=steps_a_call,
        num_steps=steps_a_call // args.num_envs,
        returns=["log_prob", "value_estimate", "advantage"],
        gamma=gamma,
        gae_lambda=gae_lambda,
        seed=args.seed,
        use_ray=False,
    )
    agent = manager.get_agent()  # its model is the one above
    rng, step, best, started = np.random.default_rng(args.seed), 0, (-np.inf, {}), time.time()
    while step < total_steps:
        data = {name: torch.from_numpy(column) for name, column in manager.get_data().items()}
        step += len(data["action"])
        optimizer.param_groups[0]["lr"] = args.learning_rate * (1 - 0.9 * step / total_steps)
        for _ in range(args.epochs):
            for rows in torch.from_numpy(rng.permutation(len(data["action"]))).split(args.minibatch_size):
                state, advantage = data["state"][rows], data["advantage"][rows]
                log_prob, entropy = agent.flowing_log_prob(state, data["action"][rows], return_entropy=True)
                ratio = (log_prob - data["log_prob"][rows]).exp()
                target = advantage + data["value_estimate"][rows]
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                clipped = ratio.clamp(1 - args.clip, 1 + args.clip)
                policy_loss = -torch.min(ratio * advantage, clipped * advantage).mean()
                value_loss = ((agent.v(state) - target) / value_unit).pow(2).mean()
                loss = policy_loss + 0.5 * value_loss
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
                optimizer.step()
        manager.set_agent(model.state_dict())  # the environments are stepped with these weights from now on
        score = np.mean(manager.test(max_steps, 20, "reward"))
        if score >= best[0]:
            best = score, copy.deepcopy(model.state_dict())
        speed = step / (time.time() - started)
        print(f"step {step}: entropy {entropy.mean():.3f}, greedy score {score:.1f}, {speed:.0f}/s")
        if score >= solved and np.mean(manager.test(max_steps, 100, "reward")) >= solved:
            break
    manager.set_agent(best[1])
    returns = manager.test(max_steps, 100, "reward")
    calls = step // steps_a_call
    result = {"task": args.task, "seed": args.seed, "mean_return": np.mean(returns), "std_return": np.std(returns)}
    result |= {"env_steps": step, "updates": calls * args.epochs * steps_a_call // args.minibatch_size}
    result |= {"wall_seconds": time.time() - started}
    print(f"{result['mean_return']:.1f} in 100 greedy episodes of {args.task} after {step} steps, seed {args.seed}")
    folder = Path(args.out or f"runs/torch_ppo_{args.task}_{args.seed}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(result, default=float))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name, value in vars(Args()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    main(Args(**vars(parser.parse_args())))
