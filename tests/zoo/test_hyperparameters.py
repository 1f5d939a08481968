import inspect

import pytest
import torch as th
import yaml
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import LinearSchedule

from sb3_matrl import MATRL
from sb3_matrl.common import registry
from sb3_matrl.common.arguments import PerAgent
from sb3_matrl.common.registry import AlgorithmSpec, algorithm_spec, register
from sb3_matrl.zoo.common.hyperparameters import (
    HYPERPARAMS_FOLDER,
    Hyperparameters,
    apply_overrides,
    find_conf_file,
    load_hyperparameters,
)
from sb3_matrl.zoo.common.schema import Schema
from sb3_matrl.zoo.common.yaml_files import parse_pairs, read_yaml, write_yaml
from sb3_matrl.zoo.train import parse_options
from sb3_matrl.zoo.training.experiment import read_hyperparameters
from tests.algorithms import ON_POLICY

ENVS = ("checkers_v0", "switch_v0", "matrix_game_v0")


def load(tmp_path, text, env_id="e", overrides=None, env_kwargs=None):
    path = tmp_path / "conf.yml"
    path.write_text(text)
    return load_hyperparameters(path, "matrl", env_id, overrides, env_kwargs)


def checked(algorithm="matrl", **values):
    return Hyperparameters.from_mapping(algorithm, values, "here")


# ---------------------------------------------------------------- schema


def test_schema_has_the_constructors_arguments_and_defaults():
    parameters = inspect.signature(MATRL.__init__).parameters
    values = checked().as_mapping()
    zoo = {"n_timesteps": 1_000_000, "env_wrapper": None, "callback": None}
    own = {**zoo, "env_kwargs": {}, "policy": "MlpPolicy", "learner_class": "PPO"}
    assert {name: values[name] for name in own} == own
    for name in values.keys() - own:
        default = parameters[name].default
        assert values[name] == (list(default) if isinstance(default, tuple) else default), name
    set_elsewhere = {"self", "env", "metagame", "best_response", "verbose", "seed", "device", "vec_env", "tensorboard_log"}
    set_elsewhere |= {"env_timeout", "rollout_workers", "worker_backend"}
    no_yaml = {"_init_setup_model", "rollout_buffer_class", "rollout_buffer_kwargs"}
    assert set(parameters) - set_elsewhere - no_yaml == values.keys() - zoo.keys()


def test_written_and_read_again_it_is_the_same(tmp_path):
    values = {
        "learning_rate": "lin_0.002",
        "policy_kwargs": {"net_arch": {"pi": [4], "vf": [5]}},
        "env_kwargs": {"payoffs": [[[1, 0], [0, 1]]] * 2, "game": None},
        "target_kl": 0.1,
    }
    original = Hyperparameters.from_mapping("matrl", values, "here")
    write_yaml(tmp_path / "config.yml", {"e": original.as_mapping()})
    assert load_hyperparameters(tmp_path / "config.yml", "matrl", "e") == original


@pytest.mark.parametrize(
    ("key", "given", "read"),
    [
        ("learning_rate", "1e-3", 1e-3),  # text in YAML 1.1
        ("learning_rate", 1, 1.0),
        ("n_timesteps", "1e6", 1_000_000),
        ("n_steps", 100.0, 100),
        ("clip_range_vf", None, None),
        ("clip_range_vf", "lin_0.2", "lin_0.2"),
        ("max_grad_norm", float("inf"), float("inf")),
        ("gamma", {"a": 0.9, "b": "0.95"}, {"a": 0.9, "b": 0.95}),
        ("learner_class", {"a": "PPO", "b": "A2C"}, {"a": "PPO", "b": "A2C"}),
        ("policy_kwargs", {"a": {"net_arch": [3]}, "b": {}}, {"a": {"net_arch": [3]}, "b": {}}),
    ],
)
def test_values_are_converted_where_that_loses_nothing(key, given, read):
    value = checked(**{key: given})[key]
    assert value == read and type(value) is type(read)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("lerning_rate", 1, "here: hyper-parameter 'lerning_rate' is unknown; did you mean 'learning_rate'?"),
        ("n_steps", "many", "here, n_steps: expected an integer, got 'many'"),
        ("n_steps", 1.5, "here, n_steps: expected an integer, got 1.5"),
        ("n_steps", True, "here, n_steps: expected an integer, got True"),
        ("n_steps", {"a": 1}, "here, n_steps: expected an integer, got {'a': 1}"),
        ("n_envs", 0, "here, n_envs: must be at least 1, got 0"),
        ("n_epochs", {"a": 0}, "here, n_epochs: must be at least 1, got 0"),
        ("gamma", 1.5, "here, gamma: must be between 0 and 1, got 1.5"),
        ("gae_lambda", {"a": 0.9, "b": 5}, "here, gae_lambda: must be between 0 and 1, got 5"),
        ("clip_range", -1, "here, clip_range: must be greater than 0, got -1"),
        ("clip_range", "lin_0", "here, clip_range: must be greater than 0, got 0.0 from its schedule"),
        ("max_grad_norm", 0, "here, max_grad_norm: must be greater than 0, got 0"),
        ("target_kl", -1, "here, target_kl: must be greater than 0, got -1"),
        ("learning_rate", float("inf"), "here, learning_rate: must be a finite number that is not negative, got inf"),
        (
            "policy_kwargs",
            {"net_arch": [64, 0]},
            r"here, policy_kwargs: net_arch must be a list of layer sizes like \[64, 64\]",
        ),
        ("gamma", "high", "here, gamma: expected a number, got 'high'"),
        ("gamma", None, "here, gamma: expected a number, got None"),
        ("gamma", float("nan"), "here, gamma: expected a number, got nan"),
        ("target_kl", [1], r"here, target_kl: expected a number or null, got \[1\]"),
        ("normalize_advantage", "no", "here, normalize_advantage: expected true or false, got 'no'"),
        (
            "env_kwargs",
            "clock",
            "here, env_kwargs: 'clock' is read without evaluating it, so clock is not possible: write YAML",
        ),
        ("solver", 3, "here, solver: expected text, got 3"),
        ("learning_rate", "fast", "here, learning_rate: expected a number or a linear schedule like lin_0.002, got 'fast'"),
        ("learning_rate", "lin_", "a linear schedule like lin_0.002, got 'lin_'"),
        ("learning_rate", "lin_1.2.3", "a linear schedule like lin_0.002, got 'lin_1.2.3'"),
        ("policy", "MlpPolice", "here, policy: policy 'MlpPolice' is unknown; did you mean 'MlpPolicy'?"),
        ("learner_class", "PPPO", "learner_class 'PPPO' is unknown; did you mean 'PPO'?"),
        ("policy_kwargs", {"net_ach": [4]}, "policy_kwargs key 'net_ach' is unknown; did you mean 'net_arch'?"),
        ("policy_kwargs", {"net_arch": [4, "x"]}, "net_arch must be a list of layer sizes"),
        ("policy_kwargs", {"net_arch": {"pi": 4}}, "net_arch must be a list of layer sizes"),
        ("policy_kwargs", {"net_arch": {"actor": [4]}}, "net_arch must be a list of layer sizes"),
        (
            "policy_kwargs",
            {"activation_fn": "leaky_rely"},
            "activation_fn 'leaky_rely' is unknown; did you mean 'leaky_relu'?",
        ),
        ("policy_kwargs", {"activation_fn": "__import__('os')"}, "activation_fn .* is unknown"),
        ("policy_kwargs", {"a": {"net_arch": 3}}, "net_arch must be a list of layer sizes"),
    ],
)
def test_wrong_keys_and_values_are_refused(key, value, message):
    with pytest.raises(ValueError, match=message):
        Hyperparameters.from_mapping("matrl", {key: value}, "here")


# ---------------------------------------------------------------- arguments of MATRL


def test_names_become_classes_and_schedules():
    arguments = Hyperparameters.from_mapping(
        "matrl",
        {
            "learning_rate": "lin_0.5",
            "clip_range": {"a": "lin_1e-1", "b": 0.3},
            "learner_class": {"a": "A2C", "b": "PPO"},
            "policy_kwargs": {"activation_fn": "leaky_relu", "optimizer_class": "AdamW", "net_arch": [8]},
        },
        "here",
    ).model_arguments()
    assert isinstance(arguments["learning_rate"], LinearSchedule)
    assert [arguments["learning_rate"](progress) for progress in (1.0, 0.5, 0.0)] == [0.5, 0.25, 0.0]
    assert arguments["clip_range"]["a"](1.0) == 0.1 and arguments["clip_range"]["b"] == 0.3
    assert arguments["learner_class"] == {"a": A2C, "b": PPO}
    assert arguments["policy_kwargs"] == {"activation_fn": th.nn.LeakyReLU, "optimizer_class": th.optim.AdamW, "net_arch": [8]}
    assert "n_timesteps" not in arguments


@pytest.mark.parametrize("name", ["leaky_relu", "LeakyReLU", "nn.LeakyReLU", "torch.nn.LeakyReLU", "LEAKY_RELU"])
def test_activation_has_several_spellings(name):
    arguments = checked(policy_kwargs={"activation_fn": name}).model_arguments()
    assert arguments["policy_kwargs"]["activation_fn"] is th.nn.LeakyReLU


def test_trpo_comes_from_sb3_contrib():
    trpo = pytest.importorskip("sb3_contrib").TRPO
    assert checked(learner_class="TRPO").model_arguments()["learner_class"] is trpo


# ---------------------------------------------------------------- other algorithms


class Counting:
    policy_aliases = ()

    def __init__(self, env, pace: PerAgent[float | Schedule] = 0.5, horizon: int = 3, hook: type | None = None, seed: int = 0):
        """Only its signature matters."""


@pytest.fixture
def counting(monkeypatch, tmp_path):
    """An algorithm of another package, with its own file."""
    conf_file = tmp_path / "counting.yml"
    conf_file.write_text("default: {pace: lin_0.2}")
    names = registry._registered().copy()
    monkeypatch.setattr(registry, "_registered", lambda: names)
    register(AlgorithmSpec("counting", f"{__name__}:Counting", conf_file=str(conf_file)))
    yield "counting"
    Schema.of.cache_clear()


def test_a_constructors_argument_is_a_hyper_parameter_and_a_flag(counting):
    options = parse_options(["--algo", counting, "--pace={a: lin_0.1, b: 1}", "-params", "horizon:7", "--env", "checkers_v0"])
    conf = read_hyperparameters(options)
    assert conf.as_mapping() == {
        "n_timesteps": 1_000_000,
        "env_wrapper": None,
        "callback": None,
        "pace": {"a": "lin_0.1", "b": 1.0},
        "horizon": 7,
    }
    arguments = conf.model_arguments()
    assert arguments["pace"]["a"](0.5) == 0.05 and arguments["horizon"] == 7 and "n_timesteps" not in arguments
    assert read_hyperparameters(parse_options(["--algo", counting])).as_mapping()["pace"] == "lin_0.2"


@pytest.mark.parametrize(
    ("algorithm", "values", "message"),
    [
        ("counting", {"pase": 1}, "here: hyper-parameter 'pase' is unknown; did you mean 'pace'?"),
        ("counting", {"horizon": {"a": 1}}, "here, horizon: expected an integer, got {'a': 1}"),
        ("counting", {"hook": "x"}, "here: hyper-parameter 'hook' is unknown"),
        (
            "counting",
            {"n_epochs": 3},
            "here: hyper-parameter 'n_epochs' is MATRL's; Counting has: n_timesteps",
        ),
        ("matrl", {"pace": 3}, "here: hyper-parameter 'pace' is Counting's; MATRL has: n_timesteps,"),
        (
            "matrl",
            {"metagame": False},
            "here: 'metagame' is fixed by the algorithm 'matrl'; choose another",
        ),
    ],
)
def test_arguments_of_other_algorithms_are_rejected(counting, algorithm, values, message):
    with pytest.raises(ValueError, match=message):
        checked(algorithm, **values)


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("algorithm", ON_POLICY)
@pytest.mark.parametrize("env_id", [*ENVS, "module:callable"])
def test_shipped_files_are_valid_and_batches_fit(algorithm, env_id):
    hyperparameters = load_hyperparameters(find_conf_file(algorithm, None), algorithm, env_id)
    if hyperparameters["learner_class"] == "auto":
        assert env_id not in ENVS
        hyperparameters = hyperparameters.changed(learner_class="PPO")
    hyperparameters.model_arguments()
    assert hyperparameters["n_steps"] * hyperparameters.n_envs % hyperparameters["batch_size"] == 0
    assert hyperparameters.n_timesteps % (hyperparameters["n_steps"] * hyperparameters.n_envs) == 0 or env_id not in ENVS
    assert env_id in (*ENVS, "module:callable") and (env_id in read_yaml(find_conf_file(algorithm, None))) == (env_id in ENVS)


@pytest.mark.parametrize("algorithm", ON_POLICY)
@pytest.mark.parametrize(
    ("env_id", "file", "vf_coef", "steps", "layers"),
    [
        ("checkers_v0", "paper", 1.0, 400_000, [128, 128]),
        ("switch_v0", "paper", 0.01, 500_000, [128, 128]),
        ("predator_prey_v0", None, 0.5, 1_000_000, [128, 128]),
        ("matrix_game_v0", None, 0.5, 300_000, [32, 32]),
    ],
)
def test_settings_of_grid_worlds_are_the_papers(algorithm, env_id, file, vf_coef, steps, layers):
    h = load_hyperparameters(find_conf_file(algorithm, file), algorithm, env_id)
    assert (h["n_steps"] * h.n_envs, h["batch_size"], h["n_epochs"]) == (2000, 2000, 10)
    assert (h["learning_rate"], h["gamma"], h["gae_lambda"], h["clip_range"], h["ent_coef"]) == (0.002, 0.99, 0.97, 0.1, 0.05)
    assert (h["vf_coef"], h.n_timesteps, h["policy_kwargs"]["net_arch"]) == (vf_coef, steps, layers)
    if algorithm_spec(algorithm).fixed["best_response"]:
        assert (h["br_learning_rate"], h["br_n_epochs"], h["br_clip_range"]) == (0.002, 5, 0.1)
    if algorithm_spec(algorithm).fixed["metagame"]:
        assert h["payoff_clip_range"] == 0.1


def test_values_below_an_algorithms_name_are_for_this_algorithm(tmp_path):
    path = tmp_path / "conf.yml"
    path.write_text("a: &a {gamma: 0.5, matrl: {gamma: 0.6}, ippo: {n_steps: 3}}\ne: {<<: *a, n_envs: 2}")
    found = {name: load_hyperparameters(path, name, "e") for name in ON_POLICY}
    assert {name: conf["gamma"] for name, conf in found.items()} == {**dict.fromkeys(found, 0.5), "matrl": 0.6}
    assert {name: conf["n_steps"] for name, conf in found.items()} == {**dict.fromkeys(found, 2048), "ippo": 3}
    assert all(conf.n_envs == 2 for conf in found.values())
    path.write_text("e: {matrl: 3}")
    with pytest.raises(ValueError, match=r"conf.yml, e, matrl: expected a mapping of hyper-parameters, got 3"):
        load_hyperparameters(path, "ippo", "e")


def test_paper_file_is_found_by_its_name():
    path = find_conf_file("matrl", "paper")
    assert path == HYPERPARAMS_FOLDER / "paper.yml"
    checkers = load_hyperparameters(path, "matrl", "checkers_v0")
    assert checkers.env_kwargs == {"observation": "codes"} and checkers["solver"] == "cmaes"
    assert load_hyperparameters(path, "matrl", "switch_v0").env_kwargs == {"n_agents": 4, "finished_agents": "pay"}
    with pytest.raises(
        ValueError,
        match="has no entry for 'matrix_game_v0' and no entry 'default'; it has: checkers_v0, switch_v0, hopper_3x1",
    ):
        load_hyperparameters(path, "matrl", "matrix_game_v0")


def test_conf_file_may_be_a_path(tmp_path):
    (tmp_path / "mine.yml").write_text("e: {}")
    assert find_conf_file("matrl", str(tmp_path / "mine.yml")) == tmp_path / "mine.yml"


def test_missing_conf_file_is_refused():
    with pytest.raises(FileNotFoundError, match=r"there is no file papper; conf file .* did you mean 'paper'"):
        find_conf_file("matrl", "papper")


def test_entry_of_the_environment_wins_over_default(tmp_path):
    text = "e: {n_steps: 3}\ndefault: {n_steps: 4}"
    assert load(tmp_path, text)["n_steps"] == 3
    assert load(tmp_path, text, "other")["n_steps"] == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("e: [1", "conf.yml is not valid YAML"),
        ("- e", "conf.yml must hold a mapping, not list"),
        ("", "conf.yml is empty, expected a mapping"),
        ("e: 3", "conf.yml, e: expected a mapping of hyper-parameters, got 3"),
        ("e: {n_steps: 3, n_steps: 4}", "key 'n_steps' is given twice"),
        ("f: {}", "conf.yml has no entry for 'e' and no entry 'default'; it has: f"),
        ("e: {n_step: 3}", "conf.yml, e: hyper-parameter 'n_step' is unknown; did you mean 'n_steps'"),
        ("e: {n_steps: x}", "conf.yml, e, n_steps: expected an integer, got 'x'"),
        (
            "e: !!python/object/apply:os.getcwd []",
            "is not valid YAML: the Python object !!python/object/apply:os.getcwd is not read",
        ),
    ],
)
def test_damaged_files_are_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        load(tmp_path, text)


def test_numbers_with_exponents_are_numbers_at_any_depth(tmp_path):
    text = "e: {policy_kwargs: {optimizer_kwargs: {eps: 1e-5, betas: [.9e0, 1.e-1], name: e-5}}, target_kl: None}"
    conf = load(tmp_path, text)
    assert conf["policy_kwargs"] == {"optimizer_kwargs": {"eps": 1e-5, "betas": [0.9, 0.1], "name": "e-5"}}
    assert conf["target_kl"] is None


def test_merge_keys_may_be_overridden(tmp_path):
    assert load(tmp_path, "a: &a {n_steps: 3, n_envs: 2}\ne: {<<: *a, n_steps: 4}") == checked(n_steps=4, n_envs=2)


# ---------------------------------------------------------------- command line


def test_command_line_wins_over_the_file(tmp_path):
    changed = load(
        tmp_path,
        "e: {n_steps: 3, n_envs: 2, env_kwargs: {a: 1, b: 2}, policy_kwargs: {net_arch: [1], ortho_init: false}}",
        overrides={"n_steps": 5, "policy_kwargs.net_arch": [64, 64], "env_kwargs.c": 3},
        env_kwargs={"b": 4},
    )
    assert (changed["n_steps"], changed.n_envs, changed.env_kwargs) == (5, 2, {"a": 1, "b": 4, "c": 3})
    assert changed["policy_kwargs"] == {"net_arch": [64, 64], "ortho_init": False}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"n_step": 5}, "command line: hyper-parameter 'n_step' is unknown; did you mean 'n_steps'"),
        (
            {"policy_kwarg.net_arch": 5},
            "command line: hyper-parameter 'policy_kwarg' is unknown; did you mean 'policy_kwargs'",
        ),
        ({"n_steps.deep": 5}, "command line, n_steps.deep: n_steps is 2048, not a mapping"),
        ({"n_steps": "x"}, "command line, n_steps: expected an integer, got 'x'"),
        ({"policy_kwargs.net_arch": 5}, "command line, policy_kwargs: net_arch must be a list"),
    ],
)
def test_wrong_overrides_are_refused(tmp_path, overrides, message):
    with pytest.raises(ValueError, match=message):
        load(tmp_path, "e: {}", overrides=overrides)


def test_overrides_leave_the_original_alone():
    original = {"policy_kwargs": {"net_arch": [1]}}
    assert apply_overrides(original, {"policy_kwargs.net_arch": [2]}) == {"policy_kwargs": {"net_arch": [2]}}
    assert original == {"policy_kwargs": {"net_arch": [1]}}


def test_pairs_are_read_as_yaml():
    words = [
        "learning_rate:1e-2",
        "policy_kwargs:{net_arch: [64, 64], optimizer_kwargs: {eps: 1E-5}}",
        "env_kwargs.payoffs:[8,8]",
        "clock:true",
        "x:null",
        "target_kl:None",
        "name:Noneuclidean",
        "{gamma: 0.9, learning_rate: 0.01, 'ent_coef': None}",
    ]
    assert parse_pairs([*words, "url:http://a:80", "e:"], "-params") == {
        "learning_rate": 0.01,
        "policy_kwargs": {"net_arch": [64, 64], "optimizer_kwargs": {"eps": 1e-5}},
        "env_kwargs.payoffs": [8, 8],
        "clock": True,
        "x": None,
        "target_kl": None,
        "name": "Noneuclidean",
        "gamma": 0.9,
        "ent_coef": None,
        "url": "http://a:80",
        "e": None,
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["n_steps=3"], "--flag: expected key:value, got 'n_steps=3'"),
        ([":3"], "--flag: expected key:value, got ':3'"),
        (["a:[1"], r"--flag: the value of a is not valid YAML: '\[1'"),
        (["a:!!python/name:os.system x"], "--flag: the value of a is not valid YAML"),
        (["a:2024-99-99"], "--flag: the value of a is not valid YAML: '2024-99-99'"),
        (["a:{b: 1, b: 2}"], "--flag: the value of a is not valid YAML"),
        (["a:1", "a:2"], "--flag: a is given twice, as 1 and 2: leave one of them out"),
        (["{a: 1}", "a:2"], "--flag: a is given twice, as 1 and 2"),
        (["a.b:1", "a:{b: 2}"], "--flag: a and a.b are given, which contradict each other"),
        (["{1: 2}"], r"--flag: expected key:value or {key: value}, got '{1: 2}'"),
        (["{a: 1"], "--flag: is not valid YAML: '{a: 1'"),
    ],
)
def test_wrong_pairs_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        parse_pairs(words, "--flag")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    write_yaml(tmp_path / "a.yml", {"a": 1})
    with pytest.raises(yaml.YAMLError):
        write_yaml(tmp_path / "a.yml", {"a": object()})
    assert read_yaml(tmp_path / "a.yml") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.yml"]


def test_yaml_of_shipped_files_needs_no_special_loader():
    for path in HYPERPARAMS_FOLDER.glob("*.yml"):
        assert yaml.safe_load(path.read_text()) == read_yaml(path)


# ---------------------------------------------------------------- laws

names = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False)
    | st.text("abc XYZ:,{}[]'\"#-", max_size=8)
)
yaml_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=6
)


@given(st.dictionaries(names, yaml_values, min_size=1, max_size=3))
def test_pairs_that_yaml_wrote_are_read_back(given_values):
    pairs = [f"{key}:{yaml.safe_dump(value, default_flow_style=True, width=10**6)}" for key, value in given_values.items()]
    # A document of one scalar ends with a mark of its own.
    assert parse_pairs([pair.removesuffix("\n...\n").rstrip("\n") for pair in pairs], "-params") == given_values


changes = st.fixed_dictionaries(
    {},
    optional={
        "n_timesteps": st.integers(1, 10**9),
        "learning_rate": st.floats(0, 1, exclude_min=True) | st.floats(1e-6, 1).map(lambda rate: f"lin_{rate:.6f}"),
        "gamma": st.floats(0, 1),
        "target_kl": st.none() | st.floats(1e-6, 1),
        "normalize_advantage": st.booleans(),
        "policy_kwargs": st.none() | st.fixed_dictionaries({"net_arch": st.lists(st.integers(1, 512), max_size=3)}),
        "share": st.none()
        | st.dictionaries(names, st.lists(names, min_size=1, max_size=3, unique=True), min_size=1, max_size=2),
        "env_kwargs": st.dictionaries(names, scalars, max_size=2),
    },
)


@given(changes)
def test_hyperparameters_survive_a_file(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("law") / "some.yml"
    hyperparameters = Hyperparameters.from_mapping("matrl", values, "here")
    write_yaml(path, {"default": hyperparameters.as_mapping()})
    assert load_hyperparameters(path, "matrl", "any_v0") == hyperparameters
