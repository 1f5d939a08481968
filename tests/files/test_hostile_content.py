"""Model files with hostile or damaged content: one kind of error, which names the file, and little memory."""

from __future__ import annotations

import random
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_matrl import MATRL
from sb3_matrl.common.loading import load_model
from sb3_matrl.files.model_files import read_model
from sb3_matrl.zoo.diagnosis.saved_model import check_model
from tests.files.hostile import (
    WRONG,
    WRONG_TENSORS,
    Members,
    changed_document,
    changed_tensors,
    mutate,
    read_members,
    write_members,
)

pytestmark = pytest.mark.e2e

# Examples per test; benchmarks/fuzz_loaders.py goes on for as long as it is told.
EXAMPLES = 12
SEEDS = st.integers(0, 2**32)
SMALL: dict[str, Any] = {"n_steps": 8, "batch_size": 16, "n_epochs": 1, "n_envs": 2, "policy_kwargs": {"net_arch": [4]}}


def build(**arguments: Any) -> MATRL:
    env_kwargs = {"n_agents": 3}
    return MATRL("MlpPolicy", "switch_v0", env_kwargs=env_kwargs, norm_obs=True, seed=0, device="cpu", **SMALL, **arguments)


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Members:
    """A model with every member that a file can have: learners, a frozen agent, running statistics, a training."""
    path = tmp_path_factory.mktemp("whole") / "model.zip"
    build(frozen={"agent_2": (build(), "agent_2")}).learn(32).save(path)
    return read_members(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


def use(path: Path, resume: bool) -> None:
    """Everything that reads a model file; only a ``ValueError`` that names the file may come out."""
    for read in (
        lambda: load_model(path, device="cpu"),
        lambda: READER.set_parameters(path),
        *([lambda: go_on(path)] * resume),
    ):
        try:
            read()
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)
    list(map(str, check_model(path)))


def go_on(path: Path) -> None:
    load_model(path, env="switch_v0", device="cpu").learn(16, reset_num_timesteps=False)


READER = build(frozen={"agent_2": lambda observations: [0] * len(observations)})


def test_unchanged_file_is_used(members: Members, folder: Path) -> None:
    write_members(folder / "same.zip", members)
    go_on(folder / "same.zip")
    READER.set_parameters(folder / "same.zip")


@settings(max_examples=EXAMPLES)
@given(SEEDS)
def test_mutated_model_json(members: Members, folder: Path, seed: int) -> None:
    write_members(
        folder / "json.zip", changed_document(members, lambda document: mutate(document, random.Random(seed), WRONG))
    )
    use(folder / "json.zip", resume=False)


@settings(max_examples=EXAMPLES)
@given(SEEDS, st.sampled_from(["manifest.json", "model.json"]))
def test_mutated_top_of_documents(members: Members, folder: Path, seed: int, name: str) -> None:
    rng = random.Random(seed)

    def change(document: Any) -> Any:
        key = rng.choice(sorted(document))
        document[key] = rng.choice(WRONG)
        return document

    write_members(folder / "top.zip", changed_document(members, change, name))
    use(folder / "top.zip", resume=False)


@settings(max_examples=EXAMPLES)
@given(SEEDS, st.sampled_from(["agents/0.pt", "frozen/0.pt", "normalizers.pt", "training.pt"]))
def test_mutated_tensors(members: Members, folder: Path, seed: int, name: str) -> None:
    write_members(
        folder / "pt.zip",
        changed_tensors(members, lambda tree: mutate(tree, random.Random(seed), (*WRONG, *WRONG_TENSORS)), name),
    )
    use(folder / "pt.zip", resume=True)


# ---------------------------------------------------------------- memory and code


def in_arguments(**values: Any) -> Callable[[Any], Any]:
    def change(document: Any) -> None:
        document["arguments"] |= values

    return change


def as_dict(**values: Any) -> Any:
    return {"__kind__": "dict", "items": [[key, value] for key, value in values.items()]}


def as_class(module: str, name: str) -> Any:
    return {"__kind__": "class", "module": module, "name": name}


def first_space(space: Any) -> Callable[[Any], Any]:
    def change(document: Any) -> None:
        document["observation_spaces"][0] = space

    return change


def copies(number: int) -> Callable[[Any], Any]:
    def change(document: Any) -> None:
        document["counters"]["n_envs"] = number

    return change


BOX = {"type": "Box", "low": 0, "high": 1, "shape": [2**23], "dtype": "float32"}
TEXTS = {"__kind__": "array", "dtype": "<U10000000", "shape": [1], "items": ["x"]}
LSTM = as_dict(lstm_hidden_size=1, n_lstm_layers=10**9)
ENV_AS_ARGUMENT = as_dict(
    features_extractor_class=as_class("stable_baselines3.ppo.ppo", "PPO"),
    features_extractor_kwargs=as_dict(env="tests.files.nowhere:Env-v0"),
)
BOMBS: dict[str, Callable[[Any], Any]] = {
    "ten boxes in a dict": first_space({"type": "Dict", "spaces": [[f"k{i}", BOX] for i in range(10)]}),
    "nested dicts of boxes": first_space({"type": "Dict", "spaces": [["a", {"type": "Dict", "spaces": [["b", BOX]] * 10}]]}),
    "one large box": first_space({**BOX, "shape": [2**13, 2**13, 2]}),
    "box of wide texts": first_space({**BOX, "shape": [1], "dtype": "<U1000000000"}),
    "many bits": first_space({"type": "MultiBinary", "n": 10**10}),
    "many choices": first_space({"type": "Discrete", "n": 10**9, "start": 0}),
    "twenty wide texts": in_arguments(learning_rate=[TEXTS] * 20),
    "wide layers": in_arguments(policy_kwargs=as_dict(net_arch=[20_000, 20_000])),
    "wide layers of one agent": in_arguments(policy_kwargs=as_dict(agent_0=as_dict(net_arch=[20_000, 20_000]))),
    "many layers": in_arguments(policy_kwargs=as_dict(net_arch=[1] * 50_000)),
    "a layer that no memory holds": in_arguments(policy_kwargs=as_dict(net_arch=[10**9, 10**9])),
    "many recurrent layers": in_arguments(
        policy="MlpLstmPolicy",
        learner_class=as_class("sb3_contrib.ppo_recurrent.ppo_recurrent", "RecurrentPPO"),
        policy_kwargs=LSTM,
    ),
    "a billion copies": copies(10**9),
    "no copies": copies(0),
    "a billion steps": in_arguments(n_steps=10**9),
    "a billion steps of the learners": in_arguments(learner_kwargs=as_dict(n_steps=10**9)),
    "steps of one agent": in_arguments(n_steps=as_dict(agent_0=10**9, agent_1=8)),
    "a large network as activation": in_arguments(policy_kwargs=as_dict(activation_fn=as_class("torch.nn", "Transformer"))),
    "an algorithm as extractor": in_arguments(policy_kwargs=ENV_AS_ARGUMENT),
    "an algorithm as activation": in_arguments(
        policy_kwargs=as_dict(activation_fn=as_class("stable_baselines3.ppo.ppo", "PPO"))
    ),
    "an optimiser as policy": in_arguments(policy=as_class("torch.optim", "Adam")),
    "an off-policy learner": in_arguments(learner_class=as_class("stable_baselines3.sac.sac", "SAC")),
    "a path as frozen agent": in_arguments(frozen=as_dict(agent_2="other.zip")),
}


@pytest.mark.parametrize("change", BOMBS.values(), ids=BOMBS)
def test_small_file_takes_little_memory_and_time(members: Members, tmp_path: Path, change: Callable[[Any], Any]) -> None:
    path = tmp_path / "bomb.zip"
    write_members(path, changed_document(members, change))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(ValueError, match=r"bomb\.zip"):
        load_model(path, device="cpu")
    with pytest.raises(ValueError):
        load_model(path, env="switch_v0", device="cpu")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB; the bombs would take gigabytes
    assert time.process_time() - start < 20


def test_copies_and_steps_are_the_callers_if_he_names_them(members: Members, tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    write_members(path, changed_document(members, copies(10**9)))
    assert load_model(path, device="cpu", n_envs=3).n_envs == 3
    write_members(path, changed_document(members, in_arguments(n_steps=10**9)))
    assert load_model(path, device="cpu", n_steps=4).arguments["n_steps"] == 4


@pytest.mark.parametrize("dtype", [th.float16, th.float64])
def test_one_tensor_under_many_names_is_refused(members: Members, tmp_path: Path, dtype: th.dtype) -> None:
    shared = th.zeros(100_000, dtype=dtype)

    def change(tree: Any) -> None:
        tree["policy.optimizer"]["state"] = {0: {f"x{i}": shared for i in range(1000)}}

    write_members(tmp_path / "alias.zip", changed_tensors(members, change))
    with pytest.raises(ValueError, match=r"alias\.zip .*agents/0\.pt: its tensors are larger together"):
        read_model(tmp_path / "alias.zip")


def test_parameters_of_a_file_are_all_loaded_or_none(members: Members, tmp_path: Path) -> None:
    def change(tree: Any) -> None:
        tree["policy"]["action_net.bias"] = th.zeros(3)

    write_members(tmp_path / "model.zip", changed_tensors(members, change, "agents/1.pt"))
    model = build(frozen={"agent_2": lambda observations: [0] * len(observations)})
    before = {name: value.clone() for name, value in model.agents["agent_0"].policy.state_dict().items()}
    with pytest.raises(ValueError, match=r"model\.zip.*size mismatch"):
        model.set_parameters(tmp_path / "model.zip")
    after = model.agents["agent_0"].policy.state_dict()
    assert all(th.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize(
    ("option", "value"), [("betas", "x"), ("betas", (0.9,)), ("lr", None), ("lr", th.nan), ("fused", 3), ("eps", th.zeros(2))]
)
def test_options_of_optimisers_are_checked(members: Members, tmp_path: Path, option: str, value: Any) -> None:
    def change(tree: Any) -> None:
        tree["policy.optimizer"]["param_groups"][0][option] = value

    write_members(tmp_path / "model.zip", changed_tensors(members, change))
    with pytest.raises(ValueError, match=rf"model\.zip.*its optimiser has the option {option}"):
        load_model(tmp_path / "model.zip", device="cpu")


@pytest.mark.parametrize(
    ("entry", "value"), [("exp_avg", th.zeros(2, 2, 2)), ("exp_avg_sq", None), ("step", th.zeros(3)), ("step", -th.inf)]
)
def test_states_of_optimisers_are_checked(members: Members, tmp_path: Path, entry: str, value: Any) -> None:
    def change(tree: Any) -> None:
        tree["policy.optimizer"]["state"][0][entry] = value

    write_members(tmp_path / "model.zip", changed_tensors(members, change))
    with pytest.raises(ValueError, match=rf"model\.zip.*its optimiser has {entry}"):
        load_model(tmp_path / "model.zip", device="cpu")


@pytest.mark.parametrize(
    ("option", "value"),
    [("betas", (1.0, 0.999)), ("weight_decay", th.ones(1)), ("step", th.tensor(-1.0))],
)
def test_optimisers_that_cannot_take_a_step_are_refused(members: Members, tmp_path: Path, option: str, value: Any) -> None:
    def change(tree: Any) -> None:
        states = tree["policy.optimizer"]["state"]
        for place in [states[0]] if option == "step" else tree["policy.optimizer"]["param_groups"]:
            place[option] = value

    write_members(tmp_path / "model.zip", changed_tensors(members, change))
    with pytest.raises(ValueError, match=r"model\.zip.*its optimiser cannot take a step from its state"):
        load_model(tmp_path / "model.zip", device="cpu")


@pytest.mark.expensive
def test_networks_of_the_caller_are_not_limited(members: Members, tmp_path: Path) -> None:
    write_members(tmp_path / "model.zip", members)
    large = MATRL(
        "MlpPolicy",
        "switch_v0",
        env_kwargs={"n_agents": 3},
        device="cpu",
        **{**SMALL, "policy_kwargs": {"net_arch": [1600, 1600]}},
    )
    model = load_model(tmp_path / "model.zip", device="cpu", frozen={"agent_2": (large, "agent_2")})
    assert model.player("agent_2").policy.mlp_extractor.policy_net[0].out_features == 1600
