"""Small models of MATRL for tests."""

from __future__ import annotations

from typing import Any

import torch as th

from sb3_matrl import MATRL
from sb3_matrl.envs import checkers_v0
from sb3_matrl.matrl.best_response import BestResponseConfig

SMALL: dict[str, Any] = {
    "n_envs": 2,
    "n_steps": 16,
    "batch_size": 32,
    "n_epochs": 2,
    "br_n_epochs": 1,
    "policy_kwargs": {"net_arch": [8]},
    "seed": 1,
    "device": "cpu",
}
ITERATION = SMALL["n_envs"] * SMALL["n_steps"]


def make(env: Any = checkers_v0.parallel_env, policy: Any = "MlpPolicy", **kwargs: Any) -> MATRL:
    return MATRL(policy, env, **{**SMALL, **kwargs})


def best_response_config(**changes: Any) -> BestResponseConfig:
    """Settings of one epoch with SB3's defaults, and all rows in one minibatch."""
    plain = {"br_n_epochs": 1, "br_clip_range": None, "clip_range_vf": None, "br_kl_coef": 0.0, "target_kl": None}
    usual = {"br_learning_rate": 1e-3, "clip_range": 0.2, "normalize_advantage": True, "ent_coef": 0.0, "vf_coef": 0.5}
    return BestResponseConfig(**{**plain, **usual, "batch_size": 10_000, "max_grad_norm": 0.5, **changes})


def parameters(model: MATRL) -> list[th.Tensor]:
    return [value.clone() for learner in model.agents.values() for value in learner.policy.parameters()]


def assert_equal(first: list[th.Tensor], second: list[th.Tensor]) -> None:
    assert len(first) == len(second)
    assert all(th.equal(a, b) for a, b in zip(first, second, strict=True))
