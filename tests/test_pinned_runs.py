"""
Short trainings whose final parameters are pinned: changes to the code must not change what is computed.

    python -m tests.test_pinned_runs    # writes tests/data/pinned_runs.json, after a change that is meant to change results

Floating-point results differ between processors and versions of PyTorch. Where both are those of the record the hashes of all
parameters must be equal; elsewhere the parameters' norms must be close.
"""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path
from typing import Any

import pytest
import torch as th
from sb3_contrib import TRPO
from stable_baselines3 import A2C, PPO

from sb3_matrl import MATRL

RECORD = Path(__file__).parent / "data" / "pinned_runs.json"
SMALL: dict[str, Any] = {
    "n_envs": 4,
    "n_steps": 25,
    "batch_size": 50,
    "n_epochs": 3,
    "br_n_epochs": 2,
    "seed": 3,
    "device": "cpu",
}
SMALL["policy_kwargs"] = {"net_arch": [16, 16]}
CASES: dict[str, dict[str, Any]] = {
    "checkers": {"env": "checkers_v0", "learning_rate": 0.01, "ent_coef": 0.01, "solver": "cmaes", "selection": "welfare"},
    "switch": {
        "env": "switch_v0",
        "env_kwargs": {"n_agents": 3, "clock": True, "max_cycles": 20},
        "share": {"team": ["agent_0", "agent_1"]},
        "norm_obs": True,
        "norm_reward": True,
        "learner_class": {"team": PPO, "agent_2": A2C},
        "br_kl_coef": 0.1,
    },
    "matrix_game": {
        "env": "matrix_game_v0",
        "env_kwargs": {"game": "rps"},
        "learning_rate": 0.05,
        "aggregation": "distill",
        "best_response_start": "current",
        "learner_class": {"agent_0": PPO, "agent_1": TRPO},
    },
    "hopper": {"env": "hopper_3x1", "norm_obs": True, "vec_env": "dummy", "target_kl": 0.01, "br_clip_range": None},
}


def train(case: str) -> MATRL:
    """Five iterations."""
    return MATRL("MlpPolicy", backend="sb3", **{**SMALL, **CASES[case]}).learn(500, log_interval=None)


def summary(model: MATRL) -> dict[str, Any]:
    """Hash of all parameters and optimiser states' tensors, and the norm of every learner's policy."""
    digest = hashlib.sha256()
    for name, parts in model.get_parameters().items():
        for part, state in parts.items():
            for key, tensor in _tensors(state, f"{name}/{part}"):
                digest.update(key.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    norms = {
        name: float(th.cat([p.detach().double().flatten() for p in learner.policy.parameters()]).norm())
        for name, learner in model.learners.items()
    }
    return {"sha256": digest.hexdigest(), "norms": norms}


def _tensors(value: Any, key: str) -> list[tuple[str, th.Tensor]]:
    if isinstance(value, th.Tensor):
        return [(key, value)]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    return [pair for name, item in items for pair in _tensors(item, f"{key}/{name}")]


def processor() -> str:
    """What decides which instructions PyTorch uses."""
    return f"{platform.machine()}, {th.backends.cpu.get_cpu_capability()}, torch {th.__version__}"


@pytest.mark.cases(quick=["checkers"])
@pytest.mark.parametrize("case", CASES)
def test_final_parameters_are_those_of_the_record(case):
    if case == "hopper":
        pytest.importorskip("mujoco")
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    found, expected = summary(train(case)), record["runs"][case]
    assert found["norms"] == pytest.approx(expected["norms"], rel=1e-3)
    if processor() == record["processor"]:
        assert found["sha256"] == expected["sha256"]


@pytest.mark.parametrize("version", [1, 2])
def test_models_of_earlier_formats_load_and_go_on(version):
    path = RECORD.parent / f"model_format_{version}.zip"
    model = MATRL.load(path, env="matrix_game_v0", device="cpu")
    assert (model.num_timesteps, model._n_updates, list(model.agents)) == (32, 2, ["agent_0", "agent_1"])
    model.learn(16, reset_num_timesteps=False, log_interval=None)
    assert (model.num_timesteps, model._n_updates) == (48, 3)


if __name__ == "__main__":
    th.set_num_threads(1)
    runs = {case: summary(train(case)) for case in CASES}
    RECORD.write_text(json.dumps({"processor": processor(), "runs": runs}, indent=1) + "\n", encoding="utf-8")
