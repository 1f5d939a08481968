"""Rollout workers on a real Ray, if it is installed."""

from __future__ import annotations

import importlib.util

import pytest
from stable_baselines3.common.callbacks import BaseCallback

from sb3_matrl.distributed import ray_crew
from sb3_matrl.distributed.shard import RolloutWorkerError, check_versions, versions
from tests.distributed.test_rollout_workers import LSTM, NORMALISED, STEPS, build, in_turn, turns
from tests.matrl.test_exact_resume import assert_same_carried


def on_ray(**arguments):
    return build(rollout_workers=2, worker_backend="ray", **arguments)


@pytest.fixture
def cluster(monkeypatch):
    """A cluster on this machine with some CPUs."""
    ray = pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def start(cpus):
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False)
        return ray

    yield start
    ray.shutdown()


class KillActor(BaseCallback):
    """End an actor without notice before the second rollout."""

    def __init__(self, ray):
        super().__init__()
        self.ray = ray

    def _on_step(self):
        return True

    def _on_rollout_start(self):
        if self.num_timesteps == 24:
            self.ray.kill(self.model.env.backend.pool.crew._actors[1])


@pytest.mark.ray
@pytest.mark.expensive
def test_actors_play_what_workers_in_turn_play_also_if_one_dies(cluster):
    ray = cluster(2)
    options = {"env": turns, "share": {"pair": ["a", "c"]}} | LSTM | NORMALISED
    model = on_ray(**options).learn(STEPS, callback=KillActor(ray))
    assert model.env.backend.pool.restarts == 1
    assert_same_carried(model, in_turn(**options).learn(STEPS))
    model.env.close()


@pytest.mark.ray
@pytest.mark.expensive
def test_a_cluster_with_too_few_cpus_is_an_error(cluster):
    cluster(1)
    with pytest.raises(RolloutWorkerError, match="has 1 CPUs, and rollout_workers=2 need one each"):
        on_ray().learn(STEPS)


def test_without_ray_the_constructor_says_how_to_install_it(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(ray_crew.importlib.util, "find_spec", lambda name: None if name == "ray" else find_spec(name))
    with pytest.raises(ImportError, match=r"worker_backend='ray' needs ray: pip install 'sb3-matrl\[ray\]'"):
        on_ray()


def test_another_version_on_a_machine_is_an_error_that_names_it():
    check_versions(versions())
    with pytest.raises(RolloutWorkerError, match=r"has torch .*, that of the learner 1.0: install the same version"):
        check_versions(versions() | {"torch": "1.0"})
