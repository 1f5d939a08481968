"""Rollout workers on two nodes of a Ray cluster, one of which is lost."""

import pytest
from stable_baselines3.common.callbacks import BaseCallback

from tests.distributed.test_rollout_workers import LSTM, NORMALISED, STEPS, build, in_turn, turns
from tests.matrl.test_exact_resume import assert_same_carried

pytestmark = [pytest.mark.ray, pytest.mark.expensive]


class ReplaceNode(BaseCallback):
    """
    Lose a node before the second rollout, without notice, and get another one.

    :param cluster: cluster of ``ray.cluster_utils``
    :param nodes: its nodes with workers, the last of which is lost
    """

    def __init__(self, cluster, nodes):
        super().__init__()
        self.cluster, self.nodes = cluster, nodes

    def _on_step(self):
        return True

    def _on_rollout_start(self):
        if self.num_timesteps == 24:
            self.cluster.remove_node(self.nodes[-1], allow_graceful=False)
            self.cluster.add_node(num_cpus=1)


@pytest.fixture
def cluster(monkeypatch):
    """A cluster of two nodes with one CPU each, and a head that has none for workers."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [started.add_node(num_cpus=1) for _ in range(2)]
    started.wait_for_nodes()
    ray.init(address=started.address, log_to_driver=False)
    yield started, nodes
    ray.shutdown()
    started.shutdown()


def test_the_workers_of_a_lost_node_play_elsewhere_what_they_would_have_played(cluster):
    options = {"env": turns, "share": {"pair": ["a", "c"]}} | LSTM | NORMALISED
    model = build(rollout_workers=2, worker_backend="ray", **options).learn(STEPS, callback=ReplaceNode(*cluster))
    assert model.env.backend.pool.restarts == 1
    assert_same_carried(model, in_turn(**options).learn(STEPS))
    model.env.close()
