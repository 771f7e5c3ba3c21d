"""Shards on the nodes of a Ray cluster: the same batches, and what a lost, silent or full shard costs."""

from __future__ import annotations

import re
import subprocess
import textwrap
from pathlib import Path

import numpy as np
import pytest

from really import NotEnoughMemoryError, ShardedBuffer
from tests.scripts import PRELUDE, run_script

pytestmark = pytest.mark.xdist_group("ray")

CLUSTER = """
        import logging
        logging.basicConfig(format="%(message)s", stream=sys.stdout)
        from ray.cluster_utils import Cluster
        from really import InvalidTypeError, InvalidValueError, NotEnoughMemoryError, ReplayBuffer, RunnerError
        from really import ShardedBuffer
        from tests.service.test_sharded_buffer import KINDS, SIZES, assert_same, stacks
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        ray.init(address=cluster.address, log_to_driver=False)
        def actor(buffer, number):
            return buffer._shards._remotes[number]._actor
        def pid(buffer, number):
            return ray.get(actor(buffer, number).__ray_call__.remote(lambda self: os.getpid()))
        def put(buffer, first, end):
            for start in range(first, end, 500):
                buffer.put({"id": np.arange(start, start + 500)})
        def ids(buffer):
            found = buffer.take(np.arange(len(buffer)))["id"]
            assert (np.diff(found) > 0).all()
            return found
"""
END = """
        ray.shutdown()
        cluster.shutdown()
"""


@pytest.mark.slow
def test_batches_from_nodes_are_those_of_one_buffer() -> None:
    done = run_script(
        CLUSTER
        + """
        from tests.service import test_units_in_shards as units
        KINDS |= units.KINDS
        for kind in ("uniform", "n steps, priorities", "frames", "sequences, priorities", "hindsight", "staleness"):
            make, options = KINDS[kind]
            one = ReplayBuffer(60, seed=5, **options)
            with ShardedBuffer(60, shards="nodes", seed=5, time_out=30, **options) as sharded:
                first = 0
                for size in SIZES:
                    for buffer in (one, sharded):
                        buffer.put(make(first, size))
                    first += size
                    for n in (5, (3, 4), 64):
                        expected = units.outcome(lambda: one.sample(n))
                        got = units.outcome(lambda: sharded.sample(n))
                        units.assert_alike(expected, got)
                        if isinstance(got, str):
                            continue
                        assert all(column.flags.writeable for column in got.values())
                        if one.is_prioritized:
                            errors = np.cos(expected["index"]) ** 2
                            for buffer in (one, sharded):
                                buffer.update_priorities(expected["index"], errors)
                expected, got = (b.batches(16) for b in (one, sharded))
                for _ in range(3):
                    assert_same(next(expected), next(got))
                expected.close()
                got.close()
                print("shards with rows", sum(shard["bytes"] > 0 for shard in sharded.info()["shards"]))
        chosen = ShardedBuffer(100, shards=[nodes[0].node_id])
        chosen.put({"id": np.arange(100)})
        assert sorted(chosen.sample(100, replace=False)["id"]) == list(range(100))
        def refused(error, text, *args, **options):
            try:
                ShardedBuffer(*args, **options)
            except error as caught:
                assert text in str(caught), caught
            else:
                raise AssertionError(text)
        refused(InvalidValueError, "of one living node", 100, shards=["nowhere"])
        refused(InvalidTypeError, "got 'node'", 100, shards="node")
        refused(InvalidValueError, "each once", 100, shards=[nodes[0].node_id] * 2)
        refused(InvalidValueError, "at most one for each of the 2 rows, got 3", 2, shards="nodes")
        spec = {"a": (np.float32, (10**9,))}
        try:
            ShardedBuffer(10**4, shards="nodes", spec=spec)
        except NotEnoughMemoryError as error:
            assert all(f"the shard of node {node['NodeID'][:8]}" in str(error) for node in ray.nodes()), error
        else:
            raise AssertionError("no error")
        """
        + END
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-6:-3] == ["shards with rows 3", "shards with rows 2", "shards with rows 3"]


@pytest.mark.usefixtures("ray_runtime")
def test_a_buffer_without_room_on_the_learners_node_names_that_node() -> None:
    import ray

    node = ray.get_runtime_context().get_node_id()
    with pytest.raises(NotEnoughMemoryError, match=f"the shard of node {node[:8]} .*needs 40,000,000,000,000 bytes"):
        ShardedBuffer(10**4, shards="nodes", spec={"a": (np.float32, (10**9,))})


@pytest.mark.slow
def test_rows_of_runners_stay_on_their_nodes_and_batches_are_those_of_one_buffer() -> None:
    done = run_script(
        CLUSTER
        + """
        given = {"num_steps": 50, "env_config": {"length": 1000}, "seed": 3}
        keys = ["state", "state_new", "reward", "agent", "episode_end", "terminal"]
        def collected(shards, **options):
            manager = SampleManager(QNet, Counter, 4, 400, ["agent", "episode_end"], **given)
            manager.initialize_buffer(16_000, keys, shards=shards, **options)
            for _ in range(12):
                manager.collect(900)
            return manager
        one, sharded = collected(None), collected("nodes")
        for _ in range(20):
            assert_same(one.sample((2, 16)), sharded.sample((2, 16)))
        one.close()
        info = sharded.buffer.info()
        own, *others = (shard["rows"] for shard in info["shards"])
        print("rows of other nodes stay there", own < 2000 and sum(others) > 8000, own, *others)
        assert len(sharded.get_data()["reward"]) == 400
        with sharded.collect_in_background(max_rows=20_000):
            for _ in range(50):
                batch = sharded.sample(64)
                assert (batch["state_new"] == batch["state"] + 1).all()
        rows = sharded.buffer.take(np.arange(len(sharded.buffer)))
        follows = rows["episode_end"][:-1] == 0
        np.testing.assert_array_equal(rows["state"][1:][follows], rows["state_new"][:-1][follows])
        sharded.close()
        steps = collected("nodes", n_step=3)
        assert steps.sample(64)["discount"].shape == (64,)
        steps.close()
        """
        + END
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rows of other nodes stay there True" in done.stdout, done.stdout


@pytest.mark.slow
def test_sequences_of_rows_that_stayed_on_their_nodes_are_those_of_one_buffer() -> None:
    done = run_script(
        CLUSTER
        + """
        given = {"num_steps": 50, "env_config": {"length": 1000}, "seed": 3}
        keys = ["state", "state_new", "reward", "agent", "truncated", "terminal"]
        def collected(shards):
            manager = SampleManager(QNet, Counter, 4, 400, ["agent", "truncated"], **given)
            manager.initialize_buffer(8_000, keys, shards=shards, unit=("sequences", {"length": 5}))
            for _ in range(4):
                manager.collect(900)
            return manager
        one, sharded = collected(None), collected("nodes")
        for _ in range(5):
            assert_same(one.sample((2, 16)), sharded.sample((2, 16)))
        one.close()
        with sharded.collect_in_background(max_rows=9_000):
            for _ in range(50):
                batch = sharded.sample(64)
                assert (batch["state"][:, 1:] == batch["state_new"][:, :-1]).all()
        print("rows of other nodes", sum(shard["rows"] for shard in sharded.buffer.info()["shards"][1:]) > 3000)
        sharded.close()
        """
        + END
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rows of other nodes True" in done.stdout, done.stdout


@pytest.mark.slow
def test_sequences_leave_out_the_rows_of_a_lost_shard() -> None:
    done = run_script(
        CLUSTER
        + """
        from tests.service.test_units_in_shards import AGENTS, sequences, steps
        for checks in (True, False):
            with ShardedBuffer(3000, shards="nodes", seed=0, **sequences(checks_states=checks)) as buffer:
                for first in range(0, 4000, 40):
                    buffer.put(steps(first, 40))
                buffer.sample(100)
                ray.kill(actor(buffer, 1))
                for _ in range(100):
                    batch = buffer.sample(64)
                    assert (np.diff(batch["number"], axis=1) == AGENTS).all()
                    assert (batch["number"] == batch["id"]).all()
                info = buffer.info()
                print("lost", info["lost"] > 500, info["rows"] == 3000 - info["lost"])
                for first in range(4000, 8000, 40):
                    buffer.put(steps(first, 40))
                assert (buffer.sample(500)["id"] >= 5000).all() and len(buffer) == 3000
        """
        + END
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines().count("lost True True") == 2, done.stdout


@pytest.mark.slow
def test_a_shard_on_disk_that_is_killed_comes_back_with_all_rows() -> None:
    done = run_script(
        CLUSTER
        + """
        def check(buffer, end):
            while len(buffer) < 6000:
                buffer.sample(1)
            assert ids(buffer).tolist() == list(range(end - 6000, end))
            assert buffer.info()["lost"] == buffer.info()["refused"] == 0
        path = tempfile.mkdtemp()
        with ShardedBuffer(6000, shards="nodes", seed=5, path=path, time_out=20) as sharded:
            put(sharded, 0, 30_000)
            os.kill(pid(sharded, 1), signal.SIGKILL)
            began = time.monotonic()
            sharded.sample(100)
            assert time.monotonic() - began < 5
            put(sharded, 30_000, 32_000)
            check(sharded, 32_000)
            threading.Timer(0.05, os.kill, (pid(sharded, 1), signal.SIGKILL)).start()
            put(sharded, 32_000, 62_000)
            check(sharded, 62_000)
        with ShardedBuffer(6000, shards="nodes", path=path) as sharded:
            check(sharded, 62_000)
            put(sharded, 62_000, 70_000)
            check(sharded, 70_000)
            print("resumed")
        """
        + END
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resumed" in done.stdout


@pytest.mark.slow
def test_a_lost_or_silent_shard_costs_its_rows_alone() -> None:
    done = run_script(
        CLUSTER
        + """
        sharded = ShardedBuffer(6000, shards="nodes", seed=5, time_out=1.0)
        put(sharded, 0, 30_000)
        assert ids(sharded).tolist() == list(range(24_000, 30_000))

        stopped = pid(sharded, 1)
        os.kill(stopped, signal.SIGSTOP)
        began = time.monotonic()
        sharded.sample(1000)
        assert time.monotonic() - began < 5
        assert len(sharded) == 4000
        put(sharded, 30_000, 33_000)
        assert [shard["away"] for shard in sharded.info()["shards"]] == [False, True, False]
        assert sharded.to_arrow().read_all()["id"].to_numpy().tolist() == ids(sharded).tolist()
        os.kill(stopped, signal.SIGCONT)
        while len(sharded) < 6000:
            sharded.sample(1)
        assert ids(sharded).tolist() == list(range(27_000, 33_000))

        os.kill(stopped, signal.SIGSTOP)  # puts are on their way when it stops to answer
        put(sharded, 33_000, 43_000)
        os.kill(stopped, signal.SIGCONT)
        while len(sharded) < 6000:
            sharded.sample(1)
        assert ids(sharded).tolist() == list(range(37_000, 43_000))
        assert sharded.info()["lost"] == sharded.info()["refused"] == 0

        put(sharded, 43_000, 60_000)
        held = sharded.info()["shards"][1]["rows"]
        ray.kill(actor(sharded, 1), no_restart=True)
        sharded.sample(1000)
        assert sharded.info()["lost"] == held > 1000, sharded.info()
        assert len(ids(sharded)) == 6000 - held
        while sharded.info()["shards"][1]["away"]:
            sharded.sample(1)
        put(sharded, 60_000, 80_000)
        assert ids(sharded).tolist() == list(range(74_000, 80_000))
        assert sharded.info()["shards"][1]["rows"] > 1000

        lost, held = sharded.info()["lost"], sharded.info()["shards"][1]["rows"]
        cluster.remove_node(next(n for n in nodes if n.node_id[:8] in sharded.info()["shards"][1]["shard"]))
        sharded.sample(1000)
        assert sharded.info()["lost"] == lost + held
        put(sharded, 80_000, 100_000)
        assert ids(sharded).tolist() == list(range(94_000, 100_000)), "two shards have room for all rows"
        assert sharded.info()["shards"][1]["rows"] == 0

        noise = np.random.default_rng(0).integers(0, 255, (50, 4, 16, 32), np.uint8)
        other = next(n.node_id for n in nodes if n.node_id[:8] not in sharded.info()["shards"][1]["shard"])
        full = ShardedBuffer(200, shards=[other], max_bytes=40_000)
        full.put(stacks(0, 10))
        try:
            for _ in range(100):
                full.put({"id": np.arange(50), "state": noise, "state_new": noise[::-1].copy()})
        except NotEnoughMemoryError as error:
            print("refused:", error)
        assert full.sample(100)["id"].max() == 9
        for first in range(10, 20):
            while True:
                try:
                    full.put(stacks(first, 1))
                    break
                except NotEnoughMemoryError:
                    pass
        assert ids(full).tolist() == list(range(20))
        assert full.info()["refused"] >= 50

        ray.shutdown()
        try:
            sharded.sample(1)
        except ReallyError as error:
            print("shut down:", error)
        cluster.shutdown()
        """
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert sum("does not answer: batches leave out" in line for line in lines) == 2
    assert sum("answers again" in line for line in lines) == 3, "a new one answers too"
    assert sum("was lost, and " in line for line in lines) == 2
    assert any(line.startswith("refused: put: key 'state': expected rows whose frames fit") for line in lines)
    assert any(line.startswith("shut down: the Ray runtime of this buffer") for line in lines)


@pytest.mark.slow
def test_verbs_under_a_ray_that_was_shut_down_are_refused_and_start_no_other(tmp_path: Path) -> None:
    done = run_script(
        CLUSTER
        + f"""
        named = ShardedBuffer(100, shards="nodes", path={str(tmp_path)!r}, name="n")
        buffers = [ShardedBuffer(100, shards="nodes"), named]
        for buffer in buffers:
            buffer.put({{"id": np.arange(90)}})
        reader, ahead = ShardedBuffer.connect("n"), buffers[0].batches(10, prefetch=2)
        while not len(reader):
            time.sleep(0.05)
        reader.sample(3)
        next(ahead)
        ray.shutdown()
        verbs = {{
            "put": lambda b: b.put({{"id": np.arange(3)}}), "sample": lambda b: b.sample(3),
            "take": lambda b: b.take([0]), "info": lambda b: b.info(), "memory": lambda b: b.memory(),
            "clear": lambda b: b.clear(), "to_arrow": lambda b: b.to_arrow().read_all(),
            "remove": lambda b: b.remove([3]), "update": lambda b: b.update([3], {{"id": np.array([3])}}),
            "verify": lambda b: b.verify(), "save": lambda b: b.save("rows.arrow"),
        }}
        calls = [(f"{{verb}} {{at}}", lambda b=b, call=call: call(b))
                 for verb, call in verbs.items() for at, b in enumerate(buffers)]
        calls += [("reader", lambda: reader.sample(3)), ("ahead", lambda: [next(ahead) for _ in range(4)])]
        for what, call in calls:
            try:
                call()
                print("allowed", what)
            except RunnerError as error:
                assert "ray.shutdown() was called" in str(error), (what, error)
        assert [len(buffer) for buffer in buffers] == [90, 90]
        for buffer in (*buffers, reader):
            buffer.close()
        assert not ray.is_initialized()
        print("refused", len(calls))
        cluster.shutdown()
        """
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "allowed" not in done.stdout
    assert "refused 24" in done.stdout


@pytest.mark.slow
def test_batches_come_directly_and_not_through_stores() -> None:
    done = run_script(
        CLUSTER
        + """
        noise = np.random.default_rng(0).integers(0, 255, (604, 84, 84), np.uint8)
        windows = np.lib.stride_tricks.sliding_window_view(noise, 4, axis=0).transpose(0, 3, 1, 2)
        rows = {"id": np.arange(600), "state": windows[:-1].copy(), "state_new": windows[1:].copy()}
        for dedup in (True, False):
            one = ReplayBuffer(500, seed=5, dedup=dedup)
            sharded = ShardedBuffer(500, shards=[n.node_id for n in nodes], seed=5, time_out=30, dedup=dedup)
            for buffer in (one, sharded):
                for first in range(0, 600, 60):
                    buffer.put({key: column[first : first + 60] for key, column in rows.items()})
            for n in (256, (2, 256), 3):
                assert_same(one.sample(n), sharded.sample(n))
            shards, places = sharded._shards, np.arange(200, 250)
            asked = [shards._remotes[at].send("take_at", places) for at in range(2)]
            ray.wait(asked, num_returns=2)
            found = ray.experimental.get_object_locations(asked)
            print("stores", sum(len(found[one]["node_ids"]) for one in asked))
            sharded.close()
        """
        + END
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("stores 0\n") == 2, done.stdout


@pytest.mark.slow
def test_batches_that_were_asked_for_before_a_loss_cost_nothing_after_it() -> None:
    done = run_script(
        CLUSTER
        + """
        buffer = ShardedBuffer(6000, shards="nodes", seed=5, time_out=5.0)
        put(buffer, 0, 6000)
        killed = pid(buffer, 1)
        os.kill(killed, signal.SIGSTOP)
        asked = [buffer.ask_sample(256) for _ in range(3)]
        os.kill(killed, signal.SIGKILL)
        asked[0]()
        while buffer.info()["shards"][1]["away"]:
            buffer.sample(1)
        put(buffer, 6000, 12_000)
        lost, held = buffer.info()["lost"], buffer.info()["shards"][1]["rows"]
        for answer in asked[1:]:
            assert len(answer()["id"]) == 256
        assert ids(buffer).tolist() == list(range(6000, 12_000))
        print("rows stay", held > 1000, buffer.info()["shards"][1]["rows"] == held, buffer.info()["lost"] == lost)
        buffer.close()
        """
        + END
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rows stay True True True" in done.stdout
    assert done.stdout.count("was lost, and ") == 1


@pytest.mark.slow
def test_a_node_that_joins_takes_its_share_from_then_on() -> None:
    done = run_script(
        CLUSTER
        + """
        logging.getLogger("really").setLevel(logging.INFO)
        with ShardedBuffer(6000, shards="nodes", seed=5, path=tempfile.mkdtemp(), time_out=20) as sharded:
            put(sharded, 0, 6000)
            node = cluster.add_node(num_cpus=1)
            while len(sharded.info()["shards"]) < 4:
                time.sleep(0.2)
            assert ids(sharded).tolist() == list(range(6000)), "nothing moves"
            put(sharded, 6000, 24_000)
            assert ids(sharded).tolist() == list(range(18_000, 24_000))
            held = [shard["rows"] for shard in sharded.info()["shards"]]
            assert min(held) > 500, held
            cluster.remove_node(node)
            sharded.sample(1000)
            assert sharded.info()["lost"] == held[3]
            node = cluster.add_node(num_cpus=1)  # the host comes back, with its folder
            while len(sharded.info()["shards"]) < 5:
                time.sleep(0.2)
            put(sharded, 24_000, 42_000)
            assert ids(sharded).tolist() == list(range(36_000, 42_000))
            assert sharded.info()["shards"][4]["rows"] > 500
            assert sharded.sample(1000)["id"].min() >= 36_000
        print("joined")
        """
        + END
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert sum("joined: it takes its share from now on" in line for line in lines) == 2
    assert lines[-1] == "joined"


LEARNER = """
        from really import LockedError
        def model(state):
            return {"q_values": np.zeros((len(state), 2), np.float32)}
        def learner(path):
            manager = SampleManager(model, "CartPole-v1", 2, 10, use_ray=False, seed=3)
            while manager.buffer is None:
                try:
                    manager.buffer = ShardedBuffer(6000, ["id"], shards="nodes", seed=5, path=path, alpha=0.6)
                except LockedError:  # Ray ends the shards of a learner that was killed some seconds later
                    time.sleep(0.5)
            return manager
"""
KILLED_LEARNER = (
    LEARNER
    + """
        import pickle
        path, checkpoints = sys.argv[2:]
        ray.init(address=sys.argv[1], log_to_driver=False)
        manager = learner(path)
        put(manager.buffer, 0, 30_000)
        index = manager.sample(500)["index"]
        manager.buffer.update_priorities(index, np.cos(index) ** 2)
        manager.save_checkpoint(checkpoints)
        with open(path + "/expected", "wb") as file:
            pickle.dump([manager.sample((2, 100)) for _ in range(5)], file)
        put(manager.buffer, 30_000, 33_000)
        manager.buffer.info()  # waits for the puts that are on their way
        os.kill(os.getpid(), signal.SIGKILL)
"""
)


@pytest.mark.slow
def test_a_learner_that_is_killed_resumes_from_its_checkpoint_and_names_shards_that_are_missing(tmp_path: Path) -> None:
    start, _, rest = CLUSTER.partition("        cluster = Cluster")
    first = textwrap.dedent(PRELUDE) + textwrap.dedent(start + rest[rest.index("        def actor") :] + KILLED_LEARNER)
    done = run_script(
        CLUSTER
        + LEARNER
        + f"""
        path, checkpoints, script = {str(tmp_path / "rows")!r}, {str(tmp_path / "checkpoints")!r}, {first!r}
        """
        + """
        import pickle, subprocess
        killed = subprocess.run([sys.executable, "-c", script, cluster.address, path, checkpoints])
        assert killed.returncode == -9, killed
        with open(path + "/expected", "rb") as file:
            expected = pickle.load(file)
        manager = learner(path)
        buffer = manager.buffer
        assert ids(buffer).tolist() == list(range(27_000, 33_000)), "all rows of puts that reached a shard"
        manager.load_checkpoint(checkpoints)
        assert manager.rolled_back.rows_dropped == 3000
        assert ids(buffer).tolist() == list(range(24_000, 30_000))
        for batch in expected:
            assert_same(batch, manager.sample((2, 100)))
        put(buffer, 30_000, 32_000)
        manager.load_checkpoint(checkpoints)
        assert_same(expected[0], manager.sample((2, 100)))

        held = buffer.info()["shards"][2]
        cluster.remove_node(next(node for node in nodes if node.node_id[:8] in held["shard"]))
        buffer.sample(100)
        try:
            manager.load_checkpoint(checkpoints)
        except InvalidValueError as error:
            print("missing:", error)
        manager.load_checkpoint(checkpoints, missing="accept")
        assert manager.rolled_back.rows_missing == held["rows"] == 6000 - len(buffer)
        assert len(ids(buffer)) == len(buffer)
        manager.save_checkpoint(checkpoints)
        put(buffer, 30_000, 31_000)
        manager.load_checkpoint(checkpoints)
        print("resumed", len(buffer))
        buffer.close()
        """
        + END
    )
    assert done.returncode == 0, done.stdout + done.stderr
    text = r"missing: .*got \d,\d+\. Missing are \d,\d+ of the shard of node .*: it is not there"
    assert re.search(text, done.stdout), done.stdout
    assert "resumed" in done.stdout


@pytest.mark.slow
def test_a_full_disk_on_one_node_costs_the_rows_of_its_puts(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a small file system")
    try:
        done = run_script(
            CLUSTER
            + f"""
        from really import DiskFullError
        path = {str(tmp_path)!r}
        """
            + """
        sharded = ShardedBuffer(8000, shards=[nodes[0].node_id], path=path, overcommit=True, seed=0)
        said = 0
        for first in range(0, 12_000, 70):
            numbers = np.arange(first, first + 70)
            try:
                sharded.put({"id": numbers, "same": np.repeat(numbers[:, None], 200, axis=1)})
            except DiskFullError as error:
                said += "none is in" in str(error)
        sharded.info()  # waits for the puts that are on their way
        info = sharded.info()
        assert said > 0 and info["refused"] > 0, info
        found = sharded.take(np.arange(len(sharded)))
        assert (found["same"] == found["id"][:, None]).all() and (np.diff(found["id"]) > 0).all()
        assert len(sharded) == info["shards"][0]["rows"] > 500
        print("left", len(sharded), "refused", info["refused"])
        """
            + END
        )
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "left" in done.stdout


READER = """
        ray.init(address=sys.argv[1], log_to_driver=False)
        with ShardedBuffer.connect("replay", seed=7) as reader:
            while len(reader) < 6000:
                pass
            found = reader.take(np.arange(len(reader)))
            assert (np.diff(found["id"]) == 1).all(), found["id"]
            drawn = reader.sample((100, 600))["id"].ravel()
            counts = np.bincount(drawn - found["id"][0], minlength=6000)
            assert stats.chisquare(counts).pvalue > 1e-6 and len(counts) == 6000
            for _ in range(3):
                assert reader.sample(64)["id"].min() >= 0
            iterator = reader.batches(32)
            assert next(iterator)["same"].shape == (32,)
            iterator.close()
            print("ready", flush=True)
            seen = 0
            while (first := int(reader.take([0])["id"][0])) < 60_000:
                batch = reader.sample((2, 100))
                assert (batch["id"] == batch["same"]).all()
                seen += first > 24_000
            assert seen > 3, "it reads while the owner puts"
            for use in (lambda: reader.put({"id": [1]}), lambda: reader.update_priorities([0], [1.0])):
                try:
                    use()
                    raise AssertionError
                except ReadOnlyError as error:
                    assert "open for reading" in str(error)
            print("followed", len(reader.info()["shards"]), flush=True)
            try:
                while True:
                    time.sleep(0.1)
                    reader.sample(8)
            except RunnerError as error:
                print("ended:", error, flush=True)
"""


@pytest.mark.slow
def test_another_process_reads_a_buffer_by_its_name(tmp_path: Path) -> None:
    start = CLUSTER.partition("        cluster = Cluster")[0]
    imports = "        from scipy import stats\n        from really import ReadOnlyError, RunnerError\n"
    reader = textwrap.dedent(PRELUDE) + textwrap.dedent(start + imports + READER)
    done = run_script(
        CLUSTER
        + f"""
        path, reader = {str(tmp_path)!r}, {reader!r}
        """
        + """
        import subprocess
        def put(buffer, first, end):
            for start in range(first, end, 500):
                numbers = np.arange(start, start + 500)
                buffer.put({"id": numbers, "same": numbers})
        def refused(text, make):
            try:
                make()
            except InvalidValueError as error:
                assert text in str(error), error
            else:
                raise AssertionError(text)
        owner = ShardedBuffer(6000, shards="nodes", seed=5, path=path, alpha=0.6, name="replay")
        other = tempfile.mkdtemp()
        text = f"got 'replay', which process {os.getpid()} on node"
        refused(text, lambda: ShardedBuffer(6000, shards="nodes", path=other, name="replay"))
        refused("expected path= besides", lambda: ShardedBuffer(6000, shards="nodes", name="mine"))
        refused("expected shards on nodes", lambda: ShardedBuffer(6000, shards=2, path=other, name="mine"))
        refused("buffers (['replay']), got 'replya'", lambda: ShardedBuffer.connect("replya"))
        put(owner, 0, 30_000)
        child = subprocess.Popen([sys.executable, "-c", reader, cluster.address], stdout=subprocess.PIPE, text=True)
        assert child.stdout.readline() == "ready\\n"
        os.kill(pid(owner, 1), signal.SIGKILL)
        for first in range(30_000, 90_000, 2000):
            put(owner, first, first + 2000)
            owner.sample(100)
            time.sleep(0.05)
        while len(owner) < 6000:
            owner.sample(1)
        assert child.stdout.readline() == "followed 3\\n"
        owner.close()
        print(child.stdout.readline())
        assert child.wait() == 0
        with ShardedBuffer(6000, shards="nodes", path=other, name="replay") as again:
            again.put({"id": np.arange(10)})
            with ShardedBuffer.connect("replay") as reader:
                assert set(reader.sample(100)["id"]) <= set(range(10))
                again.clear()
                try:
                    while True:
                        reader.sample(1)
                except ReallyError as error:
                    print("cleared:", error)
        """
        + END
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ended: ShardedBuffer.connect('replay'): expected an owner" in done.stdout
    assert "cleared: sample: expected a buffer that holds rows" in done.stdout
