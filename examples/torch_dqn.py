"""DQN on CartPole-v1 in PyTorch: a bare loop in one file, with an optimizer, a target and a loss of your own.

`python examples/torch_dqn.py [--seed N] [--out FOLDER]` trains for at most 80,000 steps, prints the mean of 100 greedy
episodes and writes it to FOLDER/result.json, by default in runs/.
The update is double DQN (van Hasselt et al. 2016) with a slowly moving target network (Lillicrap et al. 2016).
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


class QNetwork(nn.Module):
    def __init__(self, num_actions: int = 2):
        super().__init__()
        hidden = [nn.Linear(4, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()]
        self.network = nn.Sequential(*hidden, nn.Linear(128, num_actions))

    def forward(self, x):
        return {"q_values": self.network(x)}


def main(args: Args) -> None:
    torch.set_num_threads(1)  # threads of small layers wait for each other, above all on a busy machine
    torch.manual_seed(args.seed)
    q_network = QNetwork()
    target_network = copy.deepcopy(q_network)
    optimizer = torch.optim.Adam(q_network.parameters(), lr=args.learning_rate)
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
    batches = manager.batches(args.batch_size, as_="torch")
    step, best, started = 0, (-np.inf, copy.deepcopy(q_network.state_dict())), time.time()
    while step < args.total_steps:
        manager.set_epsilon(np.interp(step, [0, args.exploration_steps], [1.0, args.end_epsilon]))
        optimizer.param_groups[0]["lr"] = args.learning_rate * (1 - 0.95 * step / args.total_steps)
        step += manager.collect()
        for _ in range(args.updates_a_call):
            data = next(batches)
            with torch.no_grad():
                best_action = q_network(data["state_new"])["q_values"].argmax(1, keepdim=True)
                value = target_network(data["state_new"])["q_values"].gather(1, best_action).squeeze(1)
                # terminal is 0 where only a time limit ended the episode
                td_target = data["reward"] + args.gamma * (1 - data["terminal"]) * value
            old_value = q_network(data["state"])["q_values"].gather(1, data["action"][:, None]).squeeze(1)
            loss = nn.functional.mse_loss(old_value, td_target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                for target, parameter in zip(target_network.parameters(), q_network.parameters(), strict=True):
                    target.lerp_(parameter, args.tau)
        manager.set_agent(q_network.state_dict())  # the environments are stepped with these weights from now on
        if step % (4 * args.steps_a_call) == 0:
            score = np.mean(manager.test(500, 20, "reward"))
            if score >= best[0]:
                best = score, copy.deepcopy(q_network.state_dict())
            print(f"step {step}: loss {loss:.5f}, greedy score {score:.1f}, {step / (time.time() - started):.0f}/s")
            if score == 500 and np.mean(manager.test(500, 100, "reward")) >= 499:
                break
    manager.set_agent(best[1])
    returns = manager.test(500, 100, "reward")
    result = {"task": "CartPole-v1", "seed": args.seed, "mean_return": np.mean(returns), "std_return": np.std(returns)}
    result |= {"env_steps": step, "updates": step // args.steps_a_call * args.updates_a_call}
    result |= {"wall_seconds": time.time() - started}
    print(f"{result['mean_return']:.1f} in 100 greedy episodes of CartPole-v1 after {step} steps, seed {args.seed}")
    folder = Path(args.out or f"runs/torch_dqn_{args.seed}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(result, default=float))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name, value in vars(Args()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    main(Args(**vars(parser.parse_args())))
