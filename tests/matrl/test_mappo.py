"""MATRL with central critics: equal to SB3 where the state is the observation; resume, files, errors, what it is good for."""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from pettingzoo import ParallelEnv
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, PPO

from sb3_matrl import MATRL
from sb3_matrl.common.frozen import FrozenAgent
from sb3_matrl.on_policy.batch import agent_batch
from sb3_matrl.vec_env import make_joint_vec_env
from tests.cartpole import CartPoleParallelEnv
from tests.files.hostile import WRONG, Members, changed_document, read_members, write_members
from tests.matrl.test_backends import build, parameters
from tests.matrl.test_equals_sb3 import COMMON, assert_same_learner, single_agent
from tests.matrl.test_exact_resume import SaveAfter, assert_same
from tests.on_policy.test_critic_states import alike
from tests.stacked.backends import require_kernel
from tests.vec_env import toys
from tests.vec_env.toys import ToyEnv

OFF: dict[str, Any] = {"metagame": False, "best_response": False}
central = partial(build, critic="central")


class CartPoleWithState(CartPoleParallelEnv):
    """The state is the observation."""

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        observations, infos = super().reset(seed, options)
        self._seen = observations["agent_0"]
        return observations, infos

    def step(self, actions: dict[str, Any]) -> Any:
        result = super().step(actions)
        self._seen = result[0]["agent_0"]
        return result

    def state(self) -> np.ndarray:
        return np.array(self._seen)


# ---------------------------------------------------------------- equal to SB3


@pytest.mark.cases(quick=["None-observations"])
@pytest.mark.parametrize(
    ("max_episode_steps", "state"),
    list(product([None, 12], ["env", "observations"])),
)
def test_one_agent_that_sees_the_state_equals_ppo_bit_for_bit(max_episode_steps: int | None, state: str) -> None:
    kwargs = {**COMMON, "n_epochs": 4, "batch_size": 32, "ent_coef": 0.01}
    factory = partial(CartPoleWithState, max_episode_steps)
    ours = MATRL("MlpPolicy", factory, n_envs=2, critic="central", state=state, **OFF, **kwargs)
    seeds = list(ours.env._seeds)  # type: ignore[union-attr]
    ours.learn(3 * 64 * 2)
    theirs = single_agent(PPO, 2, max_episode_steps, seeds, **kwargs)
    theirs.learn(3 * 64 * 2)
    assert_same_learner(ours.agents["agent_0"], theirs)


MORE: dict[str, dict[str, Any]] = {
    "A2C": {"learner_class": A2C},
    "RecurrentPPO": {"policy": "MlpLstmPolicy", "learner_class": RecurrentPPO, "batch_size": 32, "n_epochs": 2},
    "normalised": {"norm_obs": True, "norm_reward": True, "batch_size": 32, "n_epochs": 2},
    "best response": {"best_response": True, "batch_size": 32, "n_epochs": 2},
}


@pytest.mark.cases(
    quick=["A2C-env", "normalised-env", "best response-env"], e2e=["best response-observations"], rest="expensive"
)
@pytest.mark.parametrize("state", ["env", "observations"])
@pytest.mark.parametrize("case", MORE)
def test_one_agent_is_the_same_with_either_critic(case: str, state: str) -> None:
    kwargs = {"policy": "MlpPolicy", **COMMON, **OFF, "n_envs": 2, "n_steps": 16, **MORE[case]}
    kwargs["policy_kwargs"] = {"net_arch": [8], **({"lstm_hidden_size": 8} if case == "RecurrentPPO" else {})}
    factory = partial(CartPoleWithState, 12)
    with_own = MATRL(env=factory, **kwargs).learn(96)
    with_central = MATRL(env=factory, critic="central", state=state, **kwargs).learn(96)
    assert_same(with_central, with_own)


# ---------------------------------------------------------------- stacks, resume, files


@pytest.mark.cases(expensive=["torch-MaskablePPO", "native-PPO"])
@pytest.mark.parametrize("learner_class", [PPO, MaskablePPO])
@pytest.mark.parametrize("backend", ["torch", "native"])
def test_stacked_updates_equal_sb3s(backend: str, learner_class: type) -> None:
    require_kernel(backend)
    env_kwargs = {"env": "switch_v0", "env_kwargs": {"n_agents": 3}, "share": {"two": ["agent_0", "agent_2"]}}
    models = [central(**env_kwargs, learner_class=learner_class, backend=each) for each in ("sb3", backend)]
    before = parameters(models[0])
    for model in models:
        model.learn(0)
    reference, stacked = models
    assert stacked.coordinator.joint.stacks and reference.collect_rollouts(reference._init_callback(None))
    for name, learner in stacked.learners.items():
        source, target = reference.learners[name].rollout_buffer, learner.rollout_buffer
        for key, value in vars(source).items():
            if isinstance(value, np.ndarray):
                setattr(target, key, value.copy())
        target.pos, target.full = source.pos, True
    for model in models:
        np.random.seed(3)
        model.coordinator.rng = np.random.default_rng(3)
        model.train(60)
    for ours, theirs, old in zip(parameters(stacked), parameters(reference), before, strict=True):
        th.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        assert not th.equal(theirs, old)


RESUMED: dict[str, dict[str, Any]] = {
    "env": {"env": "switch_v0", "env_kwargs": {"n_agents": 3}, "state": "env"},
    "observations": {"env": "switch_v0", "env_kwargs": {"n_agents": 3}, "state": "observations"},
    "normalised": {"env": "checkers_v0", "norm_obs": True, "norm_reward": True},
    "normalised observations": {"env": "checkers_v0", "state": "observations", "norm_obs": True},
    "shared": {"env": "checkers_v0", "share": {"both": ["agent_0", "agent_1"]}},
}


@pytest.mark.cases(quick=["env-auto"], e2e=["normalised-auto"], rest="expensive")
@pytest.mark.parametrize(
    ("case", "backend"),
    list(product(RESUMED, ["sb3", "auto"])),
)
def test_a_resumed_training_is_the_one_that_never_stopped(case: str, backend: str, tmp_path: Path) -> None:
    arguments = {**RESUMED[case], "backend": backend}
    whole = central(**arguments).learn(180)
    stopped = central(**arguments).learn(180, callback=SaveAfter(100, tmp_path / "half"))
    th.manual_seed(99)
    np.random.seed(99)
    resumed = MATRL.load(tmp_path / "half", env=arguments["env"], device="cpu")
    resumed.learn(180 - stopped.resumable_timesteps, reset_num_timesteps=False)
    assert_same(resumed, whole)


def test_a_model_acts_from_observations_with_and_without_an_env(tmp_path: Path) -> None:
    model = central().learn(60)
    model.save(tmp_path / "model")
    observations = make_joint_vec_env("checkers_v0", 4, seed=2).reset()
    expected = model.predict(observations, deterministic=True)[0]
    for env in (None, "checkers_v0"):
        loaded = MATRL.load(tmp_path / "model", env=env, device="cpu")
        assert loaded.state_space == model.state_space and loaded.state_space is not None
        for agent, actions in loaded.predict(observations, deterministic=True)[0].items():
            np.testing.assert_array_equal(actions, expected[agent])
    model.agents["agent_1"].save(tmp_path / "agent")
    alone = PPO.load(tmp_path / "agent", device="cpu")
    np.testing.assert_array_equal(alone.predict(observations["agent_1"], deterministic=True)[0], expected["agent_1"])


def test_a_frozen_agent_may_have_a_central_critic(tmp_path: Path) -> None:
    central().learn(60).save(tmp_path / "old")
    model = central(frozen={"agent_1": str(tmp_path / "old")}, state="observations").learn(60)
    model.save(tmp_path / "new")
    loaded = MATRL.load(tmp_path / "new", device="cpu")
    frozen, observations = loaded.team.frozen["agent_1"], make_joint_vec_env("checkers_v0", 4, seed=2).reset()
    assert isinstance(frozen, FrozenAgent) and frozen.policy.state_size == 97
    old = MATRL.load(tmp_path / "old", device="cpu").predict(observations, deterministic=True)[0]
    np.testing.assert_array_equal(loaded.predict(observations, deterministic=True)[0]["agent_1"], old["agent_1"])


def test_what_auto_found_stays_so_after_loading(tmp_path: Path) -> None:
    without = {"env": toys.plain, "vec_env": "dummy", "n_steps": 8}
    given = make_joint_vec_env(toys.plain, 3, vec_env="dummy")  # made without states
    model = central(given, n_steps=8).learn(24)
    assert model.state_space is None
    model.save(tmp_path / "model")
    loaded = MATRL.load(tmp_path / "model", env=toys.plain, device="cpu")
    assert loaded.state_space is None and not loaded.env.with_states  # type: ignore[union-attr]
    loaded.learn(24, reset_num_timesteps=False)
    assert central(**without).state_space is not None


# ---------------------------------------------------------------- rows of dead agents


@pytest.mark.cases(expensive=["sb3"])
@pytest.mark.parametrize("backend", ["sb3", "torch", "native"])
def test_what_critics_see_in_rows_of_dead_agents_changes_nothing(backend: str) -> None:
    require_kernel(backend)
    updated = []
    for poison in (False, True):
        model = central(alike, n_steps=10, backend=backend)
        model.learn(0)
        assert model.collect_rollouts(model._init_callback(None))
        buffers: list[Any] = [learner.rollout_buffer for learner in model.learners.values()]
        assert sum(not buffer.mask.all() for buffer in buffers) == 2
        for buffer in buffers if poison else []:
            buffer.states[~buffer.mask] = np.nan
        model.train(30)
        updated.append(parameters(model))
    assert all(map(th.equal, *updated))
    assert all(bool(th.isfinite(one).all()) for one in updated[1])


# ---------------------------------------------------------------- bad input


class Stateless(ToyEnv):
    """Its state() is PettingZoo's, which raises."""

    state = ParallelEnv.state


def stateless() -> ToyEnv:
    model = toys.plain()
    return Stateless(model._observation_spaces, model._action_spaces, model.ends)


def pictures() -> ToyEnv:
    names = ["a", "b"]
    picture = dict.fromkeys(names, spaces.Box(0, 255, (36, 36, 3), np.uint8))
    return ToyEnv(picture, dict.fromkeys(names, spaces.Discrete(2)), dict.fromkeys(names, (4, "terminated")))


def test_an_env_without_a_state() -> None:
    with pytest.raises(ValueError, match=r"has no state.*state='observations'"):
        central(stateless, state="env")
    assert central(stateless).learn(60).state_space is None


def test_a_joint_vec_env_made_without_states() -> None:
    env = make_joint_vec_env("checkers_v0", 3)
    with pytest.raises(ValueError, match="states=True"):
        central(env, state="env")
    model = central(make_joint_vec_env("checkers_v0", 3, states=True)).learn(60)
    assert model.state_space == env.state_space
    with pytest.raises(ValueError, match=r"the model reads the env's states: make the JointVecEnv.*states=True"):
        model.set_env(env)


HUGE = {"type": "Box", "low": 0.0, "high": 1.0, "shape": [2**40], "dtype": "float32"}
OTHER = {**HUGE, "shape": [5]}


@pytest.mark.parametrize("state_space", [*WRONG, HUGE, OTHER, {**OTHER, "shape": [97, 1]}], ids=lambda value: str(value)[:30])
def test_a_damaged_state_space_is_an_error_of_the_file(state_space: Any, saved_members: Members, tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        assert document["state_space"]["shape"] == [97]
        document["state_space"] = state_space

    write_members(tmp_path / "damaged.zip", changed_document(saved_members, change))
    with pytest.raises(ValueError, match="damaged"):
        MATRL.load(tmp_path / "damaged", device="cpu")


@pytest.fixture(scope="module")
def saved_members(tmp_path_factory: pytest.TempPathFactory) -> Members:
    path = tmp_path_factory.mktemp("model") / "model.zip"
    central().save(path)
    return read_members(path)


def test_pictures_are_no_joint_observations() -> None:
    with pytest.raises(ValueError, match="cannot take images"):
        MATRL("CnnPolicy", pictures, critic="central", state="observations")


@pytest.mark.parametrize(
    ("arguments", "message"), [({"critic": "centre"}, "did you mean 'central'"), ({"state": "obs"}, "state")]
)
def test_unknown_words(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**{"critic": "central", **arguments})


# ---------------------------------------------------------------- what it is good for


class Weather(ParallelEnv):
    """Everybody is paid what the weather, which nobody sees, is at the moment: only the state tells how good that will be."""

    metadata = {"name": "weather", "render_modes": []}  # noqa: RUF012
    render_mode = None
    state_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self) -> None:
        self.possible_agents = ["a", "b"]
        self.agents: list[str] = []
        self.rng = np.random.default_rng(0)

    def observation_space(self, agent: str) -> Any:
        return spaces.Box(-1, 1, (1,), np.float32)

    def action_space(self, agent: str) -> Any:
        return spaces.Discrete(2)

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.agents, self.weather = list(self.possible_agents), float(self.rng.choice([-1.0, 1.0]))
        return self._by_agent(np.zeros(1, np.float32)), self._by_agent({})

    def step(self, actions: dict[str, Any]) -> Any:
        told = [np.zeros(1, np.float32), self.weather, True, False, {}]
        result = tuple(map(self._by_agent, told))
        self.agents = []
        return result

    def _by_agent(self, value: Any) -> dict[str, Any]:
        return dict.fromkeys(self.possible_agents, value)

    def state(self) -> np.ndarray:
        return np.array([self.weather], np.float32)


@pytest.mark.e2e
def test_a_central_critic_knows_what_no_agent_sees() -> None:
    errors = {}
    for critic in ("own", "central"):
        model = build(Weather, critic=critic, **OFF, learning_rate=0.01, n_steps=32, batch_size=32, n_epochs=8).learn(960)
        batch = agent_batch(model.learners["a"])
        errors[critic] = float((batch.returns - batch.old_values).square().mean())
    assert errors["own"] > 0.9 and errors["central"] < 0.05
