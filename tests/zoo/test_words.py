import pytest

from sb3_matrl.zoo.common.hyperparameters import schema_fields
from sb3_matrl.zoo.common.words import normalise_words
from sb3_matrl.zoo.train import build_parser, command_line, parse_options
from sb3_matrl.zoo.training.experiment import read_hyperparameters
from sb3_matrl.zoo.training.options import TrainOptions


def agent_words(parameters):
    """What W&B's own agent makes of a sweep's parameters for ``${args}``."""
    wandb_sweeps = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    command = {"args": {name: {"value": value} for name, value in parameters.items()}}
    return wandb_sweeps.create_sweep_command_args(command)["args"]


def test_hyper_parameters_of_a_sweep_arrive():
    words = agent_words(
        {
            "learning_rate": 1e-5,
            "normalize_advantage": True,
            "use_sde": False,
            "policy_kwargs.net_arch": [64, 64],
            "policy_kwargs.activation_fn": "tanh",
            "target_kl": None,
            "clip_range": "lin_0.2",
            "br_n_epochs": 5,
            "gamma": {"agent_0": 0.9, "agent_1": 0.8},
        }
    )
    assert "--policy_kwargs.net_arch=[64, 64]" in words and "--target_kl=None" in words
    conf = read_hyperparameters(parse_options([*words, "--seed", "0"]))
    assert tuple(conf[name] for name in ("learning_rate", "normalize_advantage", "use_sde")) == (1e-5, True, False)
    assert conf["policy_kwargs"] == {"net_arch": [64, 64], "activation_fn": "tanh"}
    assert tuple(conf[name] for name in ("target_kl", "clip_range", "br_n_epochs")) == (None, "lin_0.2", 5)
    assert conf["gamma"] == {"agent_0": 0.9, "agent_1": 0.8}


def test_nested_parameters_of_a_sweep_arrive_as_mappings():
    words = agent_words(
        {
            "policy_kwargs": {"net_arch": {"pi": [8], "vf": [9]}, "ortho_init": False, "optimizer_kwargs": None},
            "env_kwargs": {"n_agents": 2},
        }
    )
    options = parse_options(words)
    assert read_hyperparameters(options)["policy_kwargs"] == {
        "net_arch": {"pi": [8], "vf": [9]},
        "ortho_init": False,
        "optimizer_kwargs": None,
    }
    assert options.env_kwargs == {"n_agents": 2}


def test_what_the_algorithm_fixes_is_said_to_be_fixed():
    options = parse_options(["--algo=matrl", "--best-response=False"])
    with pytest.raises(ValueError, match="'best_response' is fixed by the algorithm 'matrl'"):
        read_hyperparameters(options)


def test_flags_of_a_sweep_arrive():
    words = agent_words(
        {
            "algo": "il-la",
            "env": "switch_v0",
            "n_timesteps": 1000,
            "eval_freq": 500,
            "seed": None,
            "n_eval_envs": 3,
            "progress": True,
            "record": False,
            "wandb_group": None,
            "env_kwargs.n_agents": 2,
            "env_kwargs.clock": True,
            "eval_env_kwargs.clock": False,
        }
    )
    options = parse_options([*words, "--_wandb={'t': {1: [2]}}", "_wandb", "-tags", "a", "b"])
    assert options == TrainOptions(
        algo="il-la",
        env="switch_v0",
        n_timesteps=1000,
        eval_freq=500,
        seed=options.seed,
        n_eval_envs=3,
        progress=True,
        env_kwargs={"n_agents": 2, "clock": True},
        eval_env_kwargs={"clock": False},
        wandb_tags=["a", "b"],
    )


@pytest.mark.parametrize("name", [name for name in schema_fields() if name not in ("n_timesteps", "env_kwargs")])
def test_every_hyper_parameter_is_a_flag(name):
    assert parse_options([f"--{name}=7"]).hyperparams == {name: 7}


def test_words_of_the_parser_are_left_alone():
    words = ["-n", "5", "--eval-freq", "3", "--env=a:b", "-params", "a.b:c=d", "--x_y", "-P", "--help", "--", "None"]
    assert normalise_words(words, build_parser()) == words


def test_underscores_and_dashes_are_the_same():
    underscores = parse_options(["--eval_freq", "3", "--learning_rate=0.5", "--seed=1"])
    dashes = parse_options(["--eval-freq", "3", "--learning-rate=0.5", "--seed", "1"])
    assert underscores == dashes and dashes.eval_freq == 3 and dashes.hyperparams == {"learning_rate": 0.5}


@pytest.mark.parametrize("word", ["--track=False", "--track=false", "--progress=FALSE"])
def test_switches_can_be_turned_off(word):
    options = parse_options(["--track", "--progress", word])
    assert (options.track, options.progress) == (not word.startswith("--track"), not word.startswith("--progress"))


def test_same_value_twice_is_no_contradiction():
    assert parse_options(["-params", "learning_rate:1e-3", "--learning_rate=0.001"]).hyperparams == {"learning_rate": 0.001}
    conf = read_hyperparameters(parse_options(["-n", "50", "-params", "n_timesteps:50"]))
    assert conf.n_timesteps == 50


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-params", "learning_rate:0.1", "--learning_rate=0.2"], "learning_rate is given twice, as 0.1 and 0.2"),
        (["--env-kwargs", "a:1", "--env_kwargs.a=2"], "--env-kwargs: a is given twice, as 1 and 2"),
        (["--policy_kwargs={}", "--policy_kwargs.net_arch=[3]"], "policy_kwargs and policy_kwargs.net_arch are given"),
        (["-n", "50", "-params", "n_timesteps:60"], "ask for different n_timesteps, 50 and 60"),
        (["--learning_rat=0.1"], "flag --learning_rat is unknown; did you mean '--learning_rate'?"),
        (["--learning_rate", "0.1"], "--learning_rate needs its value in the same word, as in --learning_rate=0.5"),
        (["--env_kwargs.n_agents", "2"], "--env_kwargs.n_agents needs its value in the same word"),
        (["--eval_frq=1"], "flag --eval_frq is unknown; did you mean '--eval-freq'?"),
        (["--seed.x=1"], "flag --seed.x is unknown"),
        (["--progress=maybe"], "argument -P/--progress: expected true or false, got 'maybe'"),
        (["--n_timesteps=many"], "argument -n/--n-timesteps: expected a whole number, got 'many'"),
        (["--eval_freq=None"], "argument --eval-freq: expected a whole number, got 'None'"),
        (["--n_steps=ten"], "command line, n_steps: expected an integer, got 'ten'"),
        (["--normalize_advantage=1"], "command line, normalize_advantage: expected true or false, got 1"),
        (["--net_arch=[64]"], "flag --net_arch is unknown"),
        (["--policy_kwargs.net_arch=64"], "net_arch must be a list of layer sizes"),
    ],
)
def test_contradictions_and_mistakes_are_refused(words, message):
    with pytest.raises(ValueError) as error:
        read_hyperparameters(parse_options(words))
    assert message in str(error.value)


def test_command_of_a_sweeps_run_repeats_it():
    words = agent_words({"seed": None, "learning_rate": 0.5, "policy_kwargs.net_arch": [8, 8]})
    options = parse_options(words)
    assert command_line(words, options) == (
        "sb3-matrl train --seed=None --learning_rate=0.5 '--policy_kwargs.net_arch=[8, 8]' " + f"--seed {options.seed}"
    )
    assert parse_options([*words, "--seed", str(options.seed)]) == options
    assert command_line(["--seed=3"], parse_options(["--seed=3"])) == "sb3-matrl train --seed=3"
