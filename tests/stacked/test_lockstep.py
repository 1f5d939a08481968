"""Stacked updates against SB3's own: the same rollouts, permutations and settings, in double precision."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from stable_baselines3.common import policies
from stable_baselines3.common.buffers import BaseBuffer
from torch import nn

from sb3_matrl import MATRL
from sb3_matrl.matrl import coordinator
from sb3_matrl.on_policy.batch import AgentBatch
from tests.vec_env.toys import ToyEnv

N_STEPS, N_ENVS = 32, 4
ROWS = N_STEPS * N_ENVS
SMALL: dict[str, Any] = {"n_steps": N_STEPS, "n_envs": N_ENVS, "batch_size": 8, "n_epochs": 10, "br_n_epochs": 10, "seed": 0}
SMALL |= {"device": "cpu", "policy_kwargs": {"net_arch": [8, 8]}, "ent_coef": 0.01, "learning_rate": 1e-3}


def box(size: int) -> spaces.Box:
    return spaces.Box(-1, 1, (size,), np.float32)


def toy(observations: list[Any], actions: list[Any], ends: list[tuple[int, str]] | None = None) -> ToyEnv:
    names = [f"agent_{i}" for i in range(len(observations))]
    lives = ends or [(5, "truncated")] * len(names)
    worlds = (dict(zip(names, values, strict=True)) for values in (observations, actions, lives))
    return ToyEnv(*worlds)


LEAKY = {"policy_kwargs": {"net_arch": [8, 8], "activation_fn": nn.LeakyReLU}}
RELU = {"policy_kwargs": {"net_arch": {"pi": [6, 8], "vf": [8, 5]}, "activation_fn": nn.ReLU}}
DYING = [(2, "terminated"), (5, "both"), (3, "truncated")]
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "Discrete": (lambda: toy([box(3)] * 3, [spaces.Discrete(4)] * 3), {}),
    "Discrete, unequal": (lambda: toy([box(3), box(2)], [spaces.Discrete(4), spaces.Discrete(2)]), LEAKY),
    "Discrete observations": (lambda: toy([spaces.Discrete(5), spaces.Discrete(6)], [spaces.Discrete(3)] * 2), {}),
    "MultiDiscrete": (lambda: toy([box(3)] * 2, [spaces.MultiDiscrete([2, 3])] * 2), RELU),
    "Box": (lambda: toy([box(4)] * 2, [box(2)] * 2), {}),
    "Box, unequal": (lambda: toy([box(4), box(3)], [box(3), box(1)]), LEAKY),
    "masks": (lambda: toy([box(3)] * 2, [spaces.Discrete(4)] * 2), {"learner_class": MaskablePPO}),
    "deaths": (lambda: toy([box(3)] * 3, [spaces.Discrete(4)] * 3, DYING), {}),
    "deaths, full batch": (lambda: toy([box(3)] * 3, [box(1)] * 3, DYING), {"batch_size": ROWS}),
    "deaths, masks": (lambda: toy([box(3)] * 3, [spaces.Discrete(4)] * 3, DYING), {"learner_class": MaskablePPO}),
    "no layers": (lambda: toy([box(3)] * 2, [spaces.Discrete(4)] * 2), {"policy_kwargs": {"net_arch": []}}),
    "clipped values": (lambda: toy([box(3)] * 2, [spaces.Discrete(4)] * 2), {"clip_range_vf": 0.05}),
    "as they are": (lambda: toy([box(3)] * 2, [box(1)] * 2), {"normalize_advantage": False, "max_grad_norm": 1e9}),
    "uneven minibatches": (lambda: toy([box(3)] * 2, [spaces.Discrete(4)] * 2), {"batch_size": 25, "n_epochs": 26}),
    "one per minibatch": (lambda: toy([box(3)] * 2, [spaces.Discrete(4)] * 2), {"batch_size": 127}),
    "shared": (lambda: toy([box(3)] * 4, [box(2)] * 4), {"share": {"x": ["agent_0", "agent_1"], "y": ["agent_2", "agent_3"]}}),
    "different settings": (
        lambda: toy([box(3)] * 2, [spaces.Discrete(4)] * 2),
        {
            "learning_rate": {"agent_0": 1e-3, "agent_1": lambda progress: 3e-4 * progress},
            "clip_range": {"agent_0": 0.1, "agent_1": 0.3},
            "ent_coef": {"agent_0": 0.0, "agent_1": 0.05},
            "vf_coef": {"agent_0": 1.0, "agent_1": 0.1},
            "max_grad_norm": {"agent_0": 0.1, "agent_1": 10.0},
            "normalize_advantage": {"agent_0": True, "agent_1": False},
            "clip_range_vf": {"agent_0": None, "agent_1": 0.1},
            "br_n_epochs": {"agent_0": 10, "agent_1": 3},
            "br_kl_coef": {"agent_0": 0.0, "agent_1": 0.5},
        },
    ),
    "one learner, target_kl": (lambda: toy([box(3)], [spaces.Discrete(4)]), {"target_kl": 1e-4, "learning_rate": 0.01}),
}


@pytest.fixture
def doubles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let SB3 build networks and read observations and rollouts in double precision."""
    single = policies.preprocess_obs
    monkeypatch.setattr(policies, "preprocess_obs", lambda *args, **kwargs: single(*args, **kwargs).double())  # type: ignore[union-attr]
    tensor = BaseBuffer.to_torch

    def to_torch(self: BaseBuffer, array: np.ndarray, copy: bool = True) -> th.Tensor:
        found = tensor(self, array, copy)
        return found.double() if found.is_floating_point() else found

    monkeypatch.setattr(BaseBuffer, "to_torch", to_torch)
    batch = coordinator.agent_batch

    def double_batch(learner: Any) -> AgentBatch:
        found = batch(learner)
        columns = {name: getattr(found, name).double() for name in ("old_log_prob", "old_values", "advantages", "returns")}
        return dataclasses.replace(found, **columns)

    monkeypatch.setattr(coordinator, "agent_batch", double_batch)
    th.set_default_dtype(th.float64)
    yield
    th.set_default_dtype(th.float32)


def make(case: str, backend: str, **changes: Any) -> MATRL:
    env, arguments = CASES[case]
    model = MATRL("MlpPolicy", env, backend=backend, **{**SMALL, **arguments, **changes})
    model.learn(0)
    for learner in model.learners.values():
        learner._total_timesteps, learner.num_timesteps = 10 * ROWS, ROWS
    return model


def updated(model: MATRL, rollouts: dict[str, Any]) -> MATRL:
    """The model after one iteration on given rollouts, with given draws."""
    for name, learner in model.learners.items():
        learner.rollout_buffer = copy.deepcopy(rollouts[name])
    np.random.seed(3)
    model.num_timesteps = ROWS
    model.train(10 * ROWS)
    return model


def numbers(model: MATRL) -> dict[str, th.Tensor]:
    found = {}
    for learner, parts in model.get_parameters().items():
        for part, state in parts.items():
            tensors = state if part == "policy" else {f"{k} {n}": v for k, s in state["state"].items() for n, v in s.items()}
            found |= {f"{learner} {part} {key}": value.double() for key, value in tensors.items()}
    return found


@pytest.mark.cases(e2e=["deaths, masks"], rest="expensive")
@pytest.mark.parametrize("case", CASES)
def test_hundreds_of_stacked_steps_equal_those_of_sb3(case: str, doubles: None) -> None:
    reference = make(case, "sb3")
    assert reference.collect_rollouts(reference._init_callback(None))
    rollouts = {name: copy.deepcopy(learner.rollout_buffer) for name, learner in reference.learners.items()}
    stacked = make(case, "torch")
    assert [one.names for one in stacked.coordinator.joint.stacks] == [tuple(stacked.learners)]
    updated(reference, rollouts)
    updated(stacked, rollouts)
    theirs, ours = numbers(reference), numbers(stacked)
    assert theirs.keys() == ours.keys()
    steps = {key: value for key, value in theirs.items() if key.endswith("step")}
    assert sum(int(value) for value in steps.values()) >= (1 if "kl" in case else 300)
    for key, value in theirs.items():
        th.testing.assert_close(ours[key], value, rtol=1e-10, atol=1e-12, msg=lambda text, key=key: f"{key}: {text}")
    _same_log(reference, stacked)


def _same_log(reference: MATRL, stacked: MATRL) -> None:
    theirs, ours = reference.logger.name_to_value, stacked.logger.name_to_value
    assert theirs.keys() == ours.keys()
    for key, value in theirs.items():
        if isinstance(value, str):
            assert ours[key] == value, key
        elif "seconds" not in key and "lower_bound" not in key:
            assert ours[key] == pytest.approx(value, rel=1e-5, abs=1e-7), key
    for name, learner in reference.learners.items():
        assert stacked.learners[name]._n_updates == learner._n_updates


@pytest.mark.parametrize("case", ["Discrete", "Box", "deaths", "masks"])
def test_one_step_in_single_precision(case: str) -> None:
    arguments = {"batch_size": ROWS, "n_epochs": 1, "best_response": False}
    models = [make(case, backend, **arguments) for backend in ("sb3", "torch")]
    assert models[0].collect_rollouts(models[0]._init_callback(None))
    rollouts = {name: copy.deepcopy(learner.rollout_buffer) for name, learner in models[0].learners.items()}
    theirs, ours = (numbers(updated(model, rollouts)) for model in models)
    for key, value in theirs.items():
        th.testing.assert_close(ours[key], value, rtol=0.0, atol=2e-6 if "exp_avg" in key else 1e-6, msg=f"{key}, {case}")


@pytest.mark.e2e
def test_learners_without_a_row_are_left_alone(doubles: None) -> None:
    model = make("deaths", "torch")
    assert model.collect_rollouts(model._init_callback(None))
    rollouts = {name: copy.deepcopy(learner.rollout_buffer) for name, learner in model.learners.items()}
    rollouts["agent_1"].mask[:] = False
    before = {key: value.clone() for key, value in numbers(model).items()}
    after = numbers(updated(model, rollouts))
    still = {key for key, value in after.items() if key in before and th.equal(value, before[key])}
    assert {key for key in after if key.startswith("agent_1 ")} == {key for key in still if key.startswith("agent_1 ")}
    assert not any(key.startswith("agent_0 policy ") for key in still)


@pytest.mark.e2e
def test_large_stacks_pass_in_parts(doubles: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from sb3_matrl.stacked import passes

    model = make("deaths, full batch", "torch")
    assert model.collect_rollouts(model._init_callback(None))
    rollouts = {name: copy.deepcopy(learner.rollout_buffer) for name, learner in model.learners.items()}
    whole = numbers(updated(model, rollouts))
    monkeypatch.setattr(passes, "_LEAST_ROWS", 20)
    monkeypatch.setattr(passes, "_MOST_ROWS", 20)
    for key, value in numbers(updated(make("deaths, full batch", "torch"), rollouts)).items():
        th.testing.assert_close(value, whole[key], rtol=1e-10, atol=1e-12)
