import inspect
import os
import pickle
import re
import sys
import warnings

import numpy as np
import pytest
import torch as th
from pettingzoo.test import parallel_api_test, parallel_seed_test
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_matrl.envs import factory, make, mamujoco
from sb3_matrl.vec_env import make_joint_vec_env
from tests.envs.playing import action, assert_same, episode_ends, play
from tests.envs.test_snapshot import through_json

# The two robots that grow, beside all that do not.
IDS = [*mamujoco.env_ids(), "manysegmentant_2x2", "manysegmentswimmer_3x2"]
TASKS = {
    "ant": "Ant",
    "halfcheetah": "HalfCheetah",
    "hopper": "Hopper",
    "humanoid": "Humanoid",
    "humanoidstandup": "HumanoidStandup",
    "manysegmentant": "ManySegmentAnt",
    "manysegmentswimmer": "ManySegmentSwimmer",
    "pusher": "Pusher",
    "reacher": "Reacher",
    "swimmer": "Swimmer",
    "walker2d": "Walker2d",
}


def test_ids_are_the_librarys_factorisations():
    from gymnasium_robotics.envs.multiagent_mujoco.obsk import get_parts_and_edges

    task, found = "", set()
    for names, conf in re.findall(r'label in \[(.*?)\]|partitioning == "(.*?)"', inspect.getsource(get_parts_and_edges)):
        task = names or task
        found |= {f"{name.strip().strip(chr(34)).lower()}_{conf}" for name in task.split(",") if conf}
    assert found - {"coupledhalfcheetah_1p1"} == set(mamujoco.env_ids())


@pytest.mark.parametrize("env_id", IDS)
def test_plays_as_the_librarys_own_environment(env_id, monkeypatch, tmp_path):
    from gymnasium_robotics import mamujoco_v1

    monkeypatch.chdir(tmp_path)  # the library's own models make MuJoCo write a file of warnings
    robot, _, conf = env_id.partition("_")
    env, reference = make(env_id), mamujoco_v1.parallel_env(TASKS[robot], conf)
    # Which is which of two of the pusher's joints is for the library a matter of chance.
    arranged = np.sort if robot == "pusher" else np.asarray
    rng = np.random.default_rng(0)
    observations, _ = env.reset(seed=7)
    expected, _ = reference.reset(seed=7)
    for _ in range(20):
        assert env.possible_agents == reference.possible_agents
        assert np.array_equal(env.state(), reference.state().astype(np.float32))
        for agent in env.possible_agents:
            assert env.action_space(agent) == reference.action_space(agent)
            assert env.observation_space(agent).contains(observations[agent])
            assert np.array_equal(arranged(observations[agent]), arranged(expected[agent].astype(np.float32)))
        if not env.agents:
            break
        actions = {agent: action(env, agent, rng) for agent in env.agents}
        observations, *outcome, infos = env.step(actions)
        expected, *expected_outcome, expected_infos = reference.step(actions)
        assert outcome == expected_outcome
        np.testing.assert_equal(infos, expected_infos)


def test_networks_and_buffers_of_sb3_see_the_same_in_float64():
    env = make("hopper_3x1")
    exact = make("hopper_3x1")._env.reset(seed=0)[0]["agent_1"]
    rounded = env.reset(seed=0)[0]["agent_1"]
    assert exact.dtype == np.float64 and not np.array_equal(exact, rounded)
    spaces = env.observation_space("agent_1"), env.action_space("agent_1")
    policy = ActorCriticPolicy(*spaces, lambda _: 1e-3)
    buffer = RolloutBuffer(1, *spaces)
    one, other = (policy(th.as_tensor(array[None]), deterministic=True) for array in (exact, rounded))
    assert all(th.equal(a, b) for a, b in zip(one, other, strict=True))
    buffer.add(exact[None], np.zeros((1, 1)), np.zeros(1), np.zeros(1), th.zeros(1), th.zeros(1))
    assert np.array_equal(buffer.observations[0, 0], rounded)


@pytest.mark.cases(expensive=["ant_2x4d", "ant_4x2", "humanoid_9|8", "humanoidstandup_9|8"])
@pytest.mark.parametrize("env_id", IDS)
def test_restored_environment_goes_on_bit_for_bit_across_episodes(env_id):
    env, fresh = (factory(env_id)(max_episode_steps=25) for _ in range(2))
    env.reset(seed=3)
    play(env, 10, seed=0)
    snapshot = through_json(env.snapshot())
    expected = play(env, 60, seed=1)
    fresh.restore(snapshot)
    seen = play(fresh, 60, seed=1)
    assert_same(seen, expected)
    assert episode_ends(seen) >= 2
    assert fresh.snapshot()["generator"] == env.snapshot()["generator"]


def test_agents_see_the_pushers_joints_in_one_order():
    env = make("pusher_3p")
    env.reset(seed=0)
    observations, *_, state = play(env, 5, seed=0)[-1]
    positions, velocities = state[:7], state[7:14]
    by_name = [2, 0, 1]  # "r_upper_arm_roll_joint", and two that are called "r_wrist_roll_joint"
    assert np.array_equal(observations["agent_0"][:6], np.column_stack([positions, velocities])[by_name].ravel())


@pytest.mark.parametrize("reset_first", [False, True])
def test_snapshot_between_episodes_knows_whether_one_has_begun(reset_first):
    env, fresh = make("swimmer_2x1", max_episode_steps=1), make("swimmer_2x1")
    if reset_first:
        env.reset(seed=0)
        play(env, 1, seed=0)
    fresh.restore(env.snapshot())
    with pytest.raises(RuntimeError, match="the episode is over" if reset_first else "no episode has begun"):
        fresh.step({})
    assert np.array_equal(fresh.reset()[0]["agent_0"], env.reset()[0]["agent_0"])


def test_snapshots_that_do_not_fit_are_refused():
    env = make("hopper_3x1")
    env.reset(seed=0)
    good = env.snapshot()
    for spoilt, message in [
        ({"physics": good["physics"][1:]}, "'physics' must be an array of shape"),
        ({"derived": {}}, "'derived' lacks"),
        ({"derived": {**good["derived"], "xpos": np.zeros(3)}}, "'xpos' must be an array of shape"),
        ({"generator": {}}, "'generator' must be the state of a PCG64"),
        ({"elapsed_steps": -1}, "'elapsed_steps' must be an integer from 0 to"),
        ({"elapsed_steps": 2**63}, "'elapsed_steps' must be an integer from 0 to"),
        ({"running": 1}, "'running' must be of type bool"),
        ({"extra": 1}, "has unknown"),
    ]:
        with pytest.raises(ValueError, match=message):
            env.restore({**good, **spoilt})
    assert_same(play(env, 1, seed=0), play(_restored(good), 1, seed=0))


def _restored(snapshot):
    env = make("hopper_3x1")
    env.restore(snapshot)
    return env


def test_joint_vec_env_can_save_and_go_on():
    venv, other = (make_joint_vec_env("hopper_3x1", n_envs=2, vec_env="dummy", seed=seed) for seed in (0, 1))
    rng = np.random.default_rng(0)
    actions = [
        {agent: rng.uniform(-1, 1, (2, 1)).astype(np.float32) for agent in ("agent_0", "agent_1", "agent_2")}
        for _ in range(80)
    ]
    venv.reset()
    for joint_action in actions[:20]:
        venv.step(joint_action)
    other.restore(venv.snapshot())
    for joint_action in actions[20:]:
        (one, rewards, dones, _), (two, other_rewards, other_dones, _) = venv.step(joint_action), other.step(joint_action)
        assert np.array_equal(rewards, other_rewards) and np.array_equal(dones, other_dones)
        assert all(np.array_equal(one[agent], two[agent]) for agent in one)


def test_a_copy_goes_on_from_the_same_state():
    env = make("halfcheetah_2x3", max_episode_steps=10)
    env.reset(seed=0)
    play(env, 5, seed=0)
    copy = pickle.loads(pickle.dumps(env))
    assert_same(play(copy, 20, seed=1), play(env, 20, seed=1))


@pytest.mark.parametrize("env_id", ["hopper_3x1", "manysegmentswimmer_2x1"])
def test_passes_pettingzoos_parallel_tests_without_warnings(env_id):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallel_api_test(make(env_id), num_cycles=30)
        parallel_seed_test(factory(env_id), num_cycles=30)


def test_time_limit_truncates_and_does_not_terminate():
    env = make("swimmer_2x1", max_episode_steps=3)
    env.reset(seed=0)
    flags = [(terminated, truncated) for _, _, terminated, truncated, _ in play(env, 3, seed=0)]
    nobody, everybody = dict.fromkeys(env.possible_agents, False), dict.fromkeys(env.possible_agents, True)
    assert flags == [(nobody, nobody), (nobody, nobody), (nobody, everybody)]


@pytest.mark.parametrize(("env_id", "steps"), [("swimmer_2x1", 1000), ("reacher_2x1", 50)])
def test_time_limit_is_gymnasiums_by_default(env_id, steps):
    env = make(env_id)
    env.reset(seed=0)
    seen = play(env, steps, seed=0)
    assert episode_ends(seen) == 1 and all(seen[-1][3].values())


def test_fallen_hopper_terminates_all_agents():
    env = make("hopper_3x1")
    env.reset(seed=0)
    while env.agents:
        _, _, terminated, truncated, _ = env.step(dict.fromkeys(env.agents, np.ones(1, np.float32)))
    assert all(terminated.values()) and not any(truncated.values())
    with pytest.raises(RuntimeError, match=r"hopper_3x1: step\(\) was called although the episode is over"):
        env.step({})


def test_agents_have_infos_of_their_own():
    env = make("hopper_3x1")
    _, infos = env.reset(seed=0)
    infos["agent_0"]["note"] = 1
    assert "note" not in infos["agent_1"]


def test_options_reach_the_library_and_the_robot():
    assert (
        make("ant_2x4", agent_obsk=0).observation_space("agent_0").shape < make("ant_2x4").observation_space("agent_0").shape
    )
    alone = make("hopper_3x1", agent_obsk=None)
    assert alone.possible_agents == ["agent_0"] and alone.action_space("agent_0").shape == (3,)
    still = make("hopper_3x1", reset_noise_scale=0.0)
    assert np.array_equal(still.reset(seed=0)[0]["agent_0"], still.reset(seed=1)[0]["agent_0"])
    assert make("hopper_3x1", local_categories=[["qpos"], []]).observation_space("agent_0").shape == (6,)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"reset_noise": 1}, TypeError, "hopper_3x1: option 'reset_noise' is unknown; did you mean 'reset_noise_scale'?"),
        ({"agent_obsk": -1}, ValueError, "agent_obsk must be an integer of at least 0, got -1"),
        ({"max_episode_steps": 0}, ValueError, "max_episode_steps must be an integer of at least 1, got 0"),
        ({"render_mode": "rgb"}, ValueError, "render_mode 'rgb' is unknown. Known: human, rgb_array, depth_array"),
    ],
)
def test_wrong_options_are_explained(options, error, message):
    with pytest.raises(error, match="^" + re.escape(message)):
        make("hopper_3x1", **options)


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("hopper_4x1", "env 'hopper_4x1' is unknown; hopper has: hopper_3x1"),
        ("ant_2x4x", "env 'ant_2x4x' is unknown; did you mean 'ant_2x4'? ant has: ant_2x4, ant_2x4d, ant_4x2"),
        ("ant", "env 'ant' is unknown; ant has: ant_2x4, ant_2x4d, ant_4x2"),
        (
            "manysegmentant_1x1",
            "env 'manysegmentant_1x1' is unknown; expected manysegmentant_<agents>x<joints of each>, two joints or more, "
            "e.g. manysegmentant_2x3",
        ),
    ],
)
def test_wrong_factorisations_are_explained(env_id, message):
    with pytest.raises(ValueError) as caught:
        factory(env_id)
    assert str(caught.value) == message


def test_missing_package_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium_robotics.envs.multiagent_mujoco.mamujoco_v1", None)
    assert "hopper_3x1" in mamujoco.env_ids()
    with pytest.raises(ImportError) as caught:
        make("hopper_3x1")
    assert str(caught.value).startswith("env hopper_3x1 needs more packages: pip install 'sb3-matrl[mujoco]' (")
    assert "\n" not in str(caught.value)


def test_nothing_is_written_or_printed(monkeypatch, tmp_path, capfd):
    monkeypatch.chdir(tmp_path)
    make("halfcheetah_2x3").reset(seed=0)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.e2e
def test_pictures_are_drawn_without_a_display(monkeypatch):
    for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    env = make("hopper_3x1", render_mode="rgb_array", width=96, height=64)
    env.reset(seed=0)
    standing = env.render()
    assert standing.shape == (64, 96, 3) and standing.dtype == np.uint8 and standing.std() > 10
    for _ in range(20):
        env.step(dict.fromkeys(env.agents, np.ones(1, np.float32)))
    assert not np.array_equal(env.render(), standing)
    assert "MUJOCO_GL" not in os.environ
    env.close()
    env.close()


@pytest.mark.e2e
def test_restored_environment_draws_the_same_robot():
    env, fresh = (make("hopper_3x1", render_mode="rgb_array", width=96, height=64) for _ in range(2))
    env.reset(seed=0)
    play(env, 15, seed=0)
    fresh.restore(env.snapshot())
    drawn = env.render().astype(int)
    # The original draws bodies as they were before its last substep, of 2 ms.
    after_restore = np.abs(fresh.render() - drawn).mean()
    fresh.reset(seed=0)
    assert after_restore < 0.2 * np.abs(fresh.render() - drawn).mean()


@pytest.mark.cases(e2e=["hopper_3x1"], rest="expensive")
@pytest.mark.parametrize("robot", ["ant_2x4", "hopper_3x1", "halfcheetah_2x3", "swimmer_2x1", "walker2d_2x3"])
def test_camera_follows_the_robot(robot):
    def camera_and_robot(**options):
        env = make(robot, render_mode="rgb_array", width=32, height=32, **options)
        env.reset(seed=0)
        env.render()
        state = env.snapshot()
        state["physics"][1] += 12.0  # the robot's place along its way
        env.restore(state)
        env.render()
        viewer = env._robot.mujoco_renderer.viewer
        place, torso = viewer.scn.camera[0].pos[0], env._robot.data.subtree_com[1][0]
        env.close()
        return place, torso

    place, torso = camera_and_robot()
    assert torso > 11 and abs(place - torso) < 1
    left_behind, torso = camera_and_robot(camera_id=-1)
    assert abs(left_behind - torso) > 5


def test_window_without_a_display_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="render_mode 'human' needs a display, and there is none; use 'rgb_array'"):
        make("hopper_3x1", render_mode="human")


def test_without_a_render_mode_nothing_is_drawn():
    env = make("hopper_3x1")
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="hopper_3x1 was made without a render_mode"):
        assert env.render() is None
