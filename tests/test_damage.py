"""Mutated files of each kind: an error that names the file, or what was written (`make test-damage`: 2,000 each)."""

from __future__ import annotations

import numpy as np
import pytest

from really import ReplayBuffer
from tests.fuzz_target import inputs, try_one
from tests.fuzzing import ATTACKS, Target, in_a_child

CHECKPOINTS = [name for name in ATTACKS if "checkpoint" in name]
OTHERS = [name for name in ATTACKS if "checkpoint" not in name]


@pytest.mark.parametrize("num", [200, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("names", [OTHERS, CHECKPOINTS], ids=["files", "checkpoints"])
def test_mutants_are_held(names, num, tmp_path, record_property):
    counts = in_a_child(names, num, tmp_path)
    for name, count in counts.items():
        record_property("attacks", (f"mutants: {name}", count["attacks"], count["held"]))
    assert {name: count["fell"] for name, count in counts.items()} == dict.fromkeys(names, 0)
    assert all(count["attacks"] == num for count in counts.values())


def test_the_target_of_a_fuzzer_holds_what_it_begins_with(tmp_path):
    target = Target("crafted folder", tmp_path)
    found = inputs(target)
    assert len(found) == len({data[0] for data in found}) >= 5
    for data in [*found, b"", b"\0", found[0][:40], bytes([200]) + found[1][1:]]:
        try_one(target, data)


def test_a_mutant_that_gives_another_content_without_a_word_falls(tmp_path):
    target = Target("folder", tmp_path)
    other = ReplayBuffer(40, ["action"], path=tmp_path / "other")
    other.put({"action": np.arange(40)})
    other.close()
    assert target.read(tmp_path / "other", "nothing") == "other content, after a change of nothing"
