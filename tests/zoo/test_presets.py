"""Shipped hyper-parameters of the off-policy algorithms, exploration in steps, and names of other algorithms' arguments."""

from __future__ import annotations

from typing import Any

import pytest
import torch as th

from sb3_matrl.common.registry import algorithm_spec
from sb3_matrl.zoo.common.hyperparameters import HYPERPARAMS_FOLDER, Hyperparameters, find_conf_file, load_hyperparameters
from sb3_matrl.zoo.common.yaml_files import read_yaml
from sb3_matrl.zoo.train import main, parse_options
from sb3_matrl.zoo.training.experiment import read_hyperparameters
from tests.algorithms import ACTOR_CRITIC, OFF_POLICY, VALUE_BASED

GRID_WORLDS = {"checkers_v0": 400_000, "switch_v0": 500_000}
MUJOCO = ("hopper_3x1", "ant_2x4", "ant_4x2", "halfcheetah_2x3", "walker2d_2x3", "swimmer_2x1")
VALUE_BASED_SHARED = {"n_envs": 20, "gamma": 0.99, "tau": 1.0, "max_grad_norm": 10.0, "exploration_initial_eps": 1.0}
TUNED_GRID = {
    **VALUE_BASED_SHARED,
    **{"learning_rate": 5e-4, "batch_size": 128, "buffer_size": 200_000, "train_freq": 1, "gradient_steps": 2},
    **{"learning_starts": 1_000, "target_update_interval": 2_000, "exploration_final_eps": 0.05, "double_q": True},
}
PAPER_GRID = {
    **VALUE_BASED_SHARED,
    **{"learning_rate": 0.002, "batch_size": 2_000, "buffer_size": 500_000, "train_freq": 5, "gradient_steps": 1},
    **{"learning_starts": 2_000, "target_update_interval": 20_000, "exploration_final_eps": 0.05, "double_q": True},
}
HOPPER = {"n_envs": 1, "learning_rate": 0.001, "batch_size": 100, "buffer_size": 1_000_000, "gamma": 0.99}
HOPPER |= {"learning_starts": 10_000, "gradient_steps": 1, "action_noise": 0.1, "n_timesteps": 1_000_000}
CLIPPED = {"max_grad_norm": 0.5}
COMIX = {**CLIPPED, "loss": "mse", "tau": 0.001, "team_reward": "mean", "mixing_embed_dim": 64, "hypernet_embed": 64}


def load(algorithm: str, env_id: str, conf_file: str | None = None, **overrides: Any) -> Hyperparameters:
    return load_hyperparameters(find_conf_file(algorithm, conf_file), algorithm, env_id, overrides)


def check(algorithm: str, loaded: Hyperparameters, expected: dict[str, Any]) -> None:
    assert {name: loaded[name] for name in expected} == expected, algorithm


@pytest.mark.parametrize("algorithm", VALUE_BASED)
@pytest.mark.parametrize("env_id", GRID_WORLDS)
@pytest.mark.parametrize(("conf_file", "expected"), [(None, TUNED_GRID), ("paper", PAPER_GRID)])
def test_grid_worlds(algorithm: str, env_id: str, conf_file: str | None, expected: dict[str, Any]) -> None:
    loaded, tuned = load(algorithm, env_id, conf_file), conf_file is None
    check(algorithm, loaded, {**expected, "n_timesteps": GRID_WORLDS[env_id]})
    assert loaded["exploration_fraction"] * loaded.n_timesteps == pytest.approx(50_000)
    assert loaded.get("loss", "mse") == "mse" and ("loss" in loaded.values) == (algorithm != "qtran")
    # Both intervals are 200 gradient steps.
    block = loaded.n_envs * loaded["train_freq"]
    assert loaded["target_update_interval"] * loaded["gradient_steps"] / block == 200
    sizes = {"qmix": {"mixing_embed_dim": 32 if tuned else 128, "hypernet_layers": 2, "hypernet_embed": 64}}
    sizes["qtran"] = {"joint_embed_dim": 64 if tuned else 128}
    check(algorithm, loaded, sizes.get(algorithm, {}))
    policy = loaded.model_arguments()["policy_kwargs"]
    assert policy["net_arch"] == [128, 128]
    assert policy["activation_fn"] is (th.nn.ReLU if tuned else th.nn.LeakyReLU)
    if tuned:
        assert policy.get("optimizer_class") is None
    else:
        assert policy["optimizer_class"] is th.optim.RMSprop and policy["optimizer_kwargs"] == {"alpha": 0.99, "eps": 1e-5}


@pytest.mark.parametrize("algorithm", VALUE_BASED)
def test_options_of_the_grid_worlds(algorithm: str) -> None:
    ends = {"handle_timeout_termination": False}
    assert load(algorithm, "checkers_v0").env_kwargs == {} and load(algorithm, "checkers_v0")["replay_buffer_kwargs"] is None
    assert load(algorithm, "switch_v0").env_kwargs == {"clock": True}
    assert load(algorithm, "switch_v0")["replay_buffer_kwargs"] == ends
    assert load(algorithm, "checkers_v0", "paper").env_kwargs == {"observation": "codes"}
    assert load(algorithm, "switch_v0", "paper").env_kwargs == {"n_agents": 4, "finished_agents": "pay"}
    assert load(algorithm, "switch_v0", "paper")["replay_buffer_kwargs"] is None


@pytest.mark.parametrize(
    ("algorithm", "conf_file", "expected"),
    [
        ("iddpg", None, {"train_freq": 1, "tau": 0.005, "policy_kwargs": {"net_arch": [400, 300]}}),
        ("maddpg", None, {"train_freq": 1, "tau": 0.005, "policy_kwargs": {"net_arch": [400, 300]}, **CLIPPED}),
        ("comix", None, {"train_freq": 10, "policy_kwargs": {"net_arch": [64, 64]}, **COMIX}),
        ("iddpg", "paper", {"train_freq": 100, "tau": 0.001, "policy_kwargs": {"net_arch": [300, 300]}}),
        ("maddpg", "paper", {"train_freq": 100, "tau": 0.001, "policy_kwargs": {"net_arch": [300, 300]}, **CLIPPED}),
        ("comix", "paper", {"train_freq": 1, "policy_kwargs": {"net_arch": [400, 300]}, **COMIX}),
    ],
)
def test_hopper(algorithm: str, conf_file: str | None, expected: dict[str, Any]) -> None:
    check(algorithm, load(algorithm, "hopper_3x1", conf_file), {**HOPPER, **expected})


@pytest.mark.parametrize("algorithm", OFF_POLICY)
def test_every_algorithm_has_an_entry_for_every_world_that_it_takes(algorithm: str) -> None:
    conf_file = find_conf_file(algorithm, None)
    worlds = (*GRID_WORLDS, "matrix_game_v0", "pong_v3") if algorithm in (*VALUE_BASED, "maddpg") else ()
    for env_id in (*worlds, *(MUJOCO if algorithm in ACTOR_CRITIC else ()), "default"):
        assert env_id in read_yaml(conf_file)
        assert load(algorithm, env_id).model_arguments()["buffer_size"] >= 200_000
    assert load(algorithm, "my.worlds:make")["policy"] == "auto"


def test_names_of_presets_are_those_of_the_algorithms_family() -> None:
    for algorithm in OFF_POLICY:
        family = algorithm_spec(algorithm).conf_file
        assert find_conf_file(algorithm, None) == HYPERPARAMS_FOLDER / f"{family}.yml"
        assert find_conf_file(algorithm, "paper") == HYPERPARAMS_FOLDER / f"{family}_paper.yml"
    assert find_conf_file("matrl", "paper") == find_conf_file("ippo", "paper") == HYPERPARAMS_FOLDER / "paper.yml"


# ---------------------------------------------------------------- exploration in steps


def test_exploration_in_steps_does_not_depend_on_the_length_of_the_training() -> None:
    assert load("qmix", "checkers_v0")["exploration_fraction"] == 0.125
    assert load("qmix", "checkers_v0", n_timesteps="2e5")["exploration_fraction"] == 0.25
    assert load("qmix", "checkers_v0", n_timesteps=10_000)["exploration_fraction"] == 1.0
    assert load("qmix", "checkers_v0", exploration_steps="1e5")["exploration_fraction"] == 0.25
    assert load("qmix", "checkers_v0", exploration_fraction=0.5)["exploration_fraction"] == 0.5
    words = ["--algo", "vdn", "--env", "checkers_v0", "-n", "100000", "--exploration_steps=20000"]
    assert read_hyperparameters(parse_options(words))["exploration_fraction"] == 0.2


@pytest.mark.parametrize(
    ("algorithm", "overrides", "message"),
    [
        ("qmix", {"exploration_steps": 0}, "command line, exploration_steps: expected a whole number of at least 1, got 0"),
        ("qmix", {"exploration_steps": "many"}, "expected a whole number of at least 1, got 'many'"),
        ("qmix", {"exploration_steps": True}, "expected a whole number of at least 1, got True"),
        ("qmix", {"exploration_steps": 1.5}, r"expected a whole number of at least 1, got 1\.5"),
        (
            "qmix",
            {"exploration_steps": 5, "exploration_fraction": 0.1},
            "exploration_steps and exploration_fraction are given, which contradict each other",
        ),
        ("maddpg", {"exploration_steps": 5}, "'exploration_fraction' is IQL's and 4 others'; MADDPG has 'action_noise'"),
        ("qmix", {"n_timesteps": "long"}, "n_timesteps: expected an integer, got 'long'"),
    ],
)
def test_wrong_exploration_is_rejected(algorithm: str, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(algorithm, "checkers_v0", **overrides)


# ---------------------------------------------------------------- arguments of other algorithms


@pytest.mark.parametrize(
    ("algorithm", "name", "message"),
    [
        ("qmix", "n_epochs", "hyper-parameter 'n_epochs' is MATRL's; QMIX has 'gradient_steps'"),
        ("maddpg", "n_epochs", "hyper-parameter 'n_epochs' is MATRL's; MADDPG has 'gradient_steps'"),
        ("vdn", "ent_coef", "'ent_coef' is MATRL's; VDN has 'exploration_final_eps'"),
        ("iddpg", "ent_coef", "'ent_coef' is MATRL's; IDDPG has 'action_noise'"),
        ("matrl", "gradient_steps", "'gradient_steps' is IQL's and 7 others'; MATRL has 'n_epochs'"),
        ("ippo", "train_freq", "'train_freq' is IQL's and 7 others'; MATRL has 'n_steps'"),
        ("iql", "team_reward", "'team_reward' is VDN's and 4 others'; IQL has 'share_reward'"),
        (
            "vdn",
            "mixing_embed_dim",
            "'mixing_embed_dim' is QMIX's and another's; VDN has: n_timesteps, env_wrapper, callback, policy",
        ),
        ("qmix", "cem_samples", "'cem_samples' is COMIX's; QMIX has: n_timesteps"),
        ("qmix", "gradient_step", "hyper-parameter 'gradient_step' is unknown; did you mean 'gradient_steps'"),
    ],
)
def test_arguments_of_another_algorithm_are_named_with_their_counterpart(algorithm: str, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(algorithm, "checkers_v0", **{name: 3})


def test_command_line_says_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--algo", "qmix", "--env", "checkers_v0", "--n_epochs=3"])
    assert stop.value.code == 2
    errors = capsys.readouterr().err
    assert errors == "error: command line: hyper-parameter 'n_epochs' is MATRL's; QMIX has 'gradient_steps'\n"


@pytest.mark.parametrize(
    ("algorithm", "policy_kwargs", "message"),
    [
        ("qmix", {"log_std_init": -1}, "policy_kwargs key 'log_std_init' is unknown"),
        ("qmix", {"net_arch": {"pi": [4], "vf": [4]}}, r"net_arch must be a list of layer sizes like \[64, 64\], got"),
        ("maddpg", {"net_arch": {"pi": [4], "vf": [4]}}, r"or \{pi: \[64\], qf: \[64\]\}, got"),
        ("maddpg", {"ortho_init": False}, "policy_kwargs key 'ortho_init' is unknown"),
    ],
)
def test_policy_options_are_those_of_the_algorithms_policies(algorithm: str, policy_kwargs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(algorithm, "checkers_v0", policy_kwargs=policy_kwargs)


def test_actor_and_critic_may_have_their_own_layers() -> None:
    layers = {"pi": [4], "qf": [8]}
    loaded = load("maddpg", "hopper_3x1", policy_kwargs={"net_arch": layers})
    assert loaded.model_arguments()["policy_kwargs"]["net_arch"] == layers


@pytest.mark.parametrize(("given", "expected"), [(3, 3), ([2, "episode"], (2, "episode"))])
def test_frequency_may_be_in_episodes(given: Any, expected: Any) -> None:
    assert load("vdn", "checkers_v0", train_freq=given).model_arguments()["train_freq"] == expected


METHODS = ("ippo", "il-la", "matrl", "matrl-no-br", "matrl-optimistic", "optimistic-br")
# Environment -> task of the suites whose tuned settings are the preset.
TUNED = {
    "checkers_v0": "checkers",
    "switch_v0": "switch",
    "openspiel:kuhn_poker": "kuhn_poker",
    "openspiel:leduc_poker": "leduc_poker",
}


def searched(conf_file: str) -> list[str]:
    """Methods with settings of their own in the file of a task."""
    (settings,) = read_yaml(HYPERPARAMS_FOLDER / f"{conf_file}.yml").values()
    return [name for name, value in settings.items() if isinstance(value, dict) and name in METHODS]


@pytest.mark.parametrize(("env_id", "algorithm"), [(env_id, method) for env_id in TUNED for method in searched(TUNED[env_id])])
def test_presets_are_the_tuned_settings_of_the_suites(algorithm: str, env_id: str) -> None:
    preset, tuned = load(algorithm, env_id).as_mapping(), load(algorithm, env_id, TUNED[env_id]).as_mapping()
    assert preset["env_kwargs"].items() <= tuned["env_kwargs"].items()
    assert {**preset, "env_kwargs": None} == {**tuned, "env_kwargs": None}
