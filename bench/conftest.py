"""`pytest bench/` runs every asv benchmark once, shortly, and prints the results; pytest and asv share the files."""

import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from benchmarks import cells_of  # noqa: E402 - once the folder is on the path

KINDS = ("time_", "timeraw_", "peakmem_", "track_")
measured = []


def pytest_collect_file(file_path, parent):
    """A benchmark module holds classes with asv's methods."""
    if file_path.parent == HERE / "benchmarks" and file_path.suffix == ".py":
        return BenchmarkFile.from_parent(parent, path=file_path)
    return None


class BenchmarkFile(pytest.File):
    """The benchmarks of one module."""

    def collect(self):
        for group, method, values in cells_of(self.path.stem, KINDS):
            label = f"{group.__name__}.{method}[{', '.join(map(str, values))}]"
            yield Benchmark.from_parent(self, name=label, group=group, method=method, values=values)


class Benchmark(pytest.Item):
    """One benchmark with one combination of its parameters."""

    def __init__(self, *, group, method, values, **more):
        super().__init__(**more)
        self.group, self.method, self.values = group, method, values

    def runtest(self):
        instance = self.group()
        try:
            getattr(instance, "setup", lambda *values: None)(*self.values)
        except (NotImplementedError, ImportError) as reason:
            pytest.skip(str(reason))
        try:
            result = measure(getattr(instance, self.method), self.method, self.values)
        finally:
            getattr(instance, "teardown", lambda *values: None)(*self.values)
        measured.append(f"{self.path.stem}.{self.name:60} {result}")

    def reportinfo(self):
        return self.path, 0, self.name


def measure(call, method, values):
    """Runs one short measurement; returns its result as text."""
    if method.startswith("timeraw_"):
        command = [
            sys.executable,
            "-c",
            f"import time; t = time.perf_counter(); {call()}; print(time.perf_counter() - t)",
        ]
        return seconds(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    if method.startswith("time_"):
        call(*values)
        repeats = max(1, int(0.005 / timed(call, values, 1)))
        return seconds(min(timed(call, values, repeats) for _ in range(3)))
    result = call(*values)
    if method.startswith("peakmem_"):
        return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:9.1f} MB so far"
    return seconds(result)


def timed(call, values, repeats):
    start = time.perf_counter()
    for _ in range(repeats):
        call(*values)
    return (time.perf_counter() - start) / repeats


def seconds(value):
    """A time, in microseconds."""
    return f"{value * 1e6:12.2f} us"


def pytest_terminal_summary(terminalreporter):
    """Prints the timings after the tests."""
    if measured:
        terminalreporter.section("benchmarks")
        for line in measured:
            terminalreporter.write_line(line)
