import os
import pickle
import re
import sys
import warnings

import ale_py
import numpy as np
import pytest
import supersuit
import torch as th
from pettingzoo.atari import pong_v3 as original
from pettingzoo.test import parallel_api_test, parallel_seed_test
from stable_baselines3.common.policies import ActorCriticCnnPolicy
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first

from sb3_matrl.envs import make, pong_v3
from sb3_matrl.vec_env import make_joint_vec_env
from tests.envs.playing import assert_same, episode_ends, play
from tests.envs.test_snapshot import through_json

# Bytes of the memory: the right and the left paddle's height (0 is at the top).
RIGHT, LEFT = 51, 50
UP, DOWN = 2, 3


def machine(**options):
    """PettingZoo's own."""
    return original.parallel_env(auto_rom_install_path=os.path.dirname(ale_py.__file__), **options)


@pytest.fixture(scope="module")
def ram():
    """An environment for tests that reset it first; loading the game takes long."""
    return make("pong_v3")


@pytest.fixture(scope="module")
def pixels():
    """The same with pictures."""
    return make("pong_v3", observation="pixels")


def random_actions(n_steps, seed):
    rng = np.random.default_rng(seed)
    return [{agent: int(rng.integers(6)) for agent in ("first_0", "second_0")} for _ in range(n_steps)]


@pytest.mark.cases(e2e=["3"], expensive=["1"])
@pytest.mark.parametrize("frame_skip", [1, 3])
def test_pixels_are_those_of_supersuits_wrappers(frame_skip):
    reference = supersuit.max_observation_v0(machine(obs_type="grayscale_image"), 2)
    reference = supersuit.frame_skip_v0(reference, frame_skip)
    reference = supersuit.frame_stack_v1(supersuit.resize_v1(reference, 84, 84), 4)
    env = make("pong_v3", observation="pixels", frame_skip=frame_skip, noop_max=0)
    observations, expected = env.reset()[0], reference.reset()[0]
    for actions in random_actions(60, seed=0):
        for agent in env.possible_agents:
            assert env.observation_space(agent).contains(observations[agent])
            assert np.array_equal(observations[agent][:4], np.moveaxis(expected[agent], -1, 0))
        observations, rewards, *_ = env.step(actions)
        expected, expected_rewards, *_ = reference.step(actions)
        assert rewards == expected_rewards


@pytest.mark.e2e
def test_ram_is_the_machines_memory_after_the_last_skipped_frame():
    reference = machine(obs_type="ram")
    env = make("pong_v3", noop_max=0, stack=2)
    observations, memory = env.reset()[0], [np.zeros(128), reference.reset()[0]["first_0"]]
    for actions in random_actions(40, seed=0):
        seen = observations["second_0"]
        assert env.observation_space("second_0").contains(seen)
        assert np.array_equal(seen, np.float32([*memory[0] / 255, *memory[1] / 255, 0, 1]))
        assert np.array_equal(env.state(), np.float32(memory[1] / 255))
        observations, rewards, *_ = env.step(actions)
        paid = np.zeros(2)
        for _ in range(4):
            shown, frame_rewards, *_ = reference.step(actions)
            paid += list(frame_rewards.values())
        memory = [memory[1], shown["first_0"]]
        assert list(rewards.values()) == paid.tolist()


@pytest.mark.e2e
def test_chosen_bytes_are_those_of_the_whole_memory_in_every_frame():
    whole, chosen = make("pong_v3", stack=2), make("pong_v3", stack=2, ram_bytes=[54, 49, 0])
    expected, seen = whole.reset(seed=0)[0], chosen.reset(seed=0)[0]
    for actions in random_actions(40, seed=0):
        for agent in chosen.possible_agents:
            assert np.array_equal(seen[agent], expected[agent][[54, 49, 0, 128 + 54, 128 + 49, 128, 256, 257]])
            assert chosen.observation_space(agent).contains(seen[agent])
        expected, seen = whole.step(actions)[0], chosen.step(actions)[0]
    assert chosen.state().shape == (128,)


@pytest.mark.e2e
def test_ball_and_paddles_are_in_the_bytes_that_the_documentation_names():
    env = make("pong_v3", frame_skip=1, noop_max=0, ram_bytes=[49, 54, 56, 58])
    seen = [np.round(255 * env.reset(seed=0)[0]["first_0"][:4])]
    while env.agents and len(seen) < 2000:
        seen.append(np.round(255 * env.step(dict.fromkeys(env.agents, 1))[0]["first_0"][:4]))
    frames = np.array(seen)
    flying = (frames[:-2, 1] > 0) & (frames[2:, 1] > 0) & (frames[:-2, 2:] == frames[2:, 2:]).all(axis=1)
    moved = (frames[2:, :2] - frames[:-2, :2])[flying]
    right, down = np.sign(moved).T
    signs = {1: 1, 2: 1, 255: -1, 254: -1}
    assert flying.sum() > 500
    assert np.mean([d == signs.get(byte) for d, byte in zip(down, frames[:-2, 2][flying], strict=True)]) > 0.95
    assert np.mean([-r == signs.get(byte) for r, byte in zip(right, frames[:-2, 3][flying], strict=True)]) > 0.95


def test_agents_see_the_same_but_for_their_tags(ram, pixels):
    seen = ram.reset(seed=0)[0]
    assert np.array_equal(seen["first_0"][:128], seen["second_0"][:128])
    assert [seen[agent][128:].tolist() for agent in ("first_0", "second_0")] == [[1, 0], [0, 1]]
    seen = pixels.reset(seed=0)[0]
    assert np.array_equal(seen["first_0"][:4], seen["second_0"][:4])
    assert (seen["first_0"][4] == 0).all() and (seen["second_0"][4] == 255).all()


def test_pixels_are_an_image_for_sb3s_cnn_policy(pixels):
    env = pixels
    space = env.observation_space("first_0")
    assert is_image_space(space) and is_image_space_channels_first(space)
    policy = ActorCriticCnnPolicy(space, env.action_space("first_0"), lambda _: 1e-3)
    values = policy.predict_values(th.as_tensor(np.stack(list(env.reset(seed=0)[0].values()))))
    assert values.shape == (2, 1) and values[0] != values[1]


def test_observations_are_fresh_arrays(pixels):
    before = pixels.reset(seed=0)[0]["first_0"]
    kept = before.copy()
    for actions in random_actions(30, seed=0):
        after = pixels.step(actions)[0]["first_0"]
    assert np.array_equal(before, kept) and not np.array_equal(after, kept)


@pytest.mark.e2e
@pytest.mark.parametrize(("agent", "byte"), [("first_0", RIGHT), ("second_0", LEFT)])
def test_first_plays_the_right_paddle_and_second_the_left(agent, byte):
    heights = {}
    for action in (UP, DOWN):
        env = make("pong_v3", noop_max=0)
        env.reset()
        play_still(env, 15)
        before = env.state()[[RIGHT, LEFT]]
        env.step({other: action if other == agent else 0 for other in env.agents})
        env.step({other: action if other == agent else 0 for other in env.agents})
        moved = dict(zip((RIGHT, LEFT), env.state()[[RIGHT, LEFT]] - before, strict=True))
        assert moved.pop(RIGHT + LEFT - byte) == 0
        heights[action] = moved[byte]
    assert heights[UP] < 0 < heights[DOWN]


def play_still(env, n_steps):
    return [env.step(dict.fromkeys(env.agents, 0)) for _ in range(n_steps)]


@pytest.mark.expensive
def test_game_ends_when_someone_has_21_points(ram):
    env, fresh = make("pong_v3"), ram
    env.reset(seed=1)
    points, paid, snapshot = np.zeros(2), set(), None
    rng = np.random.default_rng(0)
    while env.agents:
        if snapshot is None and max(points) == 20:
            snapshot, rng = env.snapshot(), np.random.default_rng(1)
        _, rewards, terminated, truncated, _ = env.step({agent: int(rng.integers(6)) for agent in env.agents})
        paid.add(tuple(rewards.values()))
        points += [reward > 0 for reward in rewards.values()]
    assert paid == {(0, 0), (1, -1), (-1, 1)}
    assert max(points) == 21 > min(points)
    assert all(terminated.values()) and not any(truncated.values())
    with pytest.raises(RuntimeError, match="the episode is over"):
        env.step({})
    fresh.restore(snapshot)
    rng = np.random.default_rng(1)
    while fresh.agents:
        fresh.step({agent: int(rng.integers(6)) for agent in fresh.agents})
    assert np.array_equal(fresh.state(), env.state())


@pytest.mark.e2e
def test_who_does_not_serve_in_time_pays():
    env = make("pong_v3", frame_skip=60, noop_max=0)
    env.reset()
    paid = {tuple(rewards.values()) for _, rewards, *_ in play_still(env, 40)}
    assert (-1, 0) in paid


@pytest.mark.e2e
def test_seed_decides_how_long_nobody_moves():
    def start(env, seed):
        return env.reset(seed=seed)[0]["first_0"].tobytes()

    env = make("pong_v3", noop_max=2)
    starts = [start(env, seed) for seed in range(12)]
    assert len(set(starts)) == 3
    other = make("pong_v3", noop_max=2)
    assert starts == [start(other, seed) for seed in range(12)]
    drawn = [start(env, None) for _ in range(12)]
    assert len(set(drawn)) == 3 and drawn == [start(other, None) for _ in range(12)]
    still = make("pong_v3", noop_max=0)
    assert len({start(still, seed) for seed in range(4)}) == 1


@pytest.mark.e2e
def test_time_limit_truncates_and_does_not_terminate():
    env = make("pong_v3", max_cycles=2)
    env.reset(seed=0)
    first, last = play_still(env, 2)
    assert not any([*first[2].values(), *first[3].values(), *last[2].values()])
    assert all(last[3].values()) and env.agents == []


@pytest.mark.cases(expensive=["{}", "{'stack': 3}", "{'observation': 'pixels'}"], rest="e2e")
@pytest.mark.parametrize(
    "options",
    [{}, {"stack": 3}, {"observation": "pixels"}, {"observation": "pixels", "frame_skip": 1, "stack": 2}],
    ids=str,
)
def test_restored_game_goes_on_bit_for_bit_across_episodes(options):
    env, fresh = (make("pong_v3", max_cycles=12, **options) for _ in range(2))
    for n_steps in (0, 3, 10):  # before, during and after the first stack
        env.reset(seed=3)
        play(env, n_steps, seed=0)
        snapshot = through_json(env.snapshot())
        expected = play(env, 41 - n_steps, seed=1)
        fresh.restore(snapshot)
        seen = play(fresh, 41 - n_steps, seed=1)
        assert_same(seen, expected)
        assert episode_ends(seen) == 3


def plain(snapshot):
    """A snapshot with lists for arrays, which can be compared."""
    return {**snapshot, "actions": snapshot["actions"].tolist(), "memory": snapshot["memory"].tolist()}


@pytest.mark.e2e
def test_restored_game_saves_the_same_snapshot_and_shows_the_same_screen():
    env, fresh = make("pong_v3", render_mode="rgb_array"), make("pong_v3", render_mode="rgb_array")
    env.reset(seed=0)
    play(env, 30, seed=0)
    snapshot = env.snapshot()
    fresh.reset(seed=1)
    fresh.restore(snapshot)
    assert np.array_equal(fresh.render(), env.render())
    assert plain(fresh.snapshot()) == plain(snapshot)
    assert snapshot["actions"].shape == (30, 2) and np.array_equal(snapshot["memory"], np.round(255 * env.state()))


@pytest.mark.expensive
def test_ended_game_is_restored_but_not_continued():
    env = make("pong_v3", frame_skip=60, noop_max=0)
    env.reset()
    while env.agents:
        env.step({"first_0": 1, "second_0": 0})
    ended = env.snapshot()
    env.reset()
    env.restore(ended)
    assert env.agents == [] and plain(env.snapshot()) == plain(ended)
    longer = {**ended, "actions": np.concatenate([ended["actions"], np.zeros((1, 2), np.uint8)])}
    with pytest.warns(UserWarning, match="pong_v3 cannot continue a saved game and begins a new one: its actions"):
        env.restore(longer)
    assert env.agents and env.snapshot()["actions"].shape == (0, 2)


def test_environment_without_a_game_is_restored_too(ram):
    blank = make("pong_v3").snapshot()
    ram.reset(seed=0)
    play(ram, 2, seed=0)
    ram.restore(blank)
    with pytest.raises(RuntimeError, match="reset"):
        ram.step(dict.fromkeys(ram.possible_agents, 0))
    assert ram.snapshot()["actions"].shape == (0, 2) and not ram.snapshot()["started"]


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        ({"np_random": {}}, "'np_random' must be the state of a PCG64"),
        ({"started": 1}, "'started' must be of type bool"),
        ({"started": False}, "'actions' must have at most 0 steps, got 6"),
        ({"noops": -1}, "'noops' must be an integer from 0 to 30, got -1"),
        ({"noops": 31}, "'noops' must be an integer from 0 to 30, got 31"),
        ({"noops": 1.0}, "'noops' must be an integer from 0 to 30, got 1.0"),
        ({"memory": np.zeros(127, np.uint8)}, r"'memory' must be an array of shape \(128,\)"),
        ({"actions": [[0, 0]]}, "'actions' must be an array of shape"),
        ({"actions": np.zeros((3, 2))}, "'actions' must be an array of shape .* and dtype uint8, got .* float64"),
        ({"actions": np.zeros((3, 3), np.uint8)}, r"'actions' must be an array of shape \(3, 2\)"),
        ({"actions": np.array(0, np.uint8)}, "'actions' must be an array of shape"),
        ({"actions": np.full((1, 2), 6, np.uint8)}, "'actions' must be integers from 0 to 5, got 6"),
        ({"actions": np.zeros((21, 2), np.uint8)}, "'actions' must have at most 20 steps, got 21"),
        # Takes no memory here, but would with two columns.
        ({"actions": np.zeros((10**12, 0), np.uint8)}, "'actions' must have at most 20 steps, got 1000000000000"),
        ({"extra": 1}, "has unknown"),
    ],
)
def test_snapshots_that_do_not_fit_are_refused_and_change_nothing(short, spoilt, message):
    env, before = short
    with pytest.raises(ValueError, match=message):
        env.restore({**before, **spoilt})
    assert plain(env.snapshot()) == plain(before)


@pytest.fixture(scope="module")
def short():
    """An environment in the middle of a game of at most 20 steps, and its snapshot."""
    env = make("pong_v3", max_cycles=20)
    env.reset(seed=0)
    play(env, 6, seed=0)
    return env, env.snapshot()


def new_game(generator):
    """An environment with a new game, which begins with the next number of a generator in this state."""
    env = make("pong_v3")
    env.np_random.bit_generator.state = generator
    env.reset()
    return env


def test_game_that_does_not_lead_to_the_saved_memory_is_replaced_with_a_warning(ram):
    ram.reset(seed=0)
    play(ram, 6, seed=0)
    snapshot = ram.snapshot()
    snapshot["memory"][60] ^= 1
    with pytest.warns(UserWarning, match="begins a new one: its actions lead to another state here"):
        ram.restore(snapshot)
    assert_same(play(ram, 5, seed=1), play(new_game(snapshot["np_random"]), 5, seed=1))


def snapshot_of_version_0_1(env):
    """Snapshot with the emulator's own state, as versions up to 0.1 saved it."""
    return {
        "_shown": env._shown.copy(),
        "_stack": env._stack.copy(),
        "np_random": dict(env.np_random.bit_generator.state),
        "_elapsed_steps": len(env.snapshot()["actions"]),
        "_started": True,
        "machine": env._machine.clone_full_state(),
        "running": bool(env.agents),
    }


@pytest.mark.cases(e2e=["False"])
@pytest.mark.parametrize("damaged", [False, True])
def test_snapshot_of_an_earlier_version_begins_a_new_game_with_a_warning(ram, damaged):
    ram.reset(seed=0)
    play(ram, 6, seed=0)
    snapshot = snapshot_of_version_0_1(ram)
    if damaged:  # the emulator would abort the process
        snapshot["machine"] = snapshot["machine"][:100]
    with pytest.warns(UserWarning, match="begins a new one: an earlier version has saved it"):
        ram.restore(snapshot)
    assert_same(play(ram, 5, seed=1), play(new_game(snapshot["np_random"]), 5, seed=1))
    with pytest.raises(ValueError, match=r"lacks \['running'\]"):
        ram.restore({name: value for name, value in snapshot.items() if name != "running"})


@pytest.mark.e2e
def test_joint_vec_env_continues_with_new_games_after_a_snapshot_of_an_earlier_version():
    venv = make_joint_vec_env("pong_v3", n_envs=2, vec_env="dummy", seed=0)
    venv.reset()
    venv.step({agent: np.ones(2, np.int64) for agent in venv.agents})
    snapshot = venv.snapshot()
    for saved, env in zip(snapshot["envs"]["copies"], venv.get_attr("unwrapped"), strict=True):
        saved["env"] = snapshot_of_version_0_1(env)
    with pytest.warns(UserWarning, match="begins a new one: an earlier version has saved it"):
        venv.restore(snapshot)
    venv.step({agent: np.zeros(2, np.int64) for agent in venv.agents})
    assert [len(saved["env"]["actions"]) for saved in venv.snapshot()["envs"]["copies"]] == [1, 1]


@pytest.mark.e2e
def test_joint_vec_env_can_save_and_go_on():
    venv, other = (make_joint_vec_env("pong_v3", n_envs=2, vec_env="dummy", seed=seed) for seed in (0, 1))
    rng = np.random.default_rng(0)
    actions = [{agent: rng.integers(6, size=2) for agent in ("first_0", "second_0")} for _ in range(40)]
    venv.reset()
    for joint_action in actions[:20]:
        venv.step(joint_action)
    other.restore(venv.snapshot())
    for joint_action in actions[20:]:
        one, two = venv.step(joint_action)[0], other.step(joint_action)[0]
        assert all(np.array_equal(one[agent], two[agent]) for agent in one)


@pytest.mark.e2e
def test_a_copy_goes_on_from_the_same_state():
    env = make("pong_v3", max_cycles=20)
    env.reset(seed=0)
    play(env, 5, seed=0)
    copy = pickle.loads(pickle.dumps(env))
    assert_same(play(copy, 40, seed=1), play(env, 40, seed=1))


@pytest.mark.e2e
def test_passes_pettingzoos_parallel_tests_without_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallel_api_test(make("pong_v3"), num_cycles=20)
        parallel_seed_test(pong_v3.parallel_env, num_cycles=20)


def test_screen_is_drawn():
    env = make("pong_v3", render_mode="rgb_array")
    env.reset(seed=0)
    picture = env.render()
    assert picture.shape == (210, 160, 3) and picture.dtype == np.uint8 and picture.std() > 10
    env.close()
    env.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"observation": "pixel"}, "observation 'pixel' is unknown; did you mean 'pixels'?"),
        ({"frame_skip": 0}, "frame_skip must be an integer of at least 1, got 0"),
        ({"stack": 0}, "stack must be an integer of at least 1, got 0"),
        ({"ram_bytes": []}, "ram_bytes must be a list of different integers from 0 to 127, got []"),
        ({"ram_bytes": [1, 1]}, "ram_bytes must be a list of different integers from 0 to 127, got [1, 1]"),
        ({"ram_bytes": 54}, "ram_bytes must be a list"),
        ({"ram_bytes": [54, 128]}, "each of ram_bytes must be an integer from 0 to 127, got 128"),
        ({"observation": "pixels", "ram_bytes": [54]}, "ram_bytes belongs to observation 'ram', not 'pixels'"),
        ({"noop_max": -1}, "noop_max must be an integer of at least 0, got -1"),
        ({"max_cycles": 0}, "max_cycles must be an integer of at least 1, got 0"),
        ({"render_mode": "ansi"}, "render_mode 'ansi' is unknown"),
    ],
)
def test_wrong_options_are_explained(options, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        make("pong_v3", **options)


def test_invalid_actions_are_explained(ram):
    ram.reset(seed=0)
    with pytest.raises(ValueError, match="second_0: action must be an integer from 0 to 5, got 6"):
        ram.step({"first_0": 0, "second_0": 6})
    with pytest.raises(ValueError, match=r"missing: \['second_0'\]"):
        ram.step({"first_0": 0})


@pytest.mark.parametrize("package", ["ale_py", "pettingzoo.atari.pong_v3"])
def test_missing_package_is_explained(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError) as caught:
        make("pong_v3")
    assert str(caught.value).startswith("env pong_v3 needs more packages: pip install 'sb3-matrl[atari]' (")
    assert "\n" not in str(caught.value)
