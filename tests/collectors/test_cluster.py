"""A Ray cluster: runners spread over its nodes, and a node is lost while they collect."""

from __future__ import annotations

import pytest

from tests.scripts import run_script

pytestmark = pytest.mark.xdist_group("ray")

LEARNER_AND_TWO = """
        from collections import Counter as Count
        from ray.cluster_utils import Cluster
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        ray.init(address=cluster.address, log_to_driver=False)
        given = {"returns": ["agent", "episode_end"], "num_steps": 50, "env_config": {"length": 10**6}}
        def names(*nodes):
            return {node.node_id[:8] for node in nodes}
        def placed(manager):
            return dict(Count(runner["node"] for runner in manager.info()["runners"]))
"""
END = """
        ray.shutdown()
        cluster.shutdown()
"""


def test_runners_spread_over_nodes_and_survive_the_loss_of_one() -> None:
    done = run_script(
        """
        from ray.cluster_utils import Cluster
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        ray.init(address=cluster.address, log_to_driver=False)
        returns = ["agent", "episode_end"]
        manager = SampleManager(QNet, Counter, 6, 600, returns, num_steps=100, env_config={"length": 10**6})
        manager.get_data()
        print("nodes", len({runner["node"] for runner in manager.info()["runners"]}))
        threading.Timer(0.5, cluster.remove_node, [nodes[1]]).start()
        data = manager.get_data(total_steps=300_000)
        assert len(data["reward"]) == 300_000, len(data["reward"])
        np.testing.assert_array_equal(data["state_new"], data["state"] + 1)
        follows = data["episode_end"][:-1] == 0
        np.testing.assert_array_equal(data["state"][1:][follows], data["state_new"][:-1][follows])
        # The others may deliver all rows before the agents of the lost node have a runner again.
        agents = set(data["agent"])
        while len(agents) < 6:
            agents |= set(manager.get_data()["agent"])
        print("agents", len(agents))
        info = manager.info()
        print("restarts", sum(runner["restarts"] for runner in info["runners"]))
        print("nodes left", len({runner["node"] for runner in info["runners"]}))
        manager.close()
        ray.shutdown()
        cluster.shutdown()
        """
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-4:] == ["nodes 3", "agents 6", "restarts 1", "nodes left 2"], done.stdout


@pytest.mark.slow
def test_no_runner_is_on_a_node_without_cpus_or_on_one_that_was_lost() -> None:
    done = run_script(
        LEARNER_AND_TWO
        + """
        manager = SampleManager(QNet, Counter, 4, 600, **given)
        manager.get_data()
        second = SampleManager(QNet, Counter, 4, 600, num_workers=4, **given)
        second.get_data()
        print("first", sorted(placed(manager).values()), placed(manager).keys() == names(*nodes))
        print("second", sorted(placed(second).values()), placed(second).keys() <= names(*nodes))
        cluster.remove_node(nodes[1], allow_graceful=False)
        for _ in range(3):
            assert len(manager.get_data(total_steps=20_000)["reward"]) == 20_000
            assert len(second.get_data(total_steps=20_000)["reward"]) == 20_000
        for one in (manager, second):
            while "lost" in {runner["environments"] for runner in one.info()["runners"]}:
                one.get_data()
            one.get_data()
            print("left", placed(one).keys() == names(nodes[0]), max(r["restarts"] for r in one.info()["runners"]))
            one.close()
        """
        + END
    )
    assert done.returncode == 0, done.stderr
    # The log of a node that is killed comes between the lines.
    said = [line for line in done.stdout.splitlines() if line.startswith(("first", "second", "left"))]
    assert said[:2] == ["first [1, 1] True", "second [1] True"], done.stdout
    assert said[2] == "left True 1", done.stdout
    assert said[3].startswith("left True"), done.stdout


@pytest.mark.slow
def test_a_living_manager_uses_a_node_that_joins_unless_it_is_seeded() -> None:
    done = run_script(
        LEARNER_AND_TWO
        + """
        import really.collectors.growth
        really.collectors.growth.LOOK_SECONDS = 0.5
        manager = SampleManager(QNet, Counter, 8, 600, **given)
        seeded = SampleManager(QNet, Counter, 2, 200, num_workers=1, seed=1, **given)
        manager.get_data()
        seeded.get_data()
        third = cluster.add_node(num_cpus=2)
        end = time.monotonic() + 60
        while len(placed(manager)) < 3 and time.monotonic() < end:
            data = manager.get_data()
            follows = data["episode_end"][:-1] == 0
            np.testing.assert_array_equal(data["state"][1:][follows], data["state_new"][:-1][follows])
        # A runner that still gets ready is late: the others deliver, and it does in a later call.
        agents = set()
        while len(agents) < 8:
            data = manager.get_data(total_steps=8000)
            follows = data["episode_end"][:-1] == 0
            np.testing.assert_array_equal(data["state"][1:][follows], data["state_new"][:-1][follows])
            agents |= set(data["agent"].tolist())
        seeded.get_data()
        runners = manager.info()["runners"]
        print("agents", sorted(agent for runner in runners for agent in runner["agents"]) == list(range(8)))
        print("delivered", sorted(agents) == list(range(8)))
        print("runners", len(runners), placed(manager).get(third.node_id[:8]), len(seeded.info()["runners"]))
        manager.initialize_buffer(10_000, ["state", "agent"])
        with manager.collect_in_background():
            while len(set(manager.sample(500)["agent"].tolist())) < 8:
                pass
        manager.close()
        seeded.close()
        """
        + END
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-3:] == ["agents True", "delivered True", "runners 4 2 1"], done.stdout
