"""Frameworks side by side: collecting, a runner's memory, and a DQN loop, with models of each framework.

`make bench-frameworks`. Every measurement has a fresh process. In each round each competitor has one turn, in an order
that rotates, and the tables show medians. Rates are rows a second of CPU time in one process (`use_ray=False`) with
frameworks on one thread: what a runner does, whatever else the machine does. The DQN loops are measured in wall time
and in CPU time.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.fresh import ROOT, said
from bench.published import publish

TITLES = {
    "tensorflow": "Keras, TensorFlow (LiteRT)",
    "torch": "PyTorch",
    "onnx": "PyTorch, extra `onnx`",
    "jax": "JAX",
    "callable": "NumPy",
}
NUMBERS = {1: 5_000, 8: 20_000, 64: 80_000}
CALLS = 6  # of which the fastest counts: what else the machine does takes caches away, too
# Shares of the rate of LiteRT that are asked for, by `num_parallel`; Pong is that of 16 games.
ASKED = {1: 0.60, 8: 0.70, 64: 0.85, "Pong": 0.85}
PONG_STEPS = 1_000
MEMORY = {"callable": 150, "torch": 350}  # MB of a runner, at most
# The DQN of RL Baselines3 Zoo for CartPole-v1, for 10,000 steps, with a 64-64 MLP.
DQN = {
    "steps": 10_000,
    "rows": 256,
    "updates": 128,
    "batch": 64,
    "first": 1_000,
    "hidden": 64,
    "rate": 2.3e-3,
    "gamma": 0.99,
    "target_every": 10,
    "epsilon": 0.04,
    "exploration": 0.16,
    "norm": 10.0,
}


def torch_module(*sizes: int, activation: str = "ReLU") -> Any:
    """An MLP in PyTorch."""
    from torch import nn

    class QNetwork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers: list[Any] = []
            for width, following in itertools.pairwise(sizes):
                layers += [nn.Linear(width, following), getattr(nn, activation)()]
            self.net = nn.Sequential(*layers[:-1])

        def forward(self, x: Any) -> dict[str, Any]:
            return {"q_values": self.net(x)}

    return QNetwork()


def torch_pong() -> Any:
    """The network of Mnih et al. 2015 in PyTorch."""
    from torch import nn

    class Pong(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers = [nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3, 1)]
            head = [nn.ReLU(), nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 6)]
            self.net = nn.Sequential(*layers, *head)

        def forward(self, x: Any) -> dict[str, Any]:
            return {"q_values": self.net(x.float() / 255.0)}

    return Pong()


def mlp_weights() -> list[Any]:
    """Weights and biases of a 64-64 MLP for CartPole.

    All frameworks act with them, as how long episodes are depends on the weights, and a reset takes as long as a step
    of several environments. With these an episode has about 118 rows.
    """
    import numpy as np

    rng = np.random.default_rng(4)
    kernels = [rng.normal(size=size).astype(np.float32) / 8 for size in itertools.pairwise((4, 64, 64, 2))]
    return [each for kernel in kernels for each in (kernel, np.zeros(kernel.shape[1], np.float32))]


def jax_mlp() -> Any:
    """A 64-64 MLP in JAX."""
    import jax

    def apply(parameters: Any, x: Any) -> dict[str, Any]:
        for kernel, bias in parameters[:-1]:
            x = jax.nn.relu(x @ kernel + bias)
        kernel, bias = parameters[-1]
        return {"q_values": x @ kernel + bias}

    weights = mlp_weights()
    return apply, list(zip(weights[::2], weights[1::2], strict=True))


def jax_pong() -> Any:
    """The network of Mnih et al. 2015 in JAX, with channels last, as flax has them."""
    import jax
    import jax.numpy as jnp

    shapes = [(8, 8, 4, 32), (4, 4, 32, 64), (3, 3, 64, 64), (3136, 512), (512, 6)]
    initial = jax.nn.initializers.he_normal()
    keys = jax.random.split(jax.random.key(0), len(shapes))
    layers = [(initial(key, shape), jnp.zeros(shape[-1])) for key, shape in zip(keys, shapes, strict=True)]

    def apply(parameters: Any, x: Any) -> dict[str, Any]:
        *convolutions, (kernel, bias), (last, last_bias) = parameters
        x = jnp.moveaxis(x, 1, -1).astype(jnp.float32) / 255
        for (window, offset), stride in zip(convolutions, (4, 2, 1), strict=True):
            strides, forms = (stride, stride), ("NHWC", "HWIO", "NHWC")
            x = jax.lax.conv_general_dilated(x, window, strides, "VALID", dimension_numbers=forms)
            x = jax.nn.relu(x + offset)
        hidden = jax.nn.relu(x.reshape(len(x), -1) @ kernel + bias)
        return {"q_values": hidden @ last + last_bias}

    return apply, layers


def numpy_mlp() -> Any:
    """A 64-64 MLP in NumPy."""
    import numpy as np

    first, first_bias, second, second_bias, last, last_bias = mlp_weights()

    def forward(x: Any) -> dict[str, Any]:
        hidden = np.maximum(x @ first + first_bias, 0)
        return {"q_values": np.maximum(hidden @ second + second_bias, 0) @ last + last_bias}

    return forward


def model_of(framework: str) -> Any:
    """The 64-64 MLP, with its framework on one thread."""
    if framework == "tensorflow":
        from bench.models import q_network

        return q_network
    if framework in ("torch", "onnx"):
        _one_thread(framework)
        return lambda: torch_module(4, 64, 64, 2)
    if framework == "jax":
        _one_thread(framework)
        return jax_mlp()
    return numpy_mlp()


def _one_thread(framework: str) -> None:
    if framework == "jax":
        from really.agents.frameworks.choice import framework_named

        framework_named("jax").prepare_runner()  # as a runner does
        return
    import torch

    torch.set_num_threads(1)
    if framework == "torch":
        sys.modules["onnxscript"] = None  # type: ignore[assignment]


def collecting(framework: str, number: int) -> dict[str, Any]:
    """Rows a second of CPU time of `get_data()` on CartPole after a first call, and how the model was called."""
    weights = [] if framework == "callable" else mlp_weights()
    if framework in ("torch", "onnx"):
        weights = [each.T for each in weights]
    return _rate(model_of(framework), "CartPole-v1", number, NUMBERS[number], weights)


def pong(framework: str, number: int) -> dict[str, Any]:
    """The same for Pong."""
    import really

    if framework == "tensorflow":
        from bench.models import pong_network as model
    else:
        _one_thread(framework)
        model = jax_pong() if framework == "jax" else torch_pong
    return _rate(model, really.atari("pong"), number, PONG_STEPS)


def _rate(model: Any, environment: Any, number: int, steps: int, weights: Sequence[Any] = ()) -> dict[str, Any]:
    import really

    options = {"num_steps": 128, "action_sampling_type": "epsilon_greedy", "epsilon": 0.1, "use_ray": False}
    with really.SampleManager(model, environment, number, steps, **options) as manager:
        if weights:
            manager.set_agent(list(weights))
        manager.get_data()
        rates = []
        for _ in range(CALLS):
            began = time.process_time()
            rows = len(manager.get_data()["reward"])
            rates.append(rows / (time.process_time() - began))
        return {"rate": max(rates), "inference": manager.info()["inference"]}


def memory(framework: str) -> dict[str, Any]:
    """MB that the process of a runner has resident after a call."""
    import psutil
    import ray

    import really

    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    options = {"num_steps": 128, "action_sampling_type": "epsilon_greedy", "num_workers": 1}
    with really.SampleManager(model_of(framework), "CartPole-v1", 8, 10_000, **options) as manager:
        manager.get_data()
        runner = manager.info()["runners"][0]
        return {"rate": psutil.Process(runner["pid"]).memory_info().rss / 1e6, "inference": manager.info()["inference"]}


def dqn(package: str) -> dict[str, Any]:
    """Seconds of a whole DQN loop on CartPole, start to end, after a short run of it."""
    import torch

    torch.set_num_threads(1)
    loop = {"really": _our_dqn, "sb3": _sb3_dqn}[package]
    loop(1_536)
    began, used = time.perf_counter(), time.process_time()
    loop(DQN["steps"])
    return {"rate": time.perf_counter() - began, "cpu": time.process_time() - used, "inference": ""}


def _our_dqn(steps: int) -> None:
    import copy

    import numpy as np
    import torch
    from torch import nn

    import really

    q_network = torch_module(4, DQN["hidden"], DQN["hidden"], 2)
    weights, target = OneVector(q_network), copy.deepcopy(q_network)
    options = {"num_steps": DQN["rows"], "action_sampling_type": "epsilon_greedy", "use_ray": False}
    with really.SampleManager(q_network, "CartPole-v1", 1, DQN["rows"], **options) as manager:
        manager.initialize_buffer(steps)
        batches = manager.batches((DQN["updates"], DQN["batch"]), 0, as_="torch")
        step = 0
        while step < steps:
            manager.set_epsilon(np.interp(step, [0, DQN["exploration"] * steps], [1.0, DQN["epsilon"]]))
            step += manager.collect()
            if step < DQN["first"]:
                continue
            data = next(batches)  # of all updates up to the next rows; the target stays as it is during them
            with torch.no_grad():
                value = target(data["state_new"])["q_values"].amax(-1)
                wanted = (data["reward"] + DQN["gamma"] * (1 - data["terminal"]) * value)[..., None]
            for state, action, td_target in zip(data["state"], data["action"][..., None], wanted, strict=True):
                found = q_network(state)["q_values"].gather(1, action)
                weights.train(nn.functional.smooth_l1_loss(found, td_target), DQN["rate"], DQN["norm"])
            target.load_state_dict(q_network.state_dict())
            manager.set_agent(q_network.state_dict())


class OneVector:
    """The parameters of a module as one vector, of which they are views, as gradients are.

    Few calls of PyTorch clip and train all of them. The result is that of `clip_grad_norm_` and `torch.optim.Adam`, but
    for rounding.
    """

    def __init__(self, module: Any) -> None:
        import torch
        from torch import nn

        parameters = list(module.parameters())
        self._values = nn.utils.parameters_to_vector(parameters).detach()
        nn.utils.vector_to_parameters(self._values, parameters)
        self._gradient, self._mean, self._square, self._root = (torch.zeros_like(self._values) for _ in range(4))
        gradients = self._gradient.split([each.numel() for each in parameters])
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.view_as(parameter)
        self._row, self._count = self._gradient[None], 0

    def train(self, loss: Any, rate: float, norm: float) -> None:
        """A step of Adam on the gradient of the loss, whose norm is at most `norm`."""
        import torch

        self._gradient.zero_()
        loss.backward()
        self._row.renorm_(2, 0, norm)
        self._count += 1
        bias, root_bias = 1 - 0.9**self._count, math.sqrt(1 - 0.999**self._count)
        self._mean.lerp_(self._gradient, 0.1)
        self._square.mul_(0.999).addcmul_(self._gradient, self._gradient, value=0.001)
        below = torch.sqrt(self._square, out=self._root).add_(1e-8 * root_bias)
        self._values.addcdiv_(self._mean, below, value=-rate * root_bias / bias)


def _sb3_dqn(steps: int) -> None:
    import gymnasium
    import stable_baselines3

    learner = stable_baselines3.DQN(
        "MlpPolicy",
        gymnasium.make("CartPole-v1"),
        learning_rate=DQN["rate"],
        batch_size=DQN["batch"],
        buffer_size=steps,
        learning_starts=DQN["first"],
        gamma=DQN["gamma"],
        target_update_interval=DQN["target_every"],
        train_freq=DQN["rows"],
        gradient_steps=DQN["updates"],
        exploration_fraction=DQN["exploration"],
        exploration_final_eps=DQN["epsilon"],
        max_grad_norm=DQN["norm"],
        policy_kwargs={"net_arch": [DQN["hidden"]] * 2},
        device="cpu",
    )
    learner.learn(steps)


TURNS: dict[str, Callable[..., dict[str, Any]]] = {"collect": collecting, "pong": pong, "memory": memory, "dqn": dqn}
CASES: dict[str, dict[str, tuple[Any, ...]]] = {
    **{f"collect {number}": {name: ("collect", name, number) for name in TITLES} for number in NUMBERS},
    "pong 16": {name: ("pong", name, 16) for name in ("tensorflow", "torch", "onnx", "jax")},
    "memory": {name: ("memory", name) for name in TITLES},
    "dqn": {name: ("dqn", name) for name in ("really", "sb3")},
}


def turn(*arguments: object) -> dict[str, Any]:
    """What a fresh process measures."""
    found: dict[str, Any] = json.loads(said("bench.frameworks", *arguments, OMP_NUM_THREADS="1"))
    return found


def measure(rounds: int, only: str | None) -> dict[str, dict[str, dict[str, Any]]]:
    """The medians of each competitor in each case."""
    results = {}
    for case, competitors in CASES.items():
        if only and not case.startswith(only):
            continue
        seen: dict[str, list[dict[str, Any]]] = {name: [] for name in competitors}
        for at in range(rounds):
            names = list(competitors)
            for name in names[at % len(names) :] + names[: at % len(names)]:
                seen[name].append(turn(*competitors[name]))
        results[case] = {name: _median(found) for name, found in seen.items()}
        print(f"{case}: {results[case]}", flush=True)
    return results


def _median(found: list[dict[str, Any]]) -> dict[str, Any]:
    numbers = {key for key, value in found[0].items() if not isinstance(value, str)}
    return found[0] | {key: statistics.median(each[key] for each in found) for key in numbers}


def rates_table(results: dict[str, Any], cases: dict[str, str]) -> str:
    """Rates of these cases as Markdown, by their titles, and shares of the rate of LiteRT."""
    lines = [f"| model | {' | '.join(cases)} |", f"| --- {'| --- ' * len(cases)}|"]
    measured = [results[case] for case in cases.values()]
    for name, title in ((name, title) for name, title in TITLES.items() if name in measured[0]):
        rates = [(each[name]["rate"], each["tensorflow"]["rate"]) for each in measured]
        cells = [f"{rate:,.0f}, {rate / base:.0%}" for rate, base in rates]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def memory_table(results: dict[str, Any]) -> str:
    """The memory of a runner as Markdown."""
    lines = ["| model | MB of a runner |", "| --- | --- |"]
    lines += [f"| {TITLES[name]} | {found['rate']:,.0f} |" for name, found in results["memory"].items()]
    return "\n".join(lines) + "\n"


def dqn_table(results: dict[str, Any]) -> str:
    """The seconds of the DQN loops as Markdown."""
    ours, other = results["dqn"]["really"], results["dqn"]["sb3"]
    lines = ["| | really, PyTorch | Stable-Baselines3 | times |", "| --- | --- | --- | --- |"]
    for title, key in (("seconds", "rate"), ("seconds of CPU time", "cpu")):
        lines.append(f"| {title} | {ours[key]:.1f} | {other[key]:.1f} | {other[key] / ours[key]:.1f} |")
    return "\n".join(lines) + "\n"


def tables(results: dict[str, Any]) -> dict[str, str]:
    """Each table that was measured, by the name of its markers."""
    found = {}
    if any(case.startswith("collect") for case in results):
        found["frameworks"] = rates_table(results, {f"CartPole, {number}": f"collect {number}" for number in NUMBERS})
    if "pong 16" in results:
        found["frameworks, pong"] = rates_table(results, {"Pong, 16": "pong 16"})
    if "memory" in results:
        found["frameworks, memory"] = memory_table(results)
    if "dqn" in results:
        found["frameworks, dqn"] = dqn_table(results)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs="+", help="one turn, in this process: what, framework, number")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", help="cases that begin so")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--publish", action="store_true", help="write the tables into docs/")
    arguments = parser.parse_args()
    if arguments.one:
        what, *rest = arguments.one
        print(json.dumps(TURNS[what](*(int(value) if value.isdigit() else value for value in rest))))
        return
    results = measure(arguments.rounds, arguments.only)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "frameworks.json").write_text(json.dumps(results, indent=1))
    print(*tables(results).values(), sep="\n")
    if arguments.publish:
        note = f"{arguments.rounds} rounds of fresh processes, medians, at a load of {os.getloadavg()[2]:.0f}"
        for name, table in tables(results).items():  # a file for each, so that one of them can be measured anew
            publish(name.replace(", ", "_"), "make bench-frameworks", {name: table}, note)


if __name__ == "__main__":
    main()
