import pytest

from sb3_matrl.zoo.sweeping.sweep_file import SWEEPS_FOLDER, Hyperband, find_sweep_file, read_sweep
from sb3_matrl.zoo.sweeping.trial import Budget, check_parameters, trial_options, with_budget
from tests.zoo.sweeps import SWEEP, write_sweep


def test_words_are_those_of_wandbs_agent(tmp_path):
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args  # seconds to import

    config = read_sweep(write_sweep(tmp_path))
    values = {
        "learning_rate": 1e-05,
        "flag": True,
        "policy_kwargs.net_arch": [64, 64],
        "target_kl": None,
        "policy": "MlpPolicy",
    }
    agent = create_sweep_command_args({"args": {name: {"value": value} for name, value in values.items()}})
    assert config.words(values) == [*SWEEP["command"][3:-1], *agent["args"]]


def test_args_stay_at_their_place_in_the_command(tmp_path):
    command = [*SWEEP["command"][:4], "${args}", "--env=checkers_v0"]
    words = read_sweep(write_sweep(tmp_path, command=command)).words({"gamma": 0.9})
    assert words == ["--algo=matrl", "--gamma=0.9", "--env=checkers_v0"]
    assert read_sweep(write_sweep(tmp_path, command=None)).words({"gamma": 0.9}) == ["--gamma=0.9"]


def test_options_of_a_trial_have_its_values(tmp_path):
    config = read_sweep(write_sweep(tmp_path))
    options = trial_options(config, {"learning_rate": 0.25, "policy_kwargs.net_arch": [8, 8], "target_kl": None}, seed=3)
    assert (options.algo, options.env, options.n_timesteps, options.eval_freq, options.seed) == (
        "matrl",
        "matrix_game_v0",
        200,
        100,
        3,
    )
    assert options.hyperparams["learning_rate"] == 0.25
    assert options.hyperparams["policy_kwargs.net_arch"] == [8, 8]
    assert options.hyperparams["target_kl"] is None


def test_seed_may_be_a_parameter(tmp_path):
    assert trial_options(read_sweep(write_sweep(tmp_path)), {"seed": 8}, seed=3).seed == 8


def test_budget_takes_the_place_of_the_commands(tmp_path):
    config = with_budget(read_sweep(write_sweep(tmp_path)), Budget(400, None, 8, 3))
    words = config.words({})
    assert [word for word in words if "n_timesteps" in word or "eval" in word] == [
        "--n_timesteps=400",
        "--eval_episodes=3",
        "--eval_freq=50",
    ]
    # W&B's agent gets the same command.
    assert config.source["command"][:3] == SWEEP["command"][:3]
    assert [word for word in config.source["command"][3:] if word != "${args}"] == words


@pytest.mark.parametrize(
    ("settings", "first"),
    [
        ({"min_iter": 3}, 3),
        # W&B's documentation: max_iter 27 with eta 3 and s 2 has brackets at 9 and 3.
        ({"max_iter": 27, "s": 2}, 3),
        ({"max_iter": 27, "s": 2, "eta": 2}, 6),
        ({"max_iter": 2, "s": 3}, 1),
    ],
)
def test_early_terminate_is_read(tmp_path, settings, first):
    config = read_sweep(write_sweep(tmp_path, early_terminate={"type": "hyperband", **settings}))
    assert config.early_terminate == Hyperband(**settings)
    assert config.early_terminate.first_evaluation == first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"program": None}, "key 'program' is missing"),
        ({"metric": None}, "key 'metric' is missing"),
        ({"parameter": {}}, "key 'parameter' is unknown; did you mean 'parameters'"),
        ({"program": "train.py"}, "program must be zoo/train.py, got 'train.py'"),
        ({"method": "bayesian"}, "method 'bayesian' is unknown; did you mean 'bayes'"),
        ({"metric": "eval/mean_reward"}, "expected a mapping with name, goal, got 'eval/mean_reward'"),
        ({"metric": {"name": "eval/mean_rewards", "goal": "maximize"}}, "did you mean 'eval/mean_reward'"),
        ({"metric": {"name": "eval/mean_reward", "goal": "maximise"}}, "did you mean 'maximize'"),
        ({"metric": {"name": "eval/mean_reward"}}, "metric: key 'goal' is missing"),
        ({"metric": {"name": "eval/mean_reward", "goal": "maximize", "target": 1}}, "metric: key 'target' is unknown"),
        ({"parameters": {}}, "parameters must be a mapping"),
        ({"parameters": {"gamma": {"value": 0.9}}}, "nothing to search"),
        ({"parameters": {"gamma": {"min": 1.0, "max": 0.5}}}, "parameter gamma: min must be smaller"),
        (
            {"command": ["python", "zoo/train.py"]},
            "command must be a list that starts with ${env}, ${interpreter}, ${program}",
        ),
        ({"command": SWEEP["command"][:-1]}, "command must have ${args} once"),
        ({"command": [*SWEEP["command"], "${args_json}"]}, "${args_json} is not supported"),
        ({"early_terminate": {"type": "envelope"}}, "type 'envelope' is unknown"),
        ({"early_terminate": {"type": "hyperband"}}, "needs either min_iter, or max_iter and s"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 1, "max_iter": 9, "s": 1}}, "needs either min_iter"),
        ({"early_terminate": {"type": "hyperband", "max_iter": 9}}, "needs either min_iter"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 0}}, "min_iter must be an integer of at least 1, got 0"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 1, "eta": 1}}, "eta must be at least 2"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 1, "strict": True}}, "key 'strict' is unknown"),
        ({"early_terminate": {"type": "hyperband", "max_iter": 9, "s": 10**8}}, "s must be at most 30"),
        ({"run_cap": 10**12}, "run_cap must be at most 1,000,000,000"),
        ({"run_cap": "many"}, "run_cap must be an integer of at least 1, got 'many'"),
        ({"project": 3}, "project must be text, got 3"),
    ],
)
def test_wrong_files_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError) as error:
        read_sweep(write_sweep(tmp_path, **changes))
    assert message in str(error.value) and "small.yaml: " in str(error.value)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"learning_rat": {"values": [0.1, 0.2]}}, "learning_rat is unknown; did you mean"),
        ({"policy_kwargs.net_arc": {"values": [[8], [9]]}}, "policy_kwargs.net_arc = [8]: "),
        ({"n_epochs": {"min": 0, "max": 3}}, "parameter n_epochs = 0: "),
        ({"n_epochs": {"values": [1, "many"]}}, "parameter n_epochs = 'many': "),
        ({"gamma": {"min": 0.9, "max": 0.99}, "learning_rate": {"values": [0.1, None]}}, "parameter learning_rate = None: "),
        ({"solver": {"values": ["auto", "simplex"]}}, "parameter solver = 'simplex': "),
        ({"env_kwargs.max_cycles": {"values": [1, 0]}}, "parameter env_kwargs.max_cycles = 0: "),
    ],
)
def test_parameters_are_tried_before_any_trial(tmp_path, parameters, message):
    with pytest.raises(ValueError) as error:
        check_parameters(read_sweep(write_sweep(tmp_path, parameters=parameters)))
    assert message in str(error.value)


def test_parameters_are_tried_with_every_algorithm_of_the_sweep(tmp_path):
    command = [word for word in SWEEP["command"] if "algo" not in word and "n_steps" not in word and "epochs" not in word]
    parameters = {"algo": {"values": ["vdn", "qmix"]}, "gamma": {"min": 0.9, "max": 0.99}}
    first = check_parameters(read_sweep(write_sweep(tmp_path, "a", command=command, parameters=parameters)))
    assert first.algo == "vdn"
    mixed = {**parameters, "mixing_embed_dim": {"values": [8, 16]}}
    with pytest.raises(ValueError, match=r"parameter mixing_embed_dim = 8: .* is QMIX's and another's; VDN has"):
        check_parameters(read_sweep(write_sweep(tmp_path, "b", command=command, parameters=mixed)))


@pytest.mark.cases(quick=["matrl_matrix_game-matrl-matrix_game_v0"], rest="expensive")
@pytest.mark.parametrize(
    ("name", "algorithm", "env"),
    [
        ("matrl_checkers", "matrl", "checkers_v0"),
        ("matrl_switch", "matrl", "switch_v0"),
        ("matrl_matrix_game", "matrl", "matrix_game_v0"),
        ("value_checkers", "vdn", "checkers_v0"),
        ("maddpg_hopper", "maddpg", "hopper_3x1"),
    ],
)
def test_shipped_sweeps_are_valid(name, algorithm, env):
    if env == "hopper_3x1":
        pytest.importorskip("gymnasium_robotics")
    path = find_sweep_file(name)
    config = read_sweep(path)
    first = check_parameters(config)
    assert path == SWEEPS_FOLDER / f"{name}.yaml" and config.name == name
    assert (first.algo, first.env) == (algorithm, env)


def test_missing_file_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="did you mean 'matrl_checkers'"):
        find_sweep_file("matrl_checker")
