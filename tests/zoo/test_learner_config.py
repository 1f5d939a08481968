"""Learners, policies, normalisation, wrappers and opponents as configuration files and command lines write them."""

import math
import sys

import numpy as np
import pytest
from gymnasium import spaces
from sb3_contrib import TRPO, MaskablePPO, RecurrentPPO
from stable_baselines3 import PPO

from sb3_matrl import MATRL
from sb3_matrl.common.registry import algorithm_names
from sb3_matrl.envs import registered_ids
from sb3_matrl.envs.making import make_env
from sb3_matrl.envs.wrappers import WRAPPERS, read_wrappers
from sb3_matrl.zoo import enjoy
from sb3_matrl.zoo.common.hyperparameters import (
    HYPERPARAMS_FOLDER,
    Hyperparameters,
    find_conf_file,
    load_hyperparameters,
)
from sb3_matrl.zoo.common.policies import suitable_policy, with_learners
from sb3_matrl.zoo.common.yaml_files import read_yaml
from sb3_matrl.zoo.train import main, parse_options
from tests.algorithms import ON_POLICY

ISSUE_IDS = ("hopper_3x1", "ant_2x4", "ant_4x2", "swimmer_2x1", "halfcheetah_2x3", "walker2d_2x3", "pong_v3")
TINY = ["-params", "n_envs:2", "n_steps:16", "batch_size:32", "n_epochs:1", "br_n_epochs:1"]
QUICK = ["-n", "32", "--eval-freq", "-1", "--eval-episodes", "2", "--verbose", "0", "--device", "cpu", "--seed", "1"]


def train(folder, *words):
    return main(["--run-dir", str(folder), *QUICK, *TINY, *words])


def error_of(capsys, *words):
    with pytest.raises(SystemExit) as exit_info:
        main(["--verbose", "0", *words])
    assert exit_info.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    return message


def read(**values):
    return Hyperparameters.from_mapping("matrl", values, "here")


# ---------------------------------------------------------------- normalize


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (True, (True, True, 10.0)),
        (False, (False, False, 10.0)),
        ({}, (True, True, 10.0)),
        ({"norm_reward": False}, (True, False, 10.0)),
        ("{'norm_obs': True, 'norm_reward': False}", (True, False, 10.0)),
        ({"norm_obs": {"a": True, "b": False}, "clip_obs": 5}, ({"a": True, "b": False}, True, 5.0)),
    ],
)
def test_normalize_means_what_it_does_in_rl_zoo(given, expected):
    h = read(normalize=given)
    assert (h["norm_obs"], h["norm_reward"], h["clip_obs"]) == expected


def test_normalize_of_the_command_line_wins_over_the_file(tmp_path):
    (tmp_path / "conf.yml").write_text("e: {norm_obs: true, clip_obs: 3}")
    h = load_hyperparameters(tmp_path / "conf.yml", "matrl", "e", {"normalize": {"norm_obs": False}})
    assert (h["norm_obs"], h["norm_reward"], h["clip_obs"]) == (False, True, 3.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"normalize": {"norm_ob": True}}, "here, normalize: key 'norm_ob' is unknown; did you mean 'norm_obs'?"),
        ({"normalize": {"norm_obs": "yes"}}, "here, norm_obs: expected true or false, got 'yes'"),
        ({"normalize": True, "clip_obs": 3}, "here: normalize and clip_obs are given, which contradict each other"),
        ({"share": {"team": "agent_0"}}, "expected a list of agents for the group 'team'"),
        ({"share": {"team": []}}, "expected a list of agents for the group 'team'"),
        ({"share": ["agent_0"]}, "here, share: expected a mapping or null"),
        ({"frozen": {"agent_0": 3}}, r"expected the path of a model, or \[path, agent there\], for 'agent_0', got 3"),
        ({"frozen": {"agent_0": ["a", "b", "c"]}}, "expected the path of a model"),
        ({"policy": {"a": "MlpPolicy", "b": "MlpPolice"}}, "policy 'MlpPolice' is unknown; did you mean 'MlpPolicy'?"),
        ({"env_wrapper": "supersuit.frame_stak_v1"}, "wrapper .* is unknown; did you mean 'supersuit.frame_stack_v1'?"),
        ({"env_wrapper": "os.system"}, "here, env_wrapper: wrapper 'os.system' is unknown"),
        ({"env_wrapper": 4}, "here, env_wrapper: expected a list or a mapping or text or null, got 4"),
        ({"env_wrapper": [{"supersuit.frame_stack_v1": 4}]}, "frame_stack_v1: expected a mapping of options, got 4"),
        (
            {"env_wrapper": [{"supersuit.frame_stack_v1": {"stack_sise": 4}}]},
            "option 'stack_sise' is unknown; did you mean 'stack_size'?",
        ),
        ({"env_wrapper": [{"a": None, "b": None}]}, "per entry, got"),
        ({"env_wrapper": ["supersuit.frame_skip_v0"]}, "supersuit.frame_skip_v0 needs num_frames: write"),
    ],
)
def test_mistakes_are_told(values, message):
    with pytest.raises(ValueError, match=message):
        read(**values)


# ---------------------------------------------------------------- policies

IMAGE = spaces.Box(0, 255, (84, 84, 3), np.uint8)


@pytest.mark.parametrize(
    ("space", "kind"),
    [
        (spaces.Box(-1, 1, (4,), np.float32), "Mlp"),
        (spaces.Discrete(5), "Mlp"),
        (IMAGE, "Cnn"),
        (spaces.Box(0, 255, (5, 84, 84), np.uint8), "Cnn"),
        (spaces.Box(0, 255, (16, 16, 3), np.uint8), "Mlp"),  # no room for the convolutions
        (spaces.Box(0, 1, (84, 84, 3), np.float32), "Mlp"),
        (spaces.Dict({"observation": IMAGE, "action_mask": spaces.MultiBinary(3)}), "MultiInput"),
    ],
)
def test_policy_suits_the_observations(space, kind):
    assert suitable_policy(space, PPO.policy_aliases) == suitable_policy(space, MaskablePPO.policy_aliases) == f"{kind}Policy"
    assert suitable_policy(space, RecurrentPPO.policy_aliases) == f"{kind}LstmPolicy"


@pytest.mark.parametrize("algorithm", algorithm_names())
def test_unknown_worlds_get_a_suitable_policy(algorithm):
    h = load_hyperparameters(find_conf_file(algorithm, None), algorithm, "pettingzoo:classic/connect_four-v3")
    assert with_learners(h, "pettingzoo:classic/connect_four-v3")["policy"] == "MultiInputPolicy"
    assert with_learners(h, "matrix_game_v0")["policy"] == "MlpPolicy"


@pytest.mark.parametrize(
    ("env_id", "chosen"),
    [
        ("pettingzoo:classic/connect_four-v3", "MaskablePPO"),
        ("openspiel:tic_tac_toe", "MaskablePPO"),  # the second player waits, without a mask in the first step
        ("openspiel:oshi_zumo", "MaskablePPO"),
        ("pettingzoo:mpe/simple_spread-v3", "PPO"),
    ],
)
def test_learners_know_masks_where_an_environment_without_an_entry_has_some(env_id, chosen):
    h = load_hyperparameters(find_conf_file("mappo", None), "mappo", env_id)
    assert h["learner_class"] == "auto"
    assert with_learners(h, env_id)["learner_class"] == chosen


def test_auto_chooses_a_class_for_every_learner():
    given = {"learner_class": {"player_0": "auto", "player_1": "TRPO"}, "policy": "auto"}
    h = with_learners(read(**given), "openspiel:tic_tac_toe")
    assert h["learner_class"] == {"player_0": "MaskablePPO", "player_1": "TRPO"} and h["policy"] == "MlpPolicy"
    h = with_learners(read(learner_class="auto", share={"both": ["player_0", "player_1"]}), "openspiel:tic_tac_toe")
    assert h["learner_class"] == "MaskablePPO"


def test_auto_names_a_policy_for_every_learner():
    h = read(policy="auto", learner_class={"agent_0": "RecurrentPPO", "agent_1": "TRPO"}, env_kwargs={"n_agents": 2})
    assert with_learners(h, "switch_v0")["policy"] == {"agent_0": "MlpLstmPolicy", "agent_1": "MlpPolicy"}
    h = read(
        policy="auto",
        learner_class={"team": "RecurrentPPO"},
        share={"team": ["agent_0", "agent_1"]},
        env_kwargs={"n_agents": 2},
    )
    assert with_learners(h, "switch_v0")["policy"] == "MlpLstmPolicy"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learner_class": "RecurrentPPO"}, "RecurrentPPO's policy 'MlpPolicy' is unknown; did you mean 'MlpLstmPolicy'?"),
        ({"policy": "CnnLstmPolicy"}, "PPO's policy 'CnnLstmPolicy' is unknown"),
        (
            {"learner_class": {"a": "PPO", "b": "RecurrentPPO"}, "policy": {"a": "MlpPolicy", "b": "MlpPolicy"}},
            "RecurrentPPO's policy 'MlpPolicy'",
        ),
    ],
)
def test_policies_belong_to_their_learners(values, message):
    with pytest.raises(ValueError, match=message):
        with_learners(read(**values), "matrix_game_v0")


# ---------------------------------------------------------------- shipped files


@pytest.mark.cases(quick=["matrl", "ippo", "mappo"], rest="expensive")
@pytest.mark.parametrize("algorithm", ON_POLICY)
def test_every_world_of_the_issue_has_an_entry(algorithm):
    content = read_yaml(find_conf_file(algorithm, None))
    for env_id in ISSUE_IDS:
        assert env_id in content and env_id in registered_ids()
        load_hyperparameters(find_conf_file(algorithm, None), algorithm, env_id).model_arguments()


def test_paper_file_has_tables_5_and_6():
    path = HYPERPARAMS_FOLDER / "paper.yml"
    tables = {"hopper_3x1": (100.0, 0.001), "pong_v3": (10.0, 0.1)}  # weights of the losses of policy and value
    for env_id, (policy_coef, value_coef) in tables.items():
        h = load_hyperparameters(path, "matrl", env_id)
        assert h.n_envs * h["n_steps"] == h["batch_size"] == 4000
        assert (h["learning_rate"], h["br_learning_rate"], h["n_epochs"], h["br_n_epochs"], h["gamma"]) == (
            0.002,
            0.002,
            10,
            5,
            0.99,
        )
        assert math.isclose(h["vf_coef"] * policy_coef, value_coef)
        assert math.isclose(h["ent_coef"] * policy_coef, 0.05) and math.isclose(h["br_kl_coef"] * policy_coef, 0.01)
        assert math.isclose(h["policy_kwargs"]["optimizer_kwargs"]["eps"] * policy_coef, 1e-8)
    assert load_hyperparameters(path, "matrl", "hopper_3x1")["policy_kwargs"]["net_arch"] == [128, 128]
    pong = load_hyperparameters(path, "matrl", "pong_v3")
    assert pong["policy"] == "CnnPolicy" and pong.env_kwargs == {"observation": "pixels"}


@pytest.mark.e2e
def test_pong_can_be_trained_from_pixels():
    h = load_hyperparameters(find_conf_file("ippo", "pixels"), "ippo", "pong_v3")
    h = Hyperparameters.from_mapping("matrl", {**h.as_mapping(), "n_envs": 1, "n_steps": 2, "batch_size": 2}, "here")
    model = MATRL(env="pong_v3", **h.model_arguments(), device="cpu")
    assert model.agents["first_0"].observation_space.shape == (5, 84, 84)
    model.env.close()


# ---------------------------------------------------------------- wrappers


def test_every_wrapper_of_the_table_can_be_named():
    for name in WRAPPERS:
        try:
            assert read_wrappers([name]) == [(name, {})]
        except ValueError as error:
            assert f"{name} needs " in str(error)


def test_wrappers_are_put_on_from_the_inside_outwards():
    stack, flat = {"supersuit.frame_stack_v1": {"stack_size": 3}}, "supersuit.agent_indicator_v0"
    plain = make_env("switch_v0", {"n_agents": 2}).observation_space("agent_0").shape
    # The name of two agents is two more numbers, stacked or not.
    assert make_env("switch_v0", {"n_agents": 2}, [stack, flat]).observation_space("agent_0").shape == (3 * plain[0] + 2,)
    assert make_env("switch_v0", {"n_agents": 2}, [flat, stack]).observation_space("agent_0").shape == (3 * (plain[0] + 2),)


@pytest.mark.parametrize(
    ("env_id", "wrapper", "message"),
    [
        ("matrix_game_v0", "pettingzoo.utils.wrappers.OrderEnforcingWrapper", "it is for AEC environments, which"),
        ("matrix_game_v0", {"supersuit.resize_v1": {"x_size": 8, "y_size": 8}}, "env_wrapper supersuit.resize_v1: "),
        ("matrix_game_v0", "supersuit.clip_actions_v0", "it is for Box actions, not Discrete(3) of agent 'agent_0'"),
        (
            "pettingzoo:classic/connect_four-v3",
            {"pettingzoo.utils.wrappers.MultiEpisodeParallelEnv": {"num_episodes": 2}},
            "parallel",
        ),
    ],
)
def test_unsuitable_wrappers_are_told_in_one_line(env_id, wrapper, message):
    with pytest.raises(ValueError) as error:
        make_env(env_id, {}, [wrapper])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_zeros_for_dead_agents_are_not_needed():
    with pytest.raises(ValueError, match=r"black_death_v3 is not needed: rows of agents that have ended are masked"):
        read_wrappers(["supersuit.black_death_v3"])


def test_aec_environments_are_wrapped_before_they_are_converted():
    wrapper = {"pettingzoo.utils.wrappers.TerminateIllegalWrapper": {"illegal_reward": -7}}
    env = make_env("pettingzoo:classic/connect_four-v3", {}, wrapper)
    env.reset(seed=0)
    for _ in range(6):
        env.step({env.acting_agents[0]: 0})
    loser = env.acting_agents[0]
    _, rewards, terminations, *_ = env.step({loser: 0})  # the column is full
    assert rewards[loser] == -7 and all(terminations.values())


# ---------------------------------------------------------------- whole runs


@pytest.mark.e2e
def test_mixed_learners_share_and_frozen_from_the_command_line(tmp_path):
    opponent, run = tmp_path / "opponent", tmp_path / "run"
    game = ["--env", "switch_v0", "--env-kwargs", "n_agents:4"]
    words = [*game, "-params", "policy_kwargs.net_arch:[4]"]
    assert train(opponent, *words) == 0
    mixed = [
        "learner_class:{team: RecurrentPPO, agent_2: TRPO}",
        "policy:{team: MlpLstmPolicy, agent_2: MlpPolicy}",
        "policy_kwargs:{team: {lstm_hidden_size: 4, net_arch: [3]}, agent_2: {net_arch: [5]}}",
        "share:{team: [agent_0, agent_1]}",
        f"frozen:{{agent_3: [{opponent}/switch_v0.zip, agent_0]}}",
        "normalize:{norm_reward: false}",
    ]
    assert train(run, *game, "-params", *mixed) == 0
    assert main(["--resume", str(run), "-n", "64"]) == 0
    model = MATRL.load(run / "switch_v0.zip", device="cpu")
    assert {name: type(learner) for name, learner in model.learners.items()} == {"team": RecurrentPPO, "agent_2": TRPO}
    assert model.agents["agent_0"] is model.agents["agent_1"] and set(model.team.frozen) == {"agent_3"}
    assert set(model.team.normalizers) == {"team", "agent_2"} and model.num_timesteps == 64
    expected = MATRL.load(opponent / "switch_v0.zip", device="cpu").agents["agent_0"].policy.state_dict()
    frozen = model.team.frozen["agent_3"].policy.state_dict()
    assert all((frozen[key] == value).all() for key, value in expected.items())


@pytest.mark.e2e
def test_agent_that_was_a_function_is_asked_for_before_anything_is_done(tmp_path, capsys):
    def first_action(observation):
        return np.zeros(len(observation), dtype=int)

    path, game, run = tmp_path / "model.zip", ["--env", "matrix_game_v0"], tmp_path / "run"
    small = {"n_envs": 2, "n_steps": 16, "batch_size": 32, "policy_kwargs": {"net_arch": [4]}, "device": "cpu"}
    MATRL("MlpPolicy", env="matrix_game_v0", frozen={"agent_1": first_action}, **small).save(path)
    message = "agent_1 was played by a Python function, which a file cannot hold: name a saved model"
    assert message in error_of(capsys, *game, "-i", str(path), "--run-dir", str(run), "--device", "cpu")
    assert not run.exists()
    assert train(run, *game, "-i", str(path), "-params", f"frozen:{{agent_1: [{path}, agent_0]}}") == 0
    with pytest.raises(SystemExit) as exit_info:
        enjoy.main(["--run-dir", str(run), "--agent", f"agent_0={path}:agent_1", "--no-render"])
    assert exit_info.value.code == 2
    assert capsys.readouterr().err.endswith("which a file cannot hold: give --agent agent_0=RUN\n")


@pytest.mark.e2e
def test_wrapped_world_is_trained_resumed_and_kept_in_the_configuration(tmp_path, capsys):
    wrapper = "env_wrapper:[{supersuit.frame_stack_v1: {stack_size: 3}}, supersuit.agent_indicator_v0]"
    assert train(tmp_path / "run", "--env", "matrix_game_v0", "-params", wrapper, "policy_kwargs.net_arch:[4]") == 0
    assert main(["--resume", str(tmp_path / "run"), "-n", "64"]) == 0
    model = MATRL.load(tmp_path / "run" / "matrix_game_v0.zip", device="cpu")
    agents = model.possible_agents
    plain = make_env("matrix_game_v0", {}).observation_space(agents[0]).shape[0]
    assert model.num_timesteps == 64 and model.observation_space[agents[0]].shape == (3 * plain + len(agents),)
    config = tmp_path / "run" / "config.yml"
    config.write_text(config.read_text().replace("stack_size: 3", "stack_size: 2"))
    assert "were changed: env_wrapper is" in error_of(capsys, "--resume", str(tmp_path / "run"), "-n", "96")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--env", "hoper_3x1"], "env 'hoper_3x1' is unknown; did you mean 'hopper_3x1'?"),
        (["--env", "hopper_3x2"], "hopper_3x1"),
        (["--env", "pettingzoo:sisl/multiwalkers-v9"], "did you mean 'multiwalker-v9'?"),
        (["--env", "pettingzoo:sisl"], "must have the form 'pettingzoo:<family>/<name>-v<version>'"),
        (["--env", "switch_v0", "-params", "share:{team: [agent_0, agent_9]}"], "agent 'agent_9' is unknown; did you mean"),
        (["--env", "switch_v0", "-params", "frozen:{agent_0: nothing.zip}"], "nothing.zip"),
        (["--env", "switch_v0", "-params", "learner_class:RecurrentPPO"], "did you mean 'MlpLstmPolicy'?"),
        (["--env", "switch_v0", "-params", "env_wrapper:supersuit.flaten_v0"], "did you mean 'supersuit.flatten_v0'?"),
        (["--env", "switch_v0", "-params", "policy:{agent_0: MlpPolicy}"], "policy as a dict needs exactly the keys"),
    ],
)
def test_mistakes_of_the_command_line_are_told_in_one_line(tmp_path, capsys, words, message):
    assert message in error_of(capsys, "-f", str(tmp_path), *words)
    assert not list(tmp_path.iterdir())


def test_missing_extra_is_named(tmp_path, capsys, monkeypatch):
    # Another test may have imported parts of it.
    for name in [*sys.modules, "gymnasium_robotics"]:
        if name.partition(".")[0] == "gymnasium_robotics":
            monkeypatch.setitem(sys.modules, name, None)
    assert "sb3-matrl[mujoco]" in error_of(capsys, "-f", str(tmp_path), "--env", "hopper_3x1")


def test_options_keep_what_was_written():
    options = parse_options(
        ["--normalize=true", "--env_wrapper=[supersuit.flatten_v0]", "--policy={a: MlpPolicy, b: CnnPolicy}"]
    )
    assert options.hyperparams == {
        "normalize": True,
        "env_wrapper": ["supersuit.flatten_v0"],
        "policy": {"a": "MlpPolicy", "b": "CnnPolicy"},
    }
