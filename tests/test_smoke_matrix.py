"""Every algorithm and learner in every environment for two iterations: finite losses, save, load, predict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sb3_contrib import TRPO, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

from sb3_matrl import MATRL
from sb3_matrl.common.registry import algorithm_spec
from sb3_matrl.off_policy.off_policy_algorithm import OffPolicyMultiAgent
from sb3_matrl.stacked.kernels import KERNELS
from tests.algorithms import OFF_POLICY, ON_POLICY, VALUE_BASED
from tests.stacked.backends import require_kernel

WORLDS: dict[str, dict[str, Any]] = {
    "checkers_v0": {},
    "switch_v0": {},
    "matrix_game_v0": {},
    "stag_hunt_v0": {},
    "escalation_v0": {},
    "predator_prey_v0": {"size": 5, "n_agents": 3, "n_prey": 2},
    "hopper_3x1": {},
    "ant_2x4": {},
    "ant_4x2": {},
    "swimmer_2x1": {},
    "halfcheetah_2x3": {},
    "walker2d_2x3": {},
    "pong_v3": {"noop_max": 2},
    "pong_v3 pixels": {"observation": "pixels", "noop_max": 2},
}
DISCRETE = ("checkers_v0", "switch_v0", "matrix_game_v0", "stag_hunt_v0", "escalation_v0", "predator_prey_v0")
LEARNERS = {"PPO": PPO, "A2C": A2C, "TRPO": TRPO, "RecurrentPPO": RecurrentPPO, "MaskablePPO": MaskablePPO}
N_ENVS, N_STEPS = 2, 8


class Losses(BaseCallback):
    """Keeps what is logged of every iteration."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[str, Any]] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self.seen.append(dict(self.logger.name_to_value))

    _on_training_end = _on_rollout_start


def policy_of(learner: str, pixels: bool) -> tuple[str, dict[str, Any]]:
    """Name and arguments of a tiny policy."""
    small: dict[str, Any] = {"net_arch": [8]} | ({"features_extractor_kwargs": {"features_dim": 8}} if pixels else {})
    if learner != "RecurrentPPO":
        return "CnnPolicy" if pixels else "MlpPolicy", small
    return "CnnLstmPolicy" if pixels else "MlpLstmPolicy", small | {"lstm_hidden_size": 8}


def make(env: str, algorithm: str, learner: str, backend: str = "auto") -> MATRL:
    env_id, _, pixels = env.partition(" ")
    policy, policy_kwargs = policy_of(learner, bool(pixels))
    return MATRL(
        policy,
        env_id,
        n_envs=N_ENVS,
        n_steps=N_STEPS,
        batch_size=N_ENVS * N_STEPS,
        env_kwargs=WORLDS[env],
        learner_class=LEARNERS[learner],
        learner_kwargs={"n_epochs": 2} if "PPO" in learner else None,
        br_n_epochs=1,
        policy_kwargs=policy_kwargs,
        norm_obs=env_id.split("_")[0] in ("hopper", "ant", "swimmer", "halfcheetah", "walker2d"),
        seed=0,
        device="cpu",
        backend=backend,
        **algorithm_spec(algorithm).fixed,
    )


def check(env: str, algorithm: str, learner: str, folder: Path, backend: str = "auto") -> None:
    """Two iterations; all that is logged of losses and games is finite; saved and loaded, it plays the same."""
    model, losses = make(env, algorithm, learner, backend), Losses()
    model.learn(2 * N_ENVS * N_STEPS, callback=losses, log_interval=None)
    first = model.env.reset()  # type: ignore[union-attr]
    logged = [(key, value) for seen in losses.seen for key, value in seen.items() if isinstance(value, (int, float))]
    wanted = [(key, value) for key, value in logged if "explained_variance" not in key]
    assert sum("loss" in key or "objective" in key for key, _ in wanted) >= 2 * len(model.agents)
    assert all(np.isfinite(value) for _, value in wanted), [key for key, value in wanted if not np.isfinite(value)]
    model.save(folder / "model")
    loaded = MATRL.load(folder / "model", device="cpu")
    actions, states = model.predict(first, deterministic=True)
    again, _ = loaded.predict(first, deterministic=True)
    assert (states is not None) == (learner == "RecurrentPPO")
    for agent, action in actions.items():
        np.testing.assert_array_equal(action, again[agent])
        space = model.env.action_spaces[agent]  # type: ignore[union-attr]
        assert action.shape == (N_ENVS, *space.shape)
        assert all(space.contains(np.asarray(one, dtype=space.dtype)) for one in action)
    model.env.close()  # type: ignore[union-attr]


def make_off_policy(env: str, algorithm: str) -> OffPolicyMultiAgent:
    env_id, _, pixels = env.partition(" ")
    policy, policy_kwargs = policy_of(algorithm, bool(pixels))
    small = {"n_envs": N_ENVS, "learning_starts": 8, "batch_size": 4, "buffer_size": 64, "train_freq": 2}
    cls = algorithm_spec(algorithm).load_class()
    model: OffPolicyMultiAgent = cls(
        policy, env_id, env_kwargs=WORLDS[env], policy_kwargs=policy_kwargs, seed=0, device="cpu", **small
    )
    return model


def takes(algorithm: str, env: str) -> bool:
    """Whether an off-policy algorithm has such actions."""
    return algorithm == "maddpg" or (algorithm in VALUE_BASED) != continuous(env)


def check_off_policy(env: str, algorithm: str, folder: Path) -> None:
    """Some gradient steps, as :func:`check`; then a step more, with the saved replay buffer."""
    model, losses = make_off_policy(env, algorithm), Losses()
    model.learn(24, callback=losses, log_interval=None)
    logged = [(key, value) for seen in losses.seen for key, value in seen.items() if isinstance(value, (int, float))]
    assert any("loss" in key for key, _ in logged) and model._n_updates == 4 * model.gradient_steps
    assert all(np.isfinite(value) for _, value in logged), [key for key, value in logged if not np.isfinite(value)]
    first = model.env.reset()  # type: ignore[union-attr]
    model.save(folder / "model")
    model.save_replay_buffer(folder / "buffer")
    loaded = type(model).load(folder / "model", device="cpu")
    loaded.load_replay_buffer(folder / "buffer")
    actions, _ = model.predict(first, deterministic=True)
    again, _ = loaded.predict(first, deterministic=True)
    for agent, action in actions.items():
        np.testing.assert_array_equal(action, again[agent])
        space = model.env.action_spaces[agent]  # type: ignore[union-attr]
        assert all(space.contains(np.asarray(one, dtype=space.dtype)) for one in action)
    loaded.set_logger(Logger(None, []))
    loaded.train(1)
    assert loaded._n_updates == model._n_updates + 1
    model.env.close()  # type: ignore[union-attr]


def continuous(env: str) -> bool:
    """Whether the env's actions are continuous, so that masks make no sense."""
    return env not in DISCRETE and not env.startswith("pong")


@pytest.mark.expensive
@pytest.mark.parametrize("env", WORLDS)
@pytest.mark.parametrize("algorithm", ON_POLICY)
def test_every_algorithm_runs_in_every_environment(env: str, algorithm: str, tmp_path: Path) -> None:
    check(env, algorithm, "PPO", tmp_path)


@pytest.mark.expensive
@pytest.mark.parametrize("env", WORLDS)
@pytest.mark.parametrize("learner", [name for name in LEARNERS if name != "PPO"])
def test_every_learner_runs_in_every_environment(env: str, learner: str, tmp_path: Path) -> None:
    if learner == "MaskablePPO" and continuous(env):
        with pytest.raises(ValueError, match="MaskablePPO cannot use these spaces"):
            make(env, "matrl", learner)
        return
    check(env, "matrl", learner, tmp_path)


@pytest.mark.expensive
@pytest.mark.parametrize("env", [world for world in WORLDS if "pixels" not in world])
@pytest.mark.parametrize("learner", ["PPO", "MaskablePPO"])
@pytest.mark.parametrize("backend", ["sb3", *KERNELS])
def test_every_backend_runs_in_every_environment(env: str, learner: str, backend: str, tmp_path: Path) -> None:
    if learner == "MaskablePPO" and continuous(env):
        pytest.skip("masks are for discrete actions")
    require_kernel(backend)
    check(env, "matrl", learner, tmp_path, backend)


@pytest.mark.expensive
@pytest.mark.parametrize(("algorithm", "env"), [(one, env) for one in OFF_POLICY for env in WORLDS if takes(one, env)])
def test_every_off_policy_algorithm_runs_in_every_environment_that_it_takes(algorithm: str, env: str, tmp_path: Path) -> None:
    check_off_policy(env, algorithm, tmp_path)


@pytest.mark.expensive
@pytest.mark.parametrize(("algorithm", "env"), [(one, env) for one in OFF_POLICY for env in WORLDS if not takes(one, env)])
def test_every_off_policy_algorithm_refuses_the_others(algorithm: str, env: str) -> None:
    kinds = ("Box", "Discrete") if algorithm in ("iddpg", "comix") else ("Discrete", "Box")
    message = rf"agent '\w+': {algorithm.upper()} takes {kinds[0]} actions, not {kinds[1]}\(.*: use "
    with pytest.raises(ValueError, match=message):
        make_off_policy(env, algorithm)


@pytest.mark.parametrize("algorithm", VALUE_BASED)
def test_value_based_algorithms_run_on_checkers(algorithm: str, tmp_path: Path) -> None:
    check_off_policy("checkers_v0", algorithm, tmp_path)


@pytest.mark.e2e
def test_matrl_runs_on_the_hopper(tmp_path: Path) -> None:
    pytest.importorskip("gymnasium_robotics")
    check("hopper_3x1", "matrl", "PPO", tmp_path)
