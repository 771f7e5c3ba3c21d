"""A pytest plugin for `make test-damage`: a table of attacks, how many were held and how many fell, at its end.

A test that makes several attacks records them as a property: `record_property("attacks", (kind, attacks, held))`. Any
other test is one attack of the kind that its file has in `KINDS`.
"""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

import pytest

KINDS = {
    "test_atomic_folders": "handlers amid a save",
    "test_checkpoint_disk_full": "full disks, no inodes",
    "test_checksums": "flipped bits of folders",
    "test_crafted_files": "crafted saved buffers",
    "test_crafted_folders": "crafted folders",
    "test_crafted_models": "crafted models",
    "test_damaged_frames": "damaged frames",
    "test_disk_kills": "kills of a writer",
    "test_cut_files": "files cut short while open",
    "test_damage": "what finds mutants",
    "test_faults": "faults of runners",
    "test_finalizers": "finalizers amid a call",
    "test_forks": "forks of threads",
    "test_full_disks": "full disks, no inodes",
    "test_input_files": "errors of parsers",
    "test_killed_runtime": "Ray killed, its memory full",
    "test_leaks": "handles and mappings left",
    "test_moments": "returns to a checkpoint",
    "test_moved_folders": "folders moved while open",
    "test_removal_kills": "kills of a writer",
    "test_resuming": "returns to a checkpoint",
    "test_runner_memory": "runners out of memory",
    "test_updates": "updates of rows on disk",
}

_attacks: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped or not (report.when == "call" or report.failed):
        return
    recorded = [value for name, value in report.user_properties if name == "attacks"]
    path = Path(str(report.location[0])).stem
    for kind, attacks, held in recorded or [(KINDS.get(path, path), 1, int(report.passed))]:
        _attacks[kind].update(attacks=attacks, held=held)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    total: collections.Counter[str] = collections.Counter()
    terminalreporter.section("damage")
    terminalreporter.write_line(f"{'kind':28}{'attacks':>9}{'held':>9}{'fell':>9}")
    for kind, counts in [*sorted(_attacks.items()), ("total", total)]:
        numbers = counts["attacks"], counts["held"], counts["attacks"] - counts["held"]
        terminalreporter.write_line(f"{kind:28}" + "".join(f"{number:>9,}" for number in numbers))
        total.update(counts)
