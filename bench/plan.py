"""What a buffer in shards needs on 1, 10 and 100 hosts, on paper: `python -m bench.plan [--row-bytes 7200] ...`.

No measurement: it multiplies. What it multiplies is given as arguments, per host, and printed with the result.

- Memory: a shard has room for 1.5 times its share of the rows. Rows that share frames count with their frames once.
- Collecting: rows stay on the host that made them, so a host's rate is its runners'; only the description of a chunk
  goes to the learner.
- Sampling: of H hosts each has 1 / H of a batch, and what is not on the learner's host comes over its wire,
  each frame once.
- The learner's process has for each row a byte (its number) and the bytes of its priority, and for each run of rows 32
  bytes (the ledger) and 24 (to find it). A run is a chunk of one runner. A draw is a binary search over the runs.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

RUN, FOUND, NUMBERED, PRIORITY = 32, 24, 1, 18.3
"""Bytes: of a run in the ledger and in its index; of a row's number, and of its priority in the tree."""
HEADROOM = 1.5


@dataclass(frozen=True)
class Host:
    """What a host does.

    Attributes:
        rows_per_second: what its runners collect.
        memory: bytes for its shard.
        wire: bytes a second that come in over its network, of what Ray moves.
    """

    rows_per_second: float
    memory: float
    wire: float


@dataclass(frozen=True)
class Rows:
    """A task's rows.

    Attributes:
        held: bytes of a row in a shard.
        sent: bytes of a row of a batch on the wire.
        chunk: rows of a runner's chunk.
        described: bytes of a chunk's description.
        batch: rows of a batch.
    """

    held: float
    sent: float
    chunk: int
    described: float
    batch: int


@dataclass(frozen=True)
class Plan:
    """A buffer over so many hosts, of which the learner's is one."""

    hosts: int
    host: Host
    rows: Rows

    @property
    def capacity(self) -> float:
        """Rows that the shards hold."""
        room = self.hosts * self.host.memory / self.rows.held
        return room if self.hosts == 1 else room / HEADROOM

    @property
    def collected(self) -> float:
        """Rows a second of all hosts."""
        return self.hosts * self.host.rows_per_second

    @property
    def described(self) -> float:
        """Bytes a second of descriptions to the learner."""
        return self.collected / self.rows.chunk * self.rows.described

    @property
    def batches(self) -> float:
        """Batches a second that the learner's wire carries; infinite on one host."""
        remote = 1 - 1 / self.hosts
        return math.inf if remote == 0 else self.host.wire / (self.rows.batch * self.rows.sent * remote)

    @property
    def replay_ratio(self) -> float:
        """How often a row is drawn before it drops out, at most, if collecting goes on."""
        return self.batches * self.rows.batch / self.collected

    def learner_bytes(self, capacity: float, priorities: bool) -> float:
        """Bytes of the learner's process for so many rows."""
        runs = capacity / self.rows.chunk * (RUN + FOUND)
        return runs + capacity * (NUMBERED + (PRIORITY if priorities else 0))


def table(plans: list[Plan]) -> str:
    """Lines of Markdown."""
    lines = [
        "| hosts | rows held | collected, rows/s | descriptions to the learner | batches/s over its wire | draws a row "
        "| learner's memory, with priorities |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for plan in plans:
        plain, priorities = (plan.learner_bytes(plan.capacity, drawn) for drawn in (False, True))
        batches = "no limit" if math.isinf(plan.batches) else f"{plan.batches:,.0f}"
        draws = "no limit" if math.isinf(plan.replay_ratio) else f"{plan.replay_ratio:.2f}"
        lines.append(
            f"| {plan.hosts} | {plan.capacity:.2g} | {plan.collected:,.0f} | {plan.described / 1e6:.2f} MB/s | "
            f"{batches} | {draws} | {plain / 1e9:.2f} GB, {priorities / 1e9:.2f} GB |"
        )
    return "\n".join(lines)


def ends(plan: Plan, capacity: float = 1e10) -> str:
    """What so many rows take."""
    runs = capacity / plan.rows.chunk
    plain, priorities = (plan.learner_bytes(capacity, drawn) for drawn in (False, True))
    shards = HEADROOM * capacity * plan.rows.held
    return (
        f"{capacity:.0e} rows take {shards / 1e12:.1f} TB in shards, or {shards / plan.host.memory:,.0f} hosts. The\n"
        f"learner takes {runs * (RUN + FOUND) / 1e9:.2f} GB for the ledger of {runs:.0e} runs, "
        f"{capacity * NUMBERED / 1e9:.0f} GB for numbers and {(priorities - plain) / 1e9:.0f} GB for\n"
        f"priorities; a draw has {math.ceil(math.log2(runs))} steps of a search."
    )


PAGE = Path(__file__).resolve().parents[1] / "docs" / "clusters.md"
ATARI, SMALL = Rows(7_200, 35_400, 1_000, 2_600, 256), Rows(56, 56, 1_000, 2_600, 256)


def plans_of(rows: Rows, rows_per_second: float, memory: float = 64e9, wire: float = 0.5e9) -> list[Plan]:
    """The plans for 1, 10 and 100 hosts."""
    return [Plan(hosts, Host(rows_per_second, memory, wire), rows) for hosts in (1, 10, 100)]


def written(text: str) -> str:
    """The page on clusters with the tables of this script between its marks."""
    atari, small = plans_of(ATARI, 10_000), plans_of(SMALL, 100_000)
    found = {"atari": table(atari), "small": table(small), "end": ends(atari[0])}
    for name, part in found.items():
        mark = f"<!-- plan: {name} -->\n"
        before, _, rest = text.partition(mark)
        text = f"{before}{mark}{part}\n<!-- end -->{rest.partition('<!-- end -->')[2]}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row-bytes", type=float, default=7_200, help="of a row in a shard; Atari: a frame a row")
    parser.add_argument("--sent-bytes", type=float, default=35_400, help="of a row on the wire; Atari: five frames")
    parser.add_argument("--chunk", type=int, default=1_000, help="rows of a runner's chunk")
    parser.add_argument("--described", type=float, default=2_600, help="bytes of a chunk's description")
    parser.add_argument("--batch", type=int, default=256, help="rows of a batch")
    parser.add_argument("--rows-per-second", type=float, default=10_000, help="that the runners of a host collect")
    parser.add_argument("--memory", type=float, default=64e9, help="bytes of a host for its shard")
    parser.add_argument("--wire", type=float, default=0.5e9, help="bytes a second that Ray moves to a host")
    parser.add_argument("--write", action="store_true", help="write the tables of docs/clusters.md anew")
    given = parser.parse_args()
    if given.write:
        PAGE.write_text(written(PAGE.read_text()))
    rows = Rows(given.row_bytes, given.sent_bytes, given.chunk, given.described, given.batch)
    plans = plans_of(rows, given.rows_per_second, given.memory, given.wire)
    print("Each host:", plans[0].host)
    print("Rows:", rows, end="\n\n")
    print(table(plans), end="\n\n")
    print(ends(plans[0]))


if __name__ == "__main__":
    main()
