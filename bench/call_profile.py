"""Where the time of short calls goes: `python -m bench.call_profile`, with `--publish` into docs/performance.md.

Processor time of this thread, the least of rounds in which all parts take turns. A part is measured alone, with
arguments made before, so the parts of a call do not add up exactly: alone, each finds its code and data in the cache.

- a batch of 32 narrow rows of 100,000, and one such row that is put;
- 256 rows with hindsight, as in unit_peers.py.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from time import thread_time
from typing import Any

import numpy as np

from bench.clocks import timed
from bench.published import publish
from really import ReplayBuffer
from really.replay import Hindsight
from really.replay._trajectories import STRATEGIES, write_rows
from really.replay.hindsight import PART_BITS

sys.path.insert(0, str(Path(__file__).parent))
from benchmarks.peers import filled, filled_floor
from benchmarks.workloads import SMALL
from unit_peers import NUM, ROWS, compute_reward, reach_rows

BATCH, ROUNDS, SECONDS = 32, 40, 0.002
Parts = dict[str, Callable[[], Any]]


def nanoseconds(parts: Parts) -> dict[str, float]:
    """Of one call of each part."""
    repeats, least = {}, dict.fromkeys(parts, np.inf)
    for name, call in parts.items():
        repeats[name] = max(1, int(SECONDS / min(timed(call, 3, thread_time) / 3 for _ in range(5))))
    for _ in range(ROUNDS):
        for name, call in parts.items():
            least[name] = min(least[name], timed(call, repeats[name], thread_time) / repeats[name])
    return {name: 1e9 * seconds for name, seconds in least.items()}


def sampling() -> dict[str, float]:
    """The parts of `sample(32)`."""
    buffer, floor = filled("really", SMALL).buffer, filled_floor(SMALL, best=True)
    ring, arrays = buffer._ring, floor.outputs(BATCH)
    picks = np.random.default_rng(0).integers(0, SMALL.capacity, BATCH * 1000)
    held: deque[Any] = deque(maxlen=64)
    found = nanoseconds(
        {
            "`sample(32)`": lambda: buffer.sample(BATCH),
            "... if the caller holds 64 batches, so that arrays are made": lambda: held.append(buffer.sample(BATCH)),
            "the compiled call, arrays are used again": lambda: ring.sample(BATCH),
            "the compiled call, into arrays of the caller": lambda: ring.sample(BATCH, 0, False, arrays),
            "an empty call, which all of these have": lambda: None,
        }
    )
    least = min(floor.seconds_per_gather(picks, BATCH, arrays) for _ in range(ROUNDS))
    return found | {"best C: rows that were drawn before, into arrays": 1e9 * least}


def putting() -> dict[str, float]:
    """The parts of `put` of one row."""
    peer = filled("really", SMALL)
    row = {name: column[0] for name, column in SMALL.rows(1).items()}
    row = {name: value if value.ndim else value.item() for name, value in row.items()}
    arrays = {name: np.asarray(value, SMALL.spec[name][0]) for name, value in row.items()}
    return nanoseconds(
        {
            "`put` of one row": lambda: peer.put(row),
            "the compiled call": lambda: peer.buffer._ring.put(row),
            "... with arrays in place of Python's numbers": lambda: peer.buffer._ring.put(arrays),
        }
    )


def hindsight() -> dict[str, float]:
    """The parts of a batch of 256 rows with hindsight."""
    rows = reach_rows()
    buffer, plain = ReplayBuffer(NUM, unit=Hindsight(compute_reward), seed=0), ReplayBuffer(NUM, seed=0)
    for each in (buffer, plain):
        each.put(rows)
    batch = buffer.sample(ROWS)
    ring, index = buffer._ring, buffer._draws.unit._index
    numbers, drawn = np.flatnonzero(batch["relabelled"]), ring.draw_below(1 << PART_BITS, 2 * ROWS)
    places, later, _ = index.goal_rows(np.arange(ROWS), drawn, 4, STRATEGIES["future"])
    goals = ring.take_column("state_new.achieved_goal", later)
    achieved, rewards = goals[::-1].copy(), np.zeros(len(goals), np.float32)

    def write() -> None:
        write_rows(batch["reward"], places, rewards)
        for key in ("state.desired_goal", "state_new.desired_goal"):
            write_rows(batch[key], places, goals)

    return nanoseconds(
        {
            "`sample(256)` with hindsight": lambda: buffer.sample(ROWS),
            "a plain batch": lambda: plain.sample(ROWS),
            "the user's reward function": lambda: compute_reward(achieved, goals, {}),
            "draws": lambda: ring.draw_below(1 << PART_BITS, 2 * ROWS),
            "rows that get a goal, and its row": lambda: index.goal_rows(
                np.arange(ROWS), drawn, 4, STRATEGIES["future"]
            ),
            "goals from the ring": lambda: ring.take_column("state_new.achieved_goal", later),
            "what the rows achieved": lambda: batch["state_new.achieved_goal"].take(numbers, axis=0),
            "goals and rewards into the batch": write,
        }
    )


def main() -> None:
    lines = ["| part | ns |", "| --- | --- |"]
    for parts in (sampling, putting, hindsight):
        lines += [f"| {name.strip()} | {each:,.0f} |" for name, each in parts().items()]
    print("\n".join(lines))
    if "--publish" in sys.argv[1:]:
        publish("calls", "python -m bench.call_profile --publish", {"calls": "\n".join(lines)}, "by processor time")


if __name__ == "__main__":
    main()
