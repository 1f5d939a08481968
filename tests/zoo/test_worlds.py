"""Train, play and film: turn-based games, action masks, Dict observations, frozen agents, ids with odd characters."""

from itertools import pairwise

import imageio.v2 as imageio
import numpy as np
import pytest
from gymnasium import spaces
from sb3_contrib import MaskablePPO

from sb3_matrl import MATRL
from sb3_matrl.envs.making import make_env
from sb3_matrl.evaluation import MixedPolicy, Player
from sb3_matrl.evaluation.play import play_episodes
from sb3_matrl.on_policy.learners import SpacesVecEnv
from sb3_matrl.zoo.common.run_folder import create_run_folder, find_run_folder
from sb3_matrl.zoo.enjoy import main as enjoy
from sb3_matrl.zoo.playing.enjoy_options import ModelChoice
from sb3_matrl.zoo.playing.players import PlayerLoader, SingleAgent
from sb3_matrl.zoo.report import main as report
from sb3_matrl.zoo.train import main

CONNECT_FOUR = "pettingzoo:classic/connect_four-v3"
TINY = ["-params", "n_envs:2", "n_steps:16", "batch_size:32", "n_epochs:1", "br_n_epochs:1", "policy_kwargs.net_arch:[8]"]
QUICK = ["-n", "32", "--eval-freq", "-1", "--eval-episodes", "2", "--verbose", "0", "--device", "cpu", "--seed", "1"]


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    words = ["--env", CONNECT_FOUR, *TINY, "learner_class:MaskablePPO"]
    assert main(["-f", str(folder), *QUICK, *words]) == 0
    return folder


def played(capsys, *words):
    """Mean and standard deviation of everybody's return."""
    capsys.readouterr()
    assert enjoy(list(words)) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(("sampled ", "greedy "))]
    return {(policy, name): (float(mean), float(std)) for policy, name, mean, std, *_ in lines}


@pytest.mark.parametrize("words", [["--n-episodes", "6"], ["-n", "60", "--stochastic"], ["-n", "60", "--deterministic"]])
def test_turns_and_masks_are_kept_in_play(logs, capsys, words):
    # An illegal move would cost its player a point that nobody wins.
    table = played(capsys, "-f", str(logs), "--env", CONNECT_FOUR, *words)
    assert all(table[key] == (0.0, 0.0) for key in table if key[1] == "team")


@pytest.mark.e2e
def test_a_turn_based_game_is_filmed(logs, tmp_path, capsys):
    path = tmp_path / "game.mp4"
    assert enjoy(["-f", str(logs), "--env", CONNECT_FOUR, "--n-episodes", "1", "--record", str(path)]) == 0
    frames = imageio.mimread(path, memtest=False)
    # A coin per step: every picture differs from the one before.
    assert len(frames) >= 8
    changes = [np.abs(later.astype(int) - former).max() for former, later in pairwise(frames)]
    assert min(changes) > 50


def test_an_agent_of_sb3_with_masks_plays_by_the_rules(logs):
    home = MATRL.load(find_run_folder(logs, "matrl", CONNECT_FOUR).last_model, device="cpu")
    env = make_env(CONNECT_FOUR, {})
    seen = SpacesVecEnv(1, env.observation_space("player_1"), env.action_space("player_1"))
    guest = SingleAgent(MaskablePPO("MultiInputPolicy", seen, seed=0, device="cpu"))
    policy = MixedPolicy({"player_0": Player(home, "player_0"), "player_1": Player(guest, SingleAgent.name)})
    result = play_episodes(policy, env, 6, None, deterministic=False, seed=0)
    assert set(result.returns) == {0.0} and set(result.agent_returns.ravel()) == {-1.0, 1.0}


def test_shared_and_frozen_agents_play(tmp_path):
    game = {"env_kwargs": {"n_agents": 3}, "policy_kwargs": {"net_arch": [4]}, "device": "cpu"}
    model = MATRL(
        "MlpPolicy",
        "switch_v0",
        share={"team": ["agent_0", "agent_1"]},
        frozen={"agent_2": MATRL("MlpPolicy", "switch_v0", **game)},
        **game,
    )
    model.save(tmp_path / "model.zip")
    guests = {"agent_0": f"{tmp_path}/model.zip:agent_2"}
    players = PlayerLoader(tmp_path, ModelChoice(), "cpu", trust=False).load(tmp_path / "model.zip", guests)
    assert list(players) == ["agent_0", "agent_1", "agent_2"]
    observation = np.full(model.observation_space["agent_0"].shape, 0.5, np.float32)
    actions = {
        agent: int(player.model.predict({player.agent: observation}, deterministic=True)[0][player.agent])
        for agent, player in players.items()
    }
    expected = {
        "agent_0": model.team.frozen["agent_2"].policy,
        "agent_1": model.learners["team"].policy,
        "agent_2": model.team.frozen["agent_2"].policy,
    }
    for agent, policy in expected.items():
        assert actions[agent] == int(policy.predict(observation, deterministic=True)[0])


@pytest.mark.parametrize("env_id", ["humanoid_9|8", "pettingzoo:sisl/multiwalker-v9", "my.envs:make"])
def test_runs_of_any_id_are_found_again(tmp_path, env_id):
    first, second = (create_run_folder(tmp_path, "matrl", env_id) for _ in range(2))
    assert first.path.parent == second.path.parent == tmp_path / "matrl"
    assert find_run_folder(tmp_path, "matrl", env_id) == second and find_run_folder(tmp_path, "matrl", env_id, 1) == first
    second.last_model.write_text("a model")
    assert second.last_model.parent == second.path


@pytest.mark.e2e
def test_report_has_pictures_of_a_game_with_a_colon_and_a_slash_in_its_id(logs, tmp_path, capsys):
    run = find_run_folder(logs, "matrl", CONNECT_FOUR)
    assert report([str(run.path), "--frames", "2", "--out", str(tmp_path / "page.html")]) == 0
    assert "warning" not in capsys.readouterr().err
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/png") >= 2 and "Greedy episode" in page


def test_dict_observations_and_masks_reach_the_learner(logs):
    model = MATRL.load(find_run_folder(logs, "matrl", CONNECT_FOUR).last_model, device="cpu")
    assert {type(learner) for learner in model.learners.values()} == {MaskablePPO}
    assert isinstance(model.observation_space["player_0"], spaces.Dict)


@pytest.mark.expensive
@pytest.mark.parametrize(
    ("env_id", "words"),
    [
        ("hopper_3x1", []),
        ("pong_v3", ["--env-kwargs", "max_cycles:60"]),
        ("pettingzoo:sisl/multiwalker-v9", []),
        ("checkers_v0", []),
    ],
)
def test_every_world_is_trained_and_filmed(tmp_path, env_id, words):
    assert main(["-f", str(tmp_path), *QUICK, "--env", env_id, *TINY, *words]) == 0
    path = tmp_path / "video.mp4"
    assert enjoy(["-f", str(tmp_path), "--env", env_id, "--n-episodes", "1", "--record", str(path)]) == 0
    frames = np.array(imageio.mimread(path, memtest=False))
    assert len(frames) > 3 and frames[0].std() > 5 and np.abs(np.diff(frames.astype(int), axis=0)).max() > 20
