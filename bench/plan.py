"""What a buffer in shards needs on 1, 10 and 100 hosts, on paper: `python -m bench.plan [--row-bytes 7200] ...`.

It multiplies. What it multiplies is given as arguments, per host, and printed with the result. The rows a second that
the runners of a host collect, of Pong and of CartPole, are by default those that `make bench-frameworks` measured and
published. The memory and the network of a host are assumed.

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

from bench.published import measured
from really.service.shards import HEADROOM

RUN, FOUND, NUMBERED, PRIORITY = 32, 24, 1, 18.3
"""Bytes: of a run in the ledger and in its index; of a row's number, and of its priority in the tree."""


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
            f"| {plan.hosts} | {plan.capacity:.2g} | {plan.collected:,.0f} | {plan.described / 1e6:.3g} MB/s | "
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
FIGURE = PAGE.with_suffix(".png")
ATARI, SMALL = Rows(7_200, 35_400, 1_000, 2_600, 256), Rows(56, 56, 1_000, 2_600, 256)
MODEL = "Keras, TensorFlow (LiteRT)"


def collected(task: str) -> float:
    """Rows a second that the runners of one host collect of a task, as published."""
    name = "frameworks, pong" if task.startswith("Pong") else "frameworks"
    head, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in measured(name).splitlines())
    rate = next(line for line in lines if line[0] == MODEL)[head.index(task)]
    return float(rate.rpartition(", ")[0].replace(",", ""))


def plans_of(rows: Rows, host: Host, numbers: tuple[int, ...] = (1, 10, 100)) -> list[Plan]:
    """The plans for so many hosts."""
    return [Plan(hosts, host, rows) for hosts in numbers]


def hosts(memory: float = 64e9, wire: float = 0.5e9) -> dict[str, tuple[Rows, Host]]:
    """The rows of both tasks, and what a host does with them."""
    return {
        "atari": (ATARI, Host(collected("Pong, 16"), memory, wire)),
        "small": (SMALL, Host(collected("CartPole, 64"), memory, wire)),
    }


def about_host() -> str:
    """What one host does, in words."""
    host, games, poles = hosts()["atari"][1], collected("Pong, 16"), collected("CartPole, 64")
    return (
        f"Two cores of a host collect {games:,.0f} rows/s of Pong or {poles:,.0f} of CartPole (`make bench-frameworks`)"
        f".\nAssumed are {host.memory / 1e9:.0f} GB of each host for its shard, and {host.wire / 1e9:.1f} GB/s of rows "
        f"that come to the learner."
    )


def arithmetic(plan: Plan) -> str:
    """How the numbers of a plan come about."""
    host, rows, num = plan.host, plan.rows, plan.hosts
    return "\n".join([
        f"- rows held: {num} x {host.memory:.3g} B / {rows.held:,.0f} B / {HEADROOM} = {plan.capacity:.2g};",
        f"- collected: {num} x {host.rows_per_second:,.0f} = {plan.collected:,.0f} rows/s;",
        f"- descriptions: {plan.collected:,.0f} / {rows.chunk:,} x {rows.described:,.0f} B = "
        f"{plan.described / 1e6:.3g} MB/s;",
        f"- batches over the wire: {host.wire:.3g} B/s / ({rows.batch} x {rows.sent:,.0f} B x {num - 1} / {num}) = "
        f"{plan.batches:,.0f} a second;",
        f"- draws a row: {plan.batches:,.0f} x {rows.batch} / {plan.collected:,.0f} = {plan.replay_ratio:.2f};",
        f"- learner's memory: {plan.capacity:.2g} / {rows.chunk:,} x {RUN + FOUND} B + {plan.capacity:.2g} x "
        f"{NUMBERED} B = {plan.learner_bytes(plan.capacity, False) / 1e9:.2f} GB, and with",
        f"  priorities {plan.capacity:.2g} x {PRIORITY} B more.",
    ])  # fmt: skip


def written(text: str) -> str:
    """The page on clusters with the tables of this script between its marks."""
    plans = {name: plans_of(*both) for name, both in hosts().items()}
    found = {name: table(each) for name, each in plans.items()}
    found |= {"host": about_host(), "arithmetic": arithmetic(plans["atari"][1]), "end": ends(plans["atari"][0])}
    for name, part in found.items():
        mark = f"<!-- plan: {name} -->\n"
        before, _, rest = text.partition(mark)
        text = f"{before}{mark}{part}\n<!-- end -->{rest.partition('<!-- end -->')[2]}"
    return text


def figure(path: Path) -> None:
    """Rows a second over hosts: collected by all of them, and drawn by one learner from the shards of the others."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from bench.colours import COLOURS

    numbers = (1, 2, 3, 5, 10, 20, 30, 50, 100)
    drawing = Figure(figsize=(9.6, 3.8), layout="constrained")
    FigureCanvasAgg(drawing)
    titles = {"atari": "Pong, frames that cannot be compressed", "small": "CartPole, rows of 56 bytes"}
    for axes, (name, both) in zip(drawing.subplots(1, 2), hosts().items(), strict=True):
        plans = plans_of(*both, numbers)
        drawn = [plan.batches * plan.rows.batch for plan in plans[1:]]
        collected = [plan.collected for plan in plans]
        axes.loglog(numbers, collected, color=COLOURS["really"], marker="o", label="collected by all")
        axes.loglog(numbers[1:], drawn, color=COLOURS["sb3"], marker="o", label="drawn by one learner")
        axes.set(xlabel="hosts", ylabel="rows a second", title=titles[name])
        axes.set_xticks(numbers, [str(number) if number in (1, 10, 100) else "" for number in numbers])
        axes.grid(alpha=0.3)
        axes.legend()
    drawing.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row-bytes", type=float, default=7_200, help="of a row in a shard; Atari: a frame a row")
    parser.add_argument("--sent-bytes", type=float, default=35_400, help="of a row on the wire; Atari: five frames")
    parser.add_argument("--chunk", type=int, default=1_000, help="rows of a runner's chunk")
    parser.add_argument("--described", type=float, default=2_600, help="bytes of a chunk's description")
    parser.add_argument("--batch", type=int, default=256, help="rows of a batch")
    parser.add_argument("--rows-per-second", type=float, help="that a host's runners collect; by default Pong's")
    parser.add_argument("--memory", type=float, default=64e9, help="bytes of a host for its shard")
    parser.add_argument("--wire", type=float, default=0.5e9, help="bytes a second that come to a host")
    parser.add_argument("--write", action="store_true", help="write the tables and the figure of docs/clusters.md anew")
    given = parser.parse_args()
    if given.write:
        PAGE.write_text(written(PAGE.read_text()))
        figure(FIGURE)
    rows = Rows(given.row_bytes, given.sent_bytes, given.chunk, given.described, given.batch)
    rates = given.rows_per_second or collected("Pong, 16"), given.memory, given.wire
    plans = plans_of(rows, Host(*rates))
    print("Each host:", plans[0].host)
    print("Rows:", rows, end="\n\n")
    print(table(plans), end="\n\n")
    print(ends(plans[0]))


if __name__ == "__main__":
    main()
