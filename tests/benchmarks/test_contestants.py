"""Trainings that are compared: they are the ones that a user has, step by step, and they do the same work."""

from dataclasses import replace

import numpy as np
import pytest
import torch as th
from gymnasium.utils.env_checker import check_env

from benchmarks.contestants import LonePPO, OneAgentView, Ours, SharedPPO, SteppedTraining, Work, tutorial_vec_env
from benchmarks.shared import build_model
from benchmarks.speed_columns import ALGORITHMS, COLUMNS, EQUAL, IPPO, MATRL, expected_work
from sb3_matrl.envs import make
from sb3_matrl.envs.checkers_v0 import CheckersCore


def tiny(name, **changes):
    column = COLUMNS[name]
    return replace(column, quick=True, changes={**column.changes, **changes})


def parameters(model):
    return [parameter.detach().clone() for ppo in model.learners.values() for parameter in ppo.policy.parameters()]


@pytest.mark.e2e
@pytest.mark.parametrize("backend", ["sb3", "torch"])
def test_iterations_one_by_one_are_those_of_learn(backend):
    column = tiny("checkers")
    settings = column.settings(MATRL, backend)
    whole = build_model(settings, column.env, seed=3)
    whole.learn(2 * column.rows, log_interval=None)
    stepped = SteppedTraining(build_model(settings, column.env, seed=3))
    stepped.iterate()
    stepped.iterate()
    stepped.close()
    assert stepped.model.num_timesteps == whole.num_timesteps == 2 * column.rows
    assert all(map(th.equal, parameters(whole), parameters(stepped.model)))


def test_error_of_a_training_is_raised(monkeypatch):
    column = tiny("n2")
    contestant = SharedPPO(column.settings(IPPO), column.env)
    contestant.training.iterate()
    monkeypatch.setattr(contestant.model, "train", lambda: 1 / 0)
    with pytest.raises(RuntimeError, match="the training failed: division by zero"):
        contestant.training.iterate()
    contestant.close()
    contestant.close()


def count_calls(monkeypatch, cls, name):
    """Calls of a method, with what weighs each of them."""
    weights, original = [], getattr(cls, name)

    def counted(self, *args, **kwargs):
        weights.append(getattr(self, "num_envs", 1))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(cls, name, counted)
    return weights


@pytest.mark.cases(expensive=["64"])
@pytest.mark.parametrize("batch_size", [12, 64])
def test_work_of_the_peer_and_of_ours_is_the_same(monkeypatch, batch_size):
    """Counted from outside: calls of the environment's step, and of Adam's."""
    column, steps = tiny("checkers", batch_size=batch_size), count_calls(monkeypatch, CheckersCore, "step")
    adam = count_calls(monkeypatch, th.optim.Adam, "step")
    settings = column.settings(IPPO, "sb3")
    assert settings["batch_size"] == (8 if batch_size == 64 else 12)
    done = []
    for contestant in (SharedPPO(settings, column.env), Ours(IPPO, settings, column.env)):
        steps.clear(), adam.clear()
        before = contestant.work
        contestant.training.iterate()
        done.append(Work(sum(steps), len(adam)))
        assert contestant.work - before == done[-1]
        contestant.close()
    peer, ours = done
    assert peer == expected_work(column, IPPO, 2, shared=True) and ours == expected_work(column, IPPO, 2)
    assert peer.env_steps == ours.env_steps == column.rows
    # 24 rows are three minibatches of 8, but 12 rows are two: an incomplete one per learner.
    assert (peer.gradient_steps, ours.gradient_steps) == ((6, 8) if batch_size == 64 else (4, 4))


@pytest.mark.e2e
@pytest.mark.parametrize("backend", ["sb3", "torch"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_work_of_ours_by_algorithm(algorithm, backend):
    column = tiny("n4")
    ours = Ours("", column.settings(algorithm, backend), column.env)
    for _ in range(2):
        before = ours.work
        ours.training.iterate()
        assert ours.work - before == expected_work(column, algorithm, 4)
    ours.close()


@pytest.mark.e2e
def test_matrl_and_ippo_with_its_epochs_take_as_many_gradient_steps():
    for column in (COLUMNS["checkers_64"], COLUMNS["hopper"], COLUMNS["pong"], COLUMNS["n64"]):
        assert expected_work(column, EQUAL, 4) == expected_work(column, MATRL, 4)
        assert expected_work(column, IPPO, 4).gradient_steps * 3 == expected_work(column, MATRL, 4).gradient_steps * 2
    assert expected_work(COLUMNS["checkers"], IPPO, 2) == Work(2000, 20)
    assert expected_work(COLUMNS["checkers_64"], IPPO, 2, shared=True) == Work(2000, 630)
    assert expected_work(COLUMNS["checkers_64"], IPPO, 2) == Work(2000, 640)


def test_work_of_one_agent():
    column = tiny("switch_64")
    lone = LonePPO(column.settings(IPPO), column.env)
    lone.training.iterate()
    assert lone.work == expected_work(column, IPPO, 1) == Work(12, 4)
    lone.close()


def test_one_agent_plays_in_the_world_of_all():
    view, world = OneAgentView(make("switch_v0", max_cycles=6)), make("switch_v0", max_cycles=6)
    check_env(view, skip_render_check=True)
    observation, _ = view.reset(seed=2)
    np.testing.assert_array_equal(observation, world.reset(seed=2)[0]["agent_0"])
    for action in (0, 1, 2, 3, 4, 0):
        observation, reward, terminated, truncated, _ = view.step(action)
        expected = world.step({"agent_0": action, **view.others})
        assert (reward, terminated, truncated) == tuple(part["agent_0"] for part in expected[1:4])
        np.testing.assert_array_equal(observation, expected[0]["agent_0"])
    assert terminated or truncated


def test_every_agent_of_every_copy_is_a_column():
    world = make("hopper_3x1")
    columns = tutorial_vec_env(world, 2)
    sizes = [world.observation_space(agent).shape[0] for agent in world.possible_agents]
    observations = columns.reset()
    assert observations.shape == (6, max(sizes)) and len(set(sizes)) > 1
    for copy in (0, 3):
        for i, size in enumerate(sizes):
            assert not observations[copy + i, size:].any()
    columns.step(np.zeros((6, 1), dtype=np.float32))
    columns.close()


def test_normalisation_is_the_same_where_the_settings_ask_for_it():
    column = tiny("hopper")
    contestants = [SharedPPO(column.settings(IPPO), column.env), LonePPO(column.settings(IPPO), column.env)]
    for contestant in contestants:
        env = contestant.model.get_vec_normalize_env()
        assert (env.norm_obs, env.norm_reward, env.gamma) == (True, True, 0.99)
        contestant.close()
    plain = SharedPPO(tiny("n2").settings(IPPO), tiny("n2").env)
    assert plain.model.get_vec_normalize_env() is None
    plain.close()


def test_networks_are_those_of_ours():
    column = tiny("checkers")
    peer = SharedPPO(column.settings(IPPO), column.env)
    ours = Ours("", column.settings(IPPO), column.env)
    shapes = [
        [tuple(p.shape) for p in policy.parameters()] for policy in (peer.model.policy, ours.model.agents["agent_0"].policy)
    ]
    assert shapes[0] == shapes[1]
    assert str(peer.model.policy.mlp_extractor) == str(ours.model.agents["agent_0"].policy.mlp_extractor)
    assert "LeakyReLU" in str(peer.model.policy.mlp_extractor)
    for contestant in (peer, ours):
        contestant.close()
