"""The command `really`: each command on real files, its JSON, its help, and its errors on one line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from really import ReplayBuffer, ShardedBuffer
from really.cli.main import COMMANDS, main
from really.metrics.aggregator import Aggregator
from really.replay.engine import CPU_LEVELS

ROOT = Path(__file__).parents[2]
NAMES = [module.__name__.rpartition(".")[2] for module in COMMANDS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A buffer on disk: two agents whose episodes have five steps, with pictures."""
    path = tmp_path_factory.mktemp("cli") / "buffer"
    buffer = ReplayBuffer(100, path=path)
    frames = np.arange(21, dtype=np.uint8)[:, None, None] * np.ones((8, 8), np.uint8)
    ends = np.tile([1, 1, 1, 1, 0], 4).astype(np.float32)
    agents = np.repeat(np.arange(2, dtype=np.int32), 10)
    rewards = np.arange(20, dtype=np.float32)
    buffer.put({"state": frames[:-1], "reward": rewards, "not_done": ends, "agent": agents, "action": agents % 2})
    buffer.close()
    return path


def ran(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def failed(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """The one line that a failing command prints."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as end:
        code = end.code
    printed = capsys.readouterr()
    assert code == 2
    assert not printed.out
    (line,) = printed.err.splitlines()
    return line


def test_info_of_a_buffer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    about = json.loads(ran(capsys, "info", folder, "--json"))
    assert (about["kind"], about["rows"], about["capacity"]) == ("buffer", 20, 100)
    assert re.fullmatch(r"really-buffer-folder \d", about["format"])
    assert about["columns"]["state"] == "uint8[8, 8]"
    assert about["options"] == {"overcommit": False, "dedup": False, "n_step": 1}
    assert about["episodes"] == {"ended": 4, "whole": 4, "mean_return": 47.5, "mean_length": 5.0}
    assert about["file_bytes"] > 0
    assert about["times_smaller_than_whole_rows"] == ReplayBuffer.open(folder).memory()["ratio"]
    assert re.search(r"^rows +20$", ran(capsys, "info", folder), re.MULTILINE)


def test_info_leaves_out_episodes_that_may_have_lost_their_start(tmp_path: Path) -> None:
    from really.cli.info import episodes

    buffer = ReplayBuffer(6)
    numbers = np.arange(8, dtype=np.float32)
    buffer.put({"reward": numbers, "not_done": 1 - (numbers % 4 == 3), "agent": np.zeros(8, np.int32)})
    assert episodes(buffer) == {"ended": 2, "whole": 1, "mean_return": 22.0, "mean_length": 4.0}
    assert episodes(ReplayBuffer(6)) == {"ended": "not told: no column not_done or terminal"}


def test_info_of_a_saved_buffer_and_an_aggregator(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "20 rows" in ran(capsys, "export", folder, tmp_path / "saved.arrow")
    about = json.loads(ran(capsys, "info", tmp_path / "saved.arrow", "--json"))
    assert (about["kind"], about["rows"], about["format"]) == ("saved buffer", 20, "really-buffer-2")
    Aggregator(tmp_path / "progress").update(loss=2.0)
    about = json.loads(ran(capsys, "info", tmp_path / "progress", "--json"))
    assert (about["kind"], about["updates"], about["last"]) == ("progress", 1, {"loss": 2.0})


def test_info_of_a_model_and_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from really import SampleManager
    from tests.environments import Counter
    from tests.models import QNet

    with SampleManager(QNet, Counter, 1, 10, use_ray=False) as manager:
        manager.initialize_buffer(20)
        manager.collect()
        manager.save_model(tmp_path / "models", epoch=7)
        manager.save_checkpoint(tmp_path / "runs", counters={"steps": 10})
    model = json.loads(ran(capsys, "info", tmp_path / "models", "--json"))
    assert (model["kind"], model["epoch"], model["normalised"]) == ("model", 7, "nothing")
    assert model["format"] == "really-checkpoint-2"
    assert model["weights"]
    checkpoint = json.loads(ran(capsys, "info", tmp_path / "runs", "--json"))
    assert (checkpoint["kind"], checkpoint["counters"]) == ("checkpoint", {"steps": 10})
    assert checkpoint["format"] == "really-training-2"
    buffer = checkpoint["buffer"]
    assert (buffer["place"], buffer["rows"], buffer["capacity"]) == ("in it", 10, 20)
    assert buffer["columns"].keys() >= {"state", "reward"}
    assert len(json.loads(ran(capsys, "head", tmp_path / "runs", "--json"))) == 10


def test_info_of_a_folder_tells_each_part_in_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from really import SampleManager
    from tests.environments import Counter
    from tests.models import QNet

    run = tmp_path / "runs" / "dqn_0"
    with SampleManager(QNet, Counter, 1, 10, use_ray=False) as manager:
        manager.initialize_buffer(20, path=run / "replay")
        manager.collect()
        manager.save_model(run / "models", epoch=7)
        saved = Path(manager.save_checkpoint(run / "checkpoints", counters={"steps": 10}))
    Aggregator(run / "progress").update(loss=0.25)
    for file in ("rows.parquet", "rows.arrow"):
        ran(capsys, "export", folder, run / file)
    (run / "notes").mkdir()
    (run / "result.json").write_text('{"task": "secret", "mean_return": 499.5}')
    (run / ".hidden").write_text("1")

    about = json.loads(ran(capsys, "info", run, "--json"))
    assert about["kind"] == "folder"
    columns = "state, reward, not_done, agent, action"
    columns_of_runs = ["state", "action", "reward", "state_new", "terminal"]
    assert [(part["name"], part["kind"], part["holds"]) for part in about["parts"] if part["name"] != "models"] == [
        ("checkpoints", "checkpoint", f"buffer in its own folder, counters: steps 10; newest {saved.name}"),
        ("progress", "progress", "1 updates, last: loss 0.25"),
        ("replay", "buffer", f"10 rows of 20: {', '.join(columns_of_runs)}"),
        ("rows.arrow", "saved buffer", f"20 rows of 100: {columns}"),
        ("rows.parquet", "parquet", f"20 rows: {columns}"),
        ("notes", "folder", "0 entries"),
        ("result.json", "file", "40 bytes: mean_return 499.5"),
    ]
    (models,) = (part for part in about["parts"] if part["name"] == "models")
    assert re.fullmatch(r"epoch 7, \d+ weights; newest model_7_\S+", models["holds"])
    parts = "checkpoints, models, progress, replay, rows.arrow, rows.parquet"
    assert json.loads(ran(capsys, "info", run.parent, "--json"))["parts"] == [
        {"name": "dqn_0", "kind": "folder", "holds": parts}
    ]
    own = {"place": "in its own folder", "folder": str(run / "replay"), "capacity": 20, "rows_put": 10}
    checkpoint = json.loads(ran(capsys, "info", run / "checkpoints", "--json"))["buffer"]
    assert (checkpoint.pop("columns").keys(), checkpoint) == (set(columns_of_runs), own)
    assert failed(capsys, "head", run / "checkpoints") == (
        f"really head: {run / 'checkpoints'}: expected a buffer, got a checkpoint whose rows are in the folder "
        f"{run / 'replay'}"
    )
    assert failed(capsys, "head", run) == (
        f"really head: {run}: expected a buffer, got a folder with {parts}; give the path of one of them"
    )


def test_info_of_a_buffer_in_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "replay"
    with ShardedBuffer(25, shards=2, path=path) as buffer:
        for _ in range(3):
            buffer.put({"reward": np.ones(10, np.float32)})
    about = json.loads(ran(capsys, "info", path, "--json"))
    assert (about["kind"], about["rows"], about["columns"]) == ("shards", 25, {"reward": "float32[]"})
    assert (about["capacity"], about["episodes"]) == (25, {"ended": "not told: no column not_done or terminal"})
    assert [shard["shard"] for shard in about["shards"]] == ["shard-000", "shard-001"]
    assert sum(shard["rows"] for shard in about["shards"]) == 25
    (part,) = json.loads(ran(capsys, "info", tmp_path, "--json"))["parts"]
    assert part == {"name": "replay", "kind": "shards", "holds": "25 rows of 25: reward; in 2 shards"}


def test_commands_read_a_buffer_in_shards_in_the_order_of_puts(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "replay"
    with ReplayBuffer.open(folder) as buffer, ShardedBuffer(100, shards=3, path=path) as shards:
        for first in range(0, 20, 4):
            shards.put(buffer.take(np.arange(first, first + 4)))
    assert len(list(path.glob("shard-*/places"))) > 1
    for arguments in (("-n", 7), ("-n", 3, "--tail", "--keys", "reward")):
        of_shards = ran(capsys, "head", path, "--json", *arguments)
        assert of_shards == ran(capsys, "head", folder, "--json", *arguments)
    query = "select agent, list(reward) as rewards from buffer group by agent order by agent"
    assert ran(capsys, "sql", query, path, "--json") == ran(capsys, "sql", query, folder, "--json")
    for suffix in ("parquet", "arrow"):
        target = tmp_path / f"rows.{suffix}"
        assert ran(capsys, "export", path, target) == f"20 rows in {target}\n"
        assert ran(capsys, "head", target, "--json", "-n", 20) == ran(capsys, "head", folder, "--json", "-n", 20)
    ran(capsys, "film", path, tmp_path / "film.gif", "--episode", 1)
    ran(capsys, "film", folder, tmp_path / "same.gif", "--episode", 1)
    assert (tmp_path / "film.gif").read_bytes() == (tmp_path / "same.gif").read_bytes()
    checked = json.loads(ran(capsys, "check", path, "--json"))
    assert checked == {"kind": "shards", "rows": 20, "damaged": 0, "without a checksum": 0}
    for records in path.glob("shard-*/rows/records"):
        with records.open("r+b") as file:
            file.write(bytes(range(200)))
    assert failed(capsys, "check", path).startswith(f"really check: {path}: expected rows as they were put, got ")


def test_info_of_a_folder_names_a_part_that_is_damaged(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran(capsys, "export", folder, tmp_path / "good.arrow")
    for name in ("bad.arrow", "bad.parquet"):
        (tmp_path / name).write_bytes((b"ARROW1" if name == "bad.arrow" else b"PAR1") + bytes(100))
    (tmp_path / "schema").mkdir()
    (tmp_path / "schema" / "schema.json").write_text("{}")
    holds = {part["name"]: part["holds"] for part in json.loads(ran(capsys, "info", tmp_path, "--json"))["parts"]}
    assert holds.pop("good.arrow").startswith("20 rows of 100: ")
    assert [name for name, text in holds.items() if text.startswith("cannot be read: ")] == [
        "bad.arrow",
        "bad.parquet",
        "schema",
    ]


def test_head_and_tail(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = json.loads(ran(capsys, "head", folder, "-n", 2, "--keys", "reward", "--json"))
    assert first == [{"row": 0, "reward": 0.0}, {"row": 1, "reward": 1.0}]
    last = json.loads(ran(capsys, "head", folder, "-n", 2, "--keys", "reward", "--tail", "--json"))
    assert last == [{"row": 18, "reward": 18.0}, {"row": 19, "reward": 19.0}]
    assert "uint8[8, 8]" in ran(capsys, "head", folder)


def test_sql(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("duckdb")
    query = "select agent, sum(reward) as total from buffer group by agent order by agent"
    assert json.loads(ran(capsys, "sql", query, folder, "--json")) == [
        {"agent": 0, "total": 45.0},
        {"agent": 1, "total": 145.0},
    ]
    swapped = f"really sql: expected the query before PATH, got the path {str(folder)!r} in its place"
    assert failed(capsys, "sql", folder, query) == swapped
    assert failed(capsys, "sql", "select nothing", folder).startswith("really sql: query: expected SQL of the table")
    assert ran(capsys, "sql", "select * from buffer where reward > 99", folder) == "no rows\n"
    pixels = ran(capsys, "sql", "select state, reward, null as n, [1, 2] as few from buffer limit 1", folder)
    assert re.search(r"^  64 values +0 +None +\[1, 2\]$", pixels, re.MULTILINE)


def test_export_to_parquet_can_be_read_again(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran(capsys, "export", folder, tmp_path / "rows.parquet") == f"20 rows in {tmp_path / 'rows.parquet'}\n"
    assert json.loads(ran(capsys, "info", tmp_path / "rows.parquet", "--json"))["rows"] == 20


def test_film_shows_one_episode(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = pytest.importorskip("PIL.Image")
    assert ran(capsys, "film", folder, tmp_path / "film.gif", "--episode", 2).endswith("film.gif: 5 frames\n")
    with image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == 5
        assert np.asarray(film.convert("L")).max() == 10
    assert failed(capsys, "film", folder, tmp_path / "f.gif", "--episode", 9) == (
        "really film: --episode: expected a number below 4, the episodes that ended, got 9"
    )
    assert "expected frames [height, width]" in failed(capsys, "film", folder, tmp_path / "f.gif", "--column", "reward")


def test_film_says_which_frames_of_a_long_episode_it_has(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = pytest.importorskip("PIL.Image")
    monkeypatch.setattr("really.cli.film.MOST_FRAMES", 3)
    printed = ran(capsys, "film", folder, tmp_path / "film.gif", "--episode", 2)
    assert printed.endswith("film.gif: 3 frames, the last of the episode's 5\n")
    with image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == 3


@pytest.mark.parametrize("ends", ["not_done", "terminal", "truncated"])
def test_film_and_info_agree_where_episodes_end(ends: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("PIL.Image")
    done = np.tile([0, 0, 2], 4)  # a flag may be any number but 0
    flags = {"terminal": np.zeros(12), ends: done == 0 if ends == "not_done" else done}
    with ReplayBuffer(12, path=tmp_path / "buffer") as buffer:
        buffer.put({"state": np.zeros((12, 8, 8), np.uint8), **{k: f.astype(np.float32) for k, f in flags.items()}})
    assert json.loads(ran(capsys, "info", tmp_path / "buffer", "--json"))["episodes"] == {"ended": 4}
    assert "3 frames" in ran(capsys, "film", tmp_path / "buffer", tmp_path / "film.gif", "--episode", 3)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (4, 8, 8), (8, 8, 4)])
def test_a_stack_shows_its_newest_frame(shape: tuple[int, ...]) -> None:
    from really.cli.film import newest_frame

    assert newest_frame(np.zeros(shape, np.uint8)).shape == (8, 8)
    assert newest_frame(np.zeros((8, 8, 3), np.uint8)).shape == (8, 8, 3)


def test_plot_and_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        aggregator = Aggregator(tmp_path / name)
        for step in range(4):
            aggregator.update(step=10 * step, loss=step)
    assert ran(capsys, "plot", tmp_path / "a") == f"{tmp_path / 'a' / 'progress'}.png\n"
    assert (tmp_path / "a" / "progress.png").exists()
    how = ("--key", "loss", "--x", "step", "--json")
    found = json.loads(ran(capsys, "compare", f"one={tmp_path / 'a'},{tmp_path / 'b'}", *how))
    assert found["curves"]["one"]["seeds"] == 2
    assert "expected NAME=DIR for all or for none" in failed(capsys, "compare", f"one={tmp_path / 'a'}", "other")
    drawn = ran(capsys, "compare", tmp_path / "a", "--key", "loss", "-o", tmp_path / "figure.png")
    assert drawn.endswith(f"\n{tmp_path / 'figure'}.png\n")


def test_compare_refuses_a_name_that_comes_twice(capsys: pytest.CaptureFixture[str]) -> None:
    line = failed(capsys, "compare", "a=x", "b=z", "a=y")
    assert line == "really compare: runs: expected each name once, got 'a' twice; a=x,y are several seeds of it"


def test_json_has_no_nan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("duckdb")

    def refuse(name: str) -> None:
        raise AssertionError(name)

    aggregator = Aggregator(tmp_path / "run")
    aggregator.update(loss=1.0)
    values = np.array([np.nan, np.inf, 1.0], np.float32)
    with ReplayBuffer(3, path=tmp_path / "buffer") as buffer:
        buffer.put({"x": values, "y": np.stack([values] * 3)})
    query = "select x, y from buffer"
    compared, head, answer = (
        json.loads(ran(capsys, *command, "--json"), parse_constant=refuse)
        for command in (
            ("compare", tmp_path / "run", "--key", "loss"),
            ("head", tmp_path / "buffer"),
            ("sql", query, tmp_path / "buffer"),
        )
    )
    assert compared["curves"]["run"] == {"end": 1.0, "low": None, "high": None, "seeds": 1}
    assert [row["x"] for row in head] == [row["x"] for row in answer] == [None, None, 1.0]


def test_plot_and_compare_take_the_folder_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    aggregator = Aggregator(tmp_path / "run" / "progress")
    aggregator.update(loss=1.0)
    assert ran(capsys, "plot", tmp_path / "run") == f"{tmp_path / 'run' / 'progress' / 'progress'}.png\n"
    assert "(1 seed" in ran(capsys, "compare", tmp_path / "run", "--key", "loss")
    assert "PATH: expected a folder with an aggregator's" in failed(capsys, "plot", tmp_path)


def test_check_compares_rows_with_their_checksums(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ReplayBuffer(10, path=tmp_path / "b") as buffer:
        buffer.put({"x": np.arange(10)})
        buffer.save(tmp_path / "saved", compression="none")
    for name, kind in (("b", "buffer"), ("saved", "saved buffer")):
        about = json.loads(ran(capsys, "check", tmp_path / name, "--json"))
        assert about == {"kind": kind, "rows": 10, "damaged": 0, "without a checksum": 0}
    for name in ("b/records", "saved"):
        content = bytearray((tmp_path / name).read_bytes())
        place = content.index(np.arange(10).tobytes()) if name == "saved" else 8
        content[place] ^= 1
        (tmp_path / name).write_bytes(content)
        assert "damaged" in failed(capsys, "check", tmp_path / name.removesuffix("/records"))


def test_check_tells_paths_from_ids(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("runs/CartPole-v1", "CartPole-v1"):
        with ReplayBuffer(3, path=tmp_path / name) as buffer:
            buffer.put({"x": np.arange(3)})
    for path in ("runs/CartPole-v1", "./CartPole-v1", "~/CartPole-v1", tmp_path / "CartPole-v1"):
        assert json.loads(ran(capsys, "check", path, "--json"))["rows"] == 3
    assert "environment" in json.loads(ran(capsys, "check", "CartPole-v1", "--steps", 8, "--json"))
    assert failed(capsys, "check", "./Nothing-v1").startswith("really check: Nothing-v1: expected a buffer's folder")


def test_check_tells_what_will_be_done(capsys: pytest.CaptureFixture[str]) -> None:
    about = json.loads(ran(capsys, "check", "CartPole-v1", "--steps", 400, "--json"))
    assert about["batch"] == "native, 8 environments"
    assert about["same_seed_same_data"] == "yes"
    assert about["terminated"] > 0
    assert about["warnings"] == "none"
    own = json.loads(ran(capsys, "check", "tests.environments:OldCounter", "--steps", 40, "--json"))
    assert own["columns"] == {"state": "float32[1]"}
    assert "expected an id or module:Class" in failed(capsys, "check", "tests.environments:Nothing")
    assert "CartPole" in failed(capsys, "check", "CartPol-v1")


def test_the_installed_script_finds_the_environment_in_the_users_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "envs.py").write_text("from tests.environments import Counter as MyEnv\n")
    script = [Path(sys.executable).with_name("really"), "check", "mine.envs:MyEnv", "--steps", "8", "--json"]
    own = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, check=False, env=own)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["terminated"] >= 0


FAILING = """from tests.environments import Counter
class Failing(Counter):
    def step(self, action):
        return {}['reward']
"""
OUTSIDE = """from gymnasium import spaces
from tests.environments import Counter
class Outside(Counter):
    observation_space = property(lambda self: spaces.Discrete(4), lambda self, space: None)
    def _show(self):
        return self.count
"""


@pytest.mark.parametrize(
    ("name", "text", "start", "end"),
    [
        (
            "failing:Failing",
            FAILING,
            "really check: environment 'Failing', number 0 of the batch, ",
            ": KeyError: 'reward' ({folder}/failing.py:4)",
        ),
        (
            "outside:Outside",
            OUTSIDE,
            "really check: environment 'Outside', number ",
            "expected whole numbers from 0 to 3, as declared, got 4 of dtype int64",
        ),
    ],
    ids=["a line of the user", "none of the user"],
)
def test_an_error_of_an_environment_is_one_line_with_its_place(
    name: str,
    text: str,
    start: str,
    end: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / name.partition(":")[0]).with_suffix(".py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    line = failed(capsys, "check", name)
    assert line.startswith(start)
    assert line.endswith(end.format(folder=tmp_path))


def test_bench_names_the_documented_rates(capsys: pytest.CaptureFixture[str]) -> None:
    from really.cli import bench

    page = (ROOT / "docs" / "speed.md").read_text()
    (held,) = (line for line in page.splitlines() if line.startswith("| cartpole 100k |"))
    sampled, collected = bench.DOCUMENTED.values()
    assert held.split(" | ")[2] == f"{sampled / 1e6:.3g}M"
    assert f"| {collected:,} |" in page
    about = json.loads(ran(capsys, "bench", "--seconds", 0.01, "--json"))
    assert about.pop("kernels") in CPU_LEVELS
    assert about.keys() == bench.DOCUMENTED.keys()
    assert all(rates["here"] > 0 for rates in about.values())


def test_bench_shows_no_lines_of_tensorflow() -> None:
    command = [sys.executable, "-m", "really", "bench", "--seconds", "0.01", "--json"]
    own = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=own)
    assert json.loads(done.stdout)
    assert not done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_help_shows_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    assert re.search(rf"^examples:\n  really {name}\b", capsys.readouterr().out, re.MULTILINE)


def test_completion_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for argument, expected in (("--completion", "complete -o default -W 'info head sql"), ("--version", "really 0.")):
        with pytest.raises(SystemExit) as end:
            main([argument])
        assert end.value.code == 0
        assert capsys.readouterr().out.startswith(expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info"], "really info: the following arguments are required: PATH; really info --help shows examples"),
        (["inf", "x"], "really: COMMAND: expected one of 'bench', 'check', "),
        (["info", "nowhere"], "really info: nowhere: expected a buffer's folder, a saved buffer, a checkpoint"),
        (["head", "README.md"], "really head: "),
        (["info", "docs"], "really info: docs: expected a buffer's folder"),
        (["export", "x", "y.csv"], "really export: TARGET: expected a file .parquet or .arrow"),
        (["export", "x", "y.arrow", "--env", "CartPole-v1"], "really export: --env: expected none for a file .arrow"),
        (["info", ""], "really info: argument PATH: expected a path, got ''"),
        (["check", ""], "really check: environment: expected an id of gymnasium or gym, got ''"),
    ],
)
def test_an_error_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert failed(capsys, *arguments).startswith(message)


def test_an_unknown_command_names_the_one_that_resembles_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert failed(capsys, "inf").strip().endswith("got 'inf'. Did you mean 'info'?; really --help shows examples")


def test_a_buffer_without_rows_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ReplayBuffer(10, path=tmp_path / "b").close()
    for command in ("info", "head", "check"):
        assert failed(capsys, command, tmp_path / "b").endswith("without rows: its first put writes the schema")


def test_a_missing_package_is_told_with_its_extra(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("duckdb", "PIL"):
        monkeypatch.setitem(sys.modules, package, None)
    told = "really sql: QUERY: expected DuckDB, which answers it, got no package duckdb: pip install 'really-rl[sql]'"
    assert failed(capsys, "sql", "select * from buffer", folder) == told
    told = "really film: OUT: expected Pillow, which writes it, got no package PIL: pip install 'really-rl[video]'"
    assert failed(capsys, "film", folder, "x.gif") == told


def test_help_imports_little() -> None:
    script = "import sys; sys.argv = ['really', 'info', '--help']; from really.__main__ import main\ntry: main()\n"
    script += "except SystemExit: pass\nprint(sorted({'numpy', 'pyarrow', 'gymnasium', 'ray'} & {*sys.modules}))"
    printed = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert printed.stdout.splitlines()[-1] == "[]"
