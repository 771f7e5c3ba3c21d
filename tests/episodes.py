"""Rows of several agents in chunks, and a slow reference of trajectories, for the tests of sequences and episodes."""

from __future__ import annotations

import numpy as np


class World:
    """Agents that step in episodes; `chunk` gives the next rows of some of them, one agent's after the other's.

    `state` is (agent, time); time leaps by 2 between episodes, and by 5 where rows are lost.
    """

    def __init__(self, num_agents, seed=0, end_probability=0.2, loss_probability=0.0):
        self.draw = np.random.default_rng(seed)
        self.time = [0] * num_agents
        self.end_probability, self.loss_probability = end_probability, loss_probability

    def step(self, agent):
        time = self.time[agent]
        ends = self.draw.random() < self.end_probability
        terminal = ends and self.draw.random() < 0.5
        self.time[agent] += 2 if ends else 1
        if self.draw.random() < self.loss_probability:
            self.time[agent] += 5
        return {
            "state": (agent, time),
            "reward": self.draw.normal(),
            "state_new": (agent, time + 1),
            "terminal": terminal,
            "not_done": not ends,
            "agent": agent,
        }

    def chunk(self, steps):
        """Rows [sum of steps]; `steps` has (agent, how many) in order."""
        rows = [self.step(agent) for agent, num in steps for _ in range(num)]
        dtypes = {"agent": np.int32}
        return {key: np.array([row[key] for row in rows], dtypes.get(key, np.float32)) for key in rows[0]}

    def any_chunk(self, most=12):
        """A chunk of some agents, each with up to `most` steps."""
        agents = self.draw.permutation(len(self.time))[: self.draw.integers(1, len(self.time) + 1)]
        return self.chunk([(agent, self.draw.integers(1, most + 1)) for agent in agents])


def concatenated(chunks):
    return {key: np.concatenate([chunk[key] for chunk in chunks]) for key in chunks[0]}


class Reference:
    """The trajectories of rows, by number, of which the newest `capacity` are held; slow and plain.

    Attributes:
        links: row -> the next row of the same episode.
        first: rows that are known to begin an episode.
        joined: row that ends an episode -> the agent's next row.
    """

    def __init__(self, rows, capacity, removed=()):
        self.num = len(rows["agent"])
        self.oldest = max(0, self.num - capacity)
        self.held = [row for row in range(self.oldest, self.num) if row not in removed]
        self.ends = rows["not_done"] == 0
        self.links, self.first, self.joined = {}, set(), {}
        newest = {}
        for row in range(self.oldest, self.num):
            agent = rows["agent"][row]
            before = newest.get(agent)
            newest[agent] = row
            if before is None:
                if self.oldest == 0:
                    self.first.add(row)
                continue
            if self.ends[before]:
                self.first.add(row)
            if before in removed or row in removed:
                continue
            if self.ends[before]:
                self.joined[before] = row
            elif np.array_equal(rows["state"][row], rows["state_new"][before]):
                self.links[before] = row

    def window(self, start, length, joins=False):
        """Numbers of the rows of the window, at most `length`."""
        found = [start]
        while len(found) < length:
            after = self.links.get(found[-1], self.joined.get(found[-1]) if joins else None)
            if after is None:
                break
            found.append(after)
        return found

    def mask(self, window, burn_in=0):
        """Which steps of the window are learned from: those behind the burn-in, and from an episode's first step on."""
        return [at >= burn_in or not self.first.isdisjoint(window[: at + 1]) for at in range(len(window))]

    def starts(self, length, burn_in=0, pad=False, joins=False):
        """Rows whose windows are whole or, with `pad`, have a step to learn from."""
        windows = {row: self.window(row, burn_in + length, joins) for row in self.held}
        if pad:
            return [row for row, window in windows.items() if any(self.mask(window, burn_in))]
        return [row for row, window in windows.items() if len(window) == burn_in + length]

    def episodes(self):
        """Rows of each episode, or part of one, that is held, in the order in which they begin."""
        followers = set(self.links.values())
        return [self.window(row, self.num) for row in self.held if row not in followers]

    def is_whole(self, episode):
        return episode[0] in self.first and bool(self.ends[episode[-1]])
