"""Environments that a model is loaded with or moved to: objects, factories without arguments, other orders of the agents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.vec_env import VecEnv

from sb3_matrl import MATRL
from sb3_matrl.vec_env import make_joint_vec_env
from tests.vec_env import toys

NAMES = ("ann", "bea", "cid")
SMALL: dict[str, Any] = {"n_envs": 2, "n_steps": 8, "batch_size": 16, "n_epochs": 1, "br_n_epochs": 1, "seed": 0}
SMALL |= {"device": "cpu", "policy_kwargs": {"net_arch": [8]}}


class Crew(toys.ToyEnv):
    """Agents in a given order; each sees only its own number, and is rewarded for it."""

    def __init__(self, names: Any = NAMES, length: int = 4, width: int = 2) -> None:
        view = spaces.Box(-9, 9, (width,), np.float32)
        action = {name: spaces.Box(-1, 1, (1,), np.float32) for name in names}
        super().__init__(dict.fromkeys(names, view), action, {name: (length, "terminated") for name in names}, jitter=0)

    def _observe(self, agents: Any) -> Any:
        return {agent: np.full(self.observation_space(agent).shape, NAMES.index(agent), np.float32) for agent in agents}

    def step(self, actions: Any) -> Any:
        observations, _, *rest = super().step(actions)
        return observations, {agent: float(NAMES.index(agent)) for agent in actions}, *rest


def saved(tmp_path: Path, env: Any = Crew, **kwargs: Any) -> Path:
    path = tmp_path / "model.zip"
    MATRL(kwargs.pop("policy", "MlpPolicy"), env, **{**SMALL, **kwargs}).learn(16).save(path)
    return path


WAYS: dict[str, Any] = {
    "an object": lambda path: MATRL.load(path, env=Crew(length=3)),
    "a factory without arguments": lambda path: MATRL.load(path, env=lambda: Crew(length=3)),
    "a factory with arguments": lambda path: MATRL.load(path, env=Crew),
    "a JointVecEnv": lambda path: MATRL.load(path, env=make_joint_vec_env(Crew, n_envs=2)),
    "an object, later": lambda path: moved(MATRL.load(path), Crew(length=5)),
    "a factory, later": lambda path: moved(MATRL.load(path), lambda: Crew(length=5)),
    "a JointVecEnv, later": lambda path: moved(MATRL.load(path), make_joint_vec_env(Crew, n_envs=2)),
}


def moved(model: MATRL, env: Any) -> MATRL:
    model.set_env(env)
    return model


@pytest.mark.cases(quick=["a factory with arguments"])
@pytest.mark.parametrize("way", WAYS)
def test_the_saved_env_kwargs_are_only_for_factories_that_take_arguments(way: str, tmp_path: Path) -> None:
    path = saved(tmp_path, env_kwargs={"length": 4})
    model = WAYS[way](path).learn(16, reset_num_timesteps=False)
    assert model.num_timesteps == 32
    model.save(path)
    assert MATRL.load(path, env=Crew).arguments["env_kwargs"] == {"length": 4}


def test_env_kwargs_given_with_an_object_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"env_kwargs \['length'\] need a factory"):
        MATRL.load(saved(tmp_path), env=Crew(), env_kwargs={"length": 4})
    with pytest.raises(ValueError, match=r"env_kwargs \['length'\] need a factory"):
        MATRL("MlpPolicy", Crew(), env_kwargs={"length": 4}, **SMALL)


@pytest.mark.cases(quick=["order0-dummy"])
@pytest.mark.parametrize("vec_env", ["dummy", "subproc"])
@pytest.mark.parametrize("order", [("bea", "cid", "ann"), ("cid", "bea", "ann")])
def test_agents_in_another_order_are_matched_by_name(order: tuple[str, ...], vec_env: str, tmp_path: Path) -> None:
    share = {"share": {"pair": ["ann", "cid"]}, "norm_obs": {"pair": True, "bea": False}}
    path = saved(tmp_path, **share)
    loaded = MATRL.load(path, env=lambda: Crew(order), vec_env=vec_env)
    for name, parameters in MATRL.load(path).get_parameters().items():
        for key, value in parameters["policy"].items():
            assert th.equal(loaded.get_parameters()[name]["policy"][key], value)
    loaded.learn(32, reset_num_timesteps=False)
    for name, members in (("pair", ("ann", "cid")), ("bea", ("bea",))):
        buffer: Any = loaded.learners[name].rollout_buffer
        numbers = np.repeat([NAMES.index(member) for member in members], 2)
        rewards = buffer.rewards.reshape(-1, len(numbers)) if not buffer.generator_ready else buffer.rewards
        assert np.array_equal(rewards, np.broadcast_to(numbers, rewards.shape))
    assert all(info["agents"] == {"ann": 0.0, "bea": 4.0, "cid": 8.0} for info in loaded.ep_info_buffer)  # type: ignore[union-attr]
    assert isinstance(loaded.env, VecEnv)
    loaded.env.close()


@pytest.mark.e2e
def test_another_order_after_set_env_is_saved_and_loaded_by_name(tmp_path: Path) -> None:
    path = saved(tmp_path, policy="MlpLstmPolicy", learner_class=RecurrentPPO, policy_kwargs={"lstm_hidden_size": 4})
    model = moved(MATRL.load(path), lambda: Crew(("cid", "ann", "bea"))).learn(16, reset_num_timesteps=False)
    model.save(path)
    again = MATRL.load(path, env=lambda: Crew(("bea", "cid", "ann")))
    assert list(again.learners) == list(NAMES)
    again.learn(16, reset_num_timesteps=False)


def test_a_snapshot_is_not_written_or_read_in_another_order(capsys: pytest.CaptureFixture[str]) -> None:
    """Its columns are those of the env's agents."""
    model = MATRL("MlpPolicy", "checkers_v0", **SMALL, verbose=1).learn(16)
    state = model._capture_state()
    assert state.env is not None
    model.env.agents.reverse()  # type: ignore[union-attr]
    assert model._capture_state().env is None
    model._restore_state(state)
    assert "training resumes with new episodes" in capsys.readouterr().out
    assert model.position.episode_starts.all()


def test_other_agents_are_still_another_environment(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the env's agents are .*, the model's .*: it is another environment"):
        MATRL.load(saved(tmp_path), env=lambda: Crew(("ann", "bea")))
    with pytest.raises(ValueError, match="ann's observation space is"):
        MATRL.load(saved(tmp_path), env=lambda: Crew(("bea", "cid", "ann"), width=3))
