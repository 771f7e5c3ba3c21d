"""A Ray cluster: runners spread over its nodes, and a node is lost while they collect."""

from __future__ import annotations

from tests.scripts import run_script


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
        print("agents", len(np.unique(data["agent"])))
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
