"""Memory and sampling speed as buffers fill with real Pong transitions: `make bench-atari`.

Each buffer lives in a process of its own and is filled by the same 16 games of ALE Pong (random actions, fixed seed),
in chunks of 128 steps a game. Every `--every` rows it reports resident memory and the rate of batches of 256. A buffer
stops at `--rows`, or when its process exceeds `--budget` GB.

Each peer has the options that its documentation gives for the least memory: cpprb `next_of` and `stack_compress` (one
game's chunk at a time, then `on_episode_end`), Stable-Baselines3 `optimize_memory_usage`, NumPy preallocated arrays.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from colours import COLOURS

from bench.published import publish

GAMES, STEPS, BATCH = 16, 128, 256
PEERS = ("really", "cpprb", "sb3", "numpy")
STATE = (4, 84, 84)
ROW_NBYTES = 2 * 4 * 84 * 84 + 16
# Batches at each report, and what the control copies: the bytes of a batch, from places that no cache holds.
TURNS, COPIED, SOURCES = 160, BATCH * ROW_NBYTES, 20
RESULTS = Path(__file__).parent / "results"


class Really:
    """This package's buffer, as a manager makes it."""

    def __init__(self, rows, budget):
        from really import ReplayBuffer

        self.buffer = ReplayBuffer(rows, ["state", "action", "reward", "state_new", "terminal"], seed=0)

    def put(self, chunk):
        """`[game, step, ...]` columns."""
        self.buffer.put({key: column.reshape(-1, *column.shape[2:]) for key, column in chunk.items()})

    def sample(self):
        """Samples a batch."""
        return self.buffer.sample(BATCH)


class Cpprb:
    """cpprb with its options for large images."""

    def __init__(self, rows, budget):
        import cpprb

        env = {"obs": {"shape": (84, 84, 4), "dtype": np.uint8}, "act": {"dtype": np.int64}, "rew": {}, "done": {}}
        self.buffer = cpprb.ReplayBuffer(rows, env, next_of="obs", stack_compress="obs")

    def put(self, chunk):
        """Puts one game's steps at a time; `stack_compress` needs the stack axis last."""
        last = {key: np.moveaxis(chunk[key], 2, -1) for key in ("state", "state_new")}
        for game in range(GAMES):
            steps = {key: chunk[key][game] for key in ("action", "reward", "terminal")}
            self.buffer.add(
                obs=last["state"][game],
                next_obs=last["state_new"][game],
                act=steps["action"],
                rew=steps["reward"],
                done=steps["terminal"],
            )
            self.buffer.on_episode_end()

    def sample(self):
        """Samples a batch."""
        return self.buffer.sample(BATCH)


class StableBaselines:
    """Stable-Baselines3's buffer with `optimize_memory_usage`."""

    def __init__(self, rows, budget):
        from gymnasium import spaces
        from stable_baselines3.common.buffers import ReplayBuffer

        self.rows = min(rows, int(2 * budget / ROW_NBYTES))  # the system would not reserve more
        self.buffer = ReplayBuffer(
            self.rows,
            spaces.Box(0, 255, STATE, np.uint8),
            spaces.Discrete(6),
            n_envs=GAMES,
            optimize_memory_usage=True,
            handle_timeout_termination=False,
        )

    def put(self, chunk):
        """Puts one step of all games at a time."""
        infos = [{}] * GAMES
        for step in range(STEPS):
            row = {key: column[:, step] for key, column in chunk.items()}
            self.buffer.add(row["state"], row["state_new"], row["action"], row["reward"], row["terminal"], infos)

    def sample(self):
        """Samples a batch."""
        return self.buffer.sample(BATCH)


class NumPy:
    """Preallocated columns."""

    def __init__(self, rows, budget):
        self.rows = rows = min(rows, int(budget / ROW_NBYTES))  # the system would not reserve more
        kinds = {"state": (np.uint8, STATE), "state_new": (np.uint8, STATE), "action": (np.int64, ())}
        kinds |= {"reward": (np.float32, ()), "terminal": (np.float32, ())}
        self.columns = {key: np.zeros((rows, *shape), dtype) for key, (dtype, shape) in kinds.items()}
        self.size, self.draw = 0, np.random.default_rng(0)

    def put(self, chunk):
        """Puts slices."""
        for key, column in chunk.items():
            self.columns[key][self.size : self.size + GAMES * STEPS] = column.reshape(-1, *column.shape[2:])
        self.size += GAMES * STEPS

    def sample(self):
        """Samples a batch."""
        indices = self.draw.integers(0, self.size, BATCH)
        return {key: column[indices] for key, column in self.columns.items()}


KINDS = dict(zip(PEERS, (Really, Cpprb, StableBaselines, NumPy), strict=True))


def pong():
    """Yields chunks of transitions `[game, step, ...]` without end."""
    import really

    games = really.atari("pong", terminal_on_life_loss=False).make_vector(GAMES)
    draw = np.random.default_rng(0)
    state, _ = games.reset(seed=0)
    shape = {
        "state": (np.uint8, STATE),
        "action": (np.int64, ()),
        "reward": (np.float32, ()),
        "state_new": (np.uint8, STATE),
    }
    chunk = {key: np.zeros((GAMES, STEPS, *row), dtype) for key, (dtype, row) in shape.items()}
    chunk["terminal"] = np.zeros((GAMES, STEPS), np.float32)
    while True:
        for step in range(STEPS):
            action = draw.integers(0, 6, GAMES)
            after, reward, terminated, truncated, info = games.step(action)
            final = np.array(after)
            for game in np.flatnonzero(terminated | truncated):
                final[game] = info["final_obs"][game]
            row = {"state": state, "action": action, "reward": reward, "state_new": final, "terminal": terminated}
            for key, value in row.items():
                chunk[key][:, step] = value
            state = np.array(after)
        yield chunk


def resident() -> float:
    """Resident memory of this process in GB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e9
    return float("nan")


def rates(peer) -> dict[str, float]:
    """Medians of batches in turns with a control, which copies as many bytes with `memcpy`.

    Other work on the machine slows both, so their ratio does not show it.
    """
    source, target = np.ones((SOURCES, COPIED), np.uint8), np.empty(COPIED, np.uint8)
    seconds: dict[str, list[float]] = {"batch": [], "copy": []}
    for turn in range(TURNS):
        for name, call in (("batch", peer.sample), ("copy", partial(np.copyto, target, source[turn % SOURCES]))):
            began = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - began)
    batch, copy = (float(np.median(times)) for times in seconds.values())
    return {"rows_per_second": BATCH / batch, "share_of_copy": copy / batch}


def fill(name: str, rows: int, every: int, budget: float) -> None:
    """Fills one buffer and prints a line of JSON at each report."""
    source = pong()
    next(source)
    before, peer, held, due, spent = resident(), KINDS[name](rows, budget * 1e9), 0, every, 0.0
    fits = getattr(peer, "rows", rows)
    while held + GAMES * STEPS <= fits and resident() < budget:
        chunk = next(source)
        began = time.perf_counter()
        peer.put(chunk)
        spent += time.perf_counter() - began
        held += GAMES * STEPS
        if held >= due or held + GAMES * STEPS > fits:
            due += every
            report = {
                "rows": held,
                "gigabytes": resident() - before,
                "put": held / spent,
                **rates(peer),
            }
            print(json.dumps(report), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--every", type=int, default=50_000)
    parser.add_argument("--budget", type=float, default=9.0, help="GB at which a buffer's filling ends")
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=PEERS)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--publish", action="store_true", help="write the table into docs/")
    parser.add_argument("--fill", choices=PEERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fill:
        fill(options.fill, options.rows, options.every, options.budget)
        return
    RESULTS.mkdir(exist_ok=True)
    known = json.loads((RESULTS / "atari.json").read_text()) if (RESULTS / "atari.json").exists() else {}
    results = {name: known[name] for name in PEERS if name in known and name not in options.peers}
    results |= {name: measure(name, options) for name in options.peers}
    (RESULTS / "atari.json").write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    if options.publish:
        publish("atari", "make bench-atari", {"pong": table(results)})
    if options.figure:
        draw(results, options)


def measure(name: str, options: argparse.Namespace) -> list[dict[str, float]]:
    """The reports of one buffer in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "bench.atari",
        "--fill",
        name,
        "--rows",
        str(options.rows),
        "--every",
        str(options.every),
    ]
    command += ["--budget", str(options.budget)]
    reports = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            reports.append(json.loads(line))
            print(name, line.strip(), flush=True)
    return reports


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """Markdown table of the last report of each buffer."""
    lines = [
        "| buffer | transitions | GB | kB a transition | sampled rows/s | of `memcpy` | put rows/s |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, reports in results.items():
        if reports:
            end = reports[-1]
            size = 1e6 * end["gigabytes"] / end["rows"]
            rates = f"{end['rows_per_second']:,.0f} | {end['share_of_copy']:.2f} | {end['put']:,.0f}"
            lines.append(f"| {name} | {end['rows']:,} | {end['gigabytes']:.2f} | {size:.2f} | {rates} |")
    return "\n".join(lines)


def draw(results: dict[str, list[dict[str, float]]], options: argparse.Namespace) -> None:
    """Resident memory and sampling rate over transitions."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    # Markers tell the curves apart in print.
    markers = {"really": "o", "cpprb": "s", "sb3": "^", "numpy": "D"}
    label = {
        "really": "really",
        "cpprb": "cpprb, next_of + stack_compress",
        "sb3": "Stable-Baselines3, optimize_memory_usage",
    }
    canvas, (memory, speed) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name, reports in results.items():
        rows = [report["rows"] / 1e6 for report in reports]
        kind = {
            "color": COLOURS[name],
            "marker": markers[name],
            "markersize": 4,
            "label": label.get(name, "NumPy arrays"),
        }
        memory.plot(rows, [report["gigabytes"] for report in reports], **kind)
        speed.plot(rows, [report["share_of_copy"] for report in reports], **kind)
    memory.axhline(options.budget, color="#999999", linewidth=0.8, linestyle="--")
    memory.set(xlabel="transitions held (millions)", ylabel="resident memory (GB)", ylim=(0, None), xlim=(0, None))
    speed.set(xlabel="transitions held (millions)", ylabel="batches of 256, speed of memcpy = 1", ylim=(0, None))
    memory.legend(frameon=False, fontsize=8)
    canvas.savefig(options.figure, dpi=120)


if __name__ == "__main__":
    main()
