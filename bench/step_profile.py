"""Processor time of each part of a runner's step with one environment: `python -m bench.step_profile`.

With `--publish` it writes the table into docs/performance.md.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np

from bench.models import q_network
from bench.published import publish
from really import SampleManager
from really.collectors.rollout import Rollout
from really.policies.policy import check_finite

STEPS, ROUNDS = 4096, 7


def microseconds(part: Callable[[int], object]) -> float:
    """Processor time of one call, the best of a few rounds."""
    best = np.inf
    for _ in range(ROUNDS):
        began = time.process_time()
        for step in range(STEPS):
            part(step)
        best = min(best, time.process_time() - began)
    return best / STEPS * 1e6


def main() -> None:
    options = {"action_sampling_type": "epsilon_greedy", "num_steps": STEPS, "epsilon": 0.1, "use_ray": False}
    manager = SampleManager(q_network, "CartPole-v1", 1, STEPS, **options)
    manager.get_data()
    runner = manager._fleet.workers[0].runner
    envs, policy, active = runner._envs, runner._policy, np.arange(1)
    rollout = Rollout(runner._columns, 1, STEPS, runner._pool)
    runner._draw(0, active, np.array([STEPS]))
    stepper = runner._stepper
    outputs = stepper.forward(envs.observations)
    actions = stepper.sample(outputs, 0)
    env = envs._environments[0].env

    def bare_step(step: int) -> None:
        if env.step(step % 2)[2]:
            env.reset()

    def whole_step(step: int) -> None:
        if runner._noise.starts_piece(step):
            runner._draw(step, active, np.array([STEPS]))
        stepper.advance(rollout, step, step + 1, active)

    parts = {
        "the whole step": whole_step,
        "... the environments, with time limit, reset and observations": lambda step: envs.step(actions, None),
        "... ... the environment alone": bare_step,
        "... forward pass": lambda step: stepper.forward(envs.observations),
        "... look for NaN": lambda step: check_finite(outputs, policy.required_outputs),
        "... sampling the action from noise drawn ahead": lambda step: stepper.sample(outputs, step % 256),
        "... writing state and action": lambda step: rollout.before.write(step, (*envs.observations, actions)),
        "... writing next state, reward and two flags": lambda step: rollout.after.write(
            step, (*envs.final_observations, envs.rewards, envs.terminated, envs.truncated)
        ),
    }
    lines = [
        "| part | µs |",
        "| --- | --- |",
        *(f"| {name} | {microseconds(part):.2f} |" for name, part in parts.items()),
    ]
    manager.close()
    print("\n".join(lines))
    if "--publish" in sys.argv[1:]:
        command = "python -m bench.step_profile --publish"
        publish("step", command, {"step": "\n".join(lines)}, "processor time, the best of some rounds")


if __name__ == "__main__":
    main()
