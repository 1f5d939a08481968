"""Learners are unmodified SB3 algorithms that get exactly the arguments they take."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import TRPO, MaskablePPO, RecurrentPPO
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer
from sb3_contrib.common.recurrent.buffers import RecurrentRolloutBuffer
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.env_util import make_vec_env

from sb3_matrl.common.agents import SpacesVecEnv
from sb3_matrl.common.arguments import per_agent
from sb3_matrl.common.space_checks import check_space
from sb3_matrl.on_policy.buffers import install_masked_buffer
from sb3_matrl.on_policy.learners import accepted_arguments, build_learner

AGENTS = ["alice", "bob"]
OBSERVATIONS, ACTIONS = spaces.Box(-1, 1, (3,), np.float32), spaces.Discrete(2)
ARGUMENTS = {"n_steps": 4, "device": "cpu"}


def spaces_of_agent(observations=OBSERVATIONS, actions=ACTIONS):
    return SpacesVecEnv(2, observations, actions)


# ---------------------------------------------------------------- one value per agent


def test_one_value_serves_all_agents():
    assert per_agent("gamma", 0.9, AGENTS) == {"alice": 0.9, "bob": 0.9}
    assert per_agent("clip_range_vf", None, AGENTS) == {"alice": None, "bob": None}


def test_a_dict_by_agent_is_put_in_the_agents_order():
    assert list(per_agent("gamma", {"bob": 2, "alice": 1}, AGENTS).items()) == [("alice", 1), ("bob", 2)]


@pytest.mark.parametrize("name", ["policy_kwargs", "learner_kwargs", "rollout_buffer_kwargs"])
def test_a_dict_argument_is_per_agent_only_if_its_keys_are_agents(name):
    value = {"net_arch": [8]}
    assert per_agent(name, value, AGENTS) == {"alice": value, "bob": value}
    assert per_agent(name, {}, AGENTS) == {"alice": {}, "bob": {}}
    assert per_agent(name, {"alice": value, "bob": None}, AGENTS) == {"alice": value, "bob": None}
    with pytest.raises(ValueError, match=f"{name} as a dict needs exactly the keys alice, bob: missing bob$"):
        per_agent(name, {"alice": value}, AGENTS)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"alice": 1}, "missing bob"),
        ({}, "missing alice, bob"),
        ({"alice": 1, "bob": 2, "carol": 3}, "unknown carol"),
        ({"alice": 1, "bub": 2}, "missing bob; unknown bub; did you mean 'bob'?"),
        ({"alice": 1, "bob": 2, 7: 3}, "unknown 7"),
    ],
)
def test_a_dict_with_other_keys_is_an_error_that_names_them(value, problem):
    with pytest.raises(ValueError) as caught:
        per_agent("gamma", value, AGENTS)
    assert str(caught.value) == f"gamma as a dict needs exactly the keys alice, bob: {problem}"


# ---------------------------------------------------------------- the environment of one agent


def test_an_agent_s_environment_has_spaces_and_copies():
    env = spaces_of_agent()
    assert (env.num_envs, env.observation_space, env.action_space) == (2, OBSERVATIONS, ACTIONS)
    assert env.get_attr("render_mode") == [None, None]
    assert env.get_attr("num_envs", indices=0) == [2]
    assert env.env_is_wrapped(object) == [False, False]
    assert env.env_is_wrapped(object, indices=[1]) == [False]


@pytest.mark.parametrize(
    "use",
    [
        lambda env: env.reset(),
        lambda env: env.step(np.zeros(2, int)),
        lambda env: env.step_wait(),
        lambda env: env.set_attr("speed", 1),
        lambda env: env.env_method("jump"),
    ],
)
def test_an_agent_s_environment_cannot_be_stepped(use):
    env = spaces_of_agent()
    with pytest.raises(RuntimeError, match=r"cannot step the joint environment alone: call learn\(\)"):
        use(env)
    env.close()


# ---------------------------------------------------------------- building


@pytest.mark.parametrize("learner_class", [PPO, A2C, TRPO])
def test_a_learner_is_the_sb3_algorithm_itself(learner_class):
    arguments = ARGUMENTS | {"batch_size": 8, "gamma": 0.5}
    learner = build_learner(learner_class, "MlpPolicy", spaces_of_agent(), arguments, None)
    assert type(learner) is learner_class
    assert type(learner.rollout_buffer) is RolloutBuffer
    assert (learner.n_steps, learner.n_envs, learner.gamma, learner.rollout_buffer.gamma) == (4, 2, 0.5, 0.5)
    th.manual_seed(0)
    ours = build_learner(learner_class, "MlpPolicy", spaces_of_agent(), ARGUMENTS | {"batch_size": 8}, None)
    th.manual_seed(0)
    batch_size = {} if learner_class is A2C else {"batch_size": 8}
    theirs = learner_class("MlpPolicy", spaces_of_agent(), **ARGUMENTS, **batch_size)
    for name, value in theirs.policy.state_dict().items():
        assert th.equal(ours.policy.state_dict()[name], value), name


def test_arguments_that_a_class_lacks_and_none_are_left_out():
    arguments = ARGUMENTS | {"n_epochs": 3, "clip_range": 0.1, "target_kl": None, "gae_lambda": None}
    trpo = build_learner(TRPO, "MlpPolicy", spaces_of_agent(), arguments | {"batch_size": 8}, None)
    assert not hasattr(trpo, "n_epochs") and not hasattr(trpo, "clip_range")
    own = TRPO("MlpPolicy", spaces_of_agent(), **ARGUMENTS, batch_size=8)
    assert (trpo.target_kl, trpo.gae_lambda) == (own.target_kl, own.gae_lambda)


def test_a_class_s_own_arguments_win():
    arguments = ARGUMENTS | {"batch_size": 8, "gamma": 0.5}
    trpo = build_learner(TRPO, "MlpPolicy", spaces_of_agent(), arguments, {"cg_max_steps": 3, "gamma": 0.25})
    assert (trpo.cg_max_steps, trpo.gamma) == (3, 0.25)


def test_unknown_arguments_of_a_class_are_errors():
    with pytest.raises(
        ValueError, match=r"learner_kwargs: TRPO takes no argument 'cg_max_step'; did you mean 'cg_max_steps'\?"
    ):
        build_learner(TRPO, "MlpPolicy", spaces_of_agent(), ARGUMENTS, {"cg_max_step": 3})


@pytest.mark.parametrize("name", ["policy", "env"])
def test_what_is_given_elsewhere_is_no_argument_of_a_class(name):
    with pytest.raises(ValueError, match=f"learner_kwargs: PPO takes no argument '{name}'"):
        build_learner(PPO, "MlpPolicy", spaces_of_agent(), ARGUMENTS, {name: None})


class Passing(PPO):
    """Passes what it does not know on to PPO."""

    def __init__(self, *args, flavour="plain", **kwargs):
        super().__init__(*args, **kwargs)
        self.flavour = flavour


class Silent(Passing):
    """Has no constructor of its own."""


class Closed(PPO):
    """Takes these arguments alone."""

    def __init__(self, policy, env, learning_rate=0.5):
        super().__init__(policy, env, learning_rate, n_steps=4, batch_size=8, device="cpu")


def test_arguments_that_a_subclass_passes_on_are_accepted():
    for cls in (Passing, Silent):
        assert accepted_arguments(cls) == accepted_arguments(PPO) | {"flavour"}
        learner = build_learner(cls, "MlpPolicy", spaces_of_agent(), ARGUMENTS | {"batch_size": 8}, {"flavour": "mint"})
        assert (learner.n_steps, learner.batch_size, learner.flavour) == (4, 8, "mint")
    assert accepted_arguments(Closed) == {"learning_rate"}
    assert build_learner(Closed, "MlpPolicy", spaces_of_agent(), ARGUMENTS | {"learning_rate": 0.1}, None).learning_rate == 0.1


@pytest.mark.parametrize("learner_class", [DQN, "PPO", PPO("MlpPolicy", make_vec_env("CartPole-v1"), device="cpu"), object])
def test_only_on_policy_algorithms_are_learners(learner_class):
    with pytest.raises(TypeError, match="learner_class must be an SB3 on-policy algorithm"):
        build_learner(learner_class, "MlpPolicy", spaces_of_agent(), {}, None)


@pytest.mark.parametrize(
    ("learner_class", "policy", "buffer_class"),
    [(RecurrentPPO, "MlpLstmPolicy", RecurrentRolloutBuffer), (MaskablePPO, "MlpPolicy", MaskableRolloutBuffer)],
)
def test_recurrent_and_masking_learners_keep_their_buffers_settings(learner_class, policy, buffer_class):
    arguments = ARGUMENTS | {"batch_size": 8, "gamma": 0.5, "gae_lambda": 0.25}
    learner = build_learner(learner_class, policy, spaces_of_agent(), arguments, None)
    before = learner.rollout_buffer
    assert type(before) is buffer_class
    install_masked_buffer(learner)
    after = learner.rollout_buffer
    assert after is not before and isinstance(after, buffer_class) and after.mask.shape == (4, 2)
    kept = ("buffer_size", "n_envs", "gamma", "gae_lambda", "observation_space", "action_space")
    kept += ("hidden_state_shape",) if learner_class is RecurrentPPO else ("mask_dims",)
    assert {name: getattr(after, name) for name in kept} == {name: getattr(before, name) for name in kept}


# ---------------------------------------------------------------- spaces

SHIFTED = [
    spaces.Discrete(3, start=1),
    spaces.MultiDiscrete([2, 3], start=[0, -1]),
    spaces.Dict({"x": spaces.Box(-1, 1, (1,)), "k": spaces.Discrete(2, start=5)}),
]


@pytest.mark.parametrize("space", SHIFTED)
def test_discrete_spaces_must_start_at_zero(space):
    with pytest.raises(ValueError, match="SB3 wants discrete spaces that start at 0, not the observation space"):
        check_space(space, "observation")
    with pytest.raises(ValueError, match="not the observation space"):
        build_learner(PPO, "MlpPolicy", spaces_of_agent(observations=space), ARGUMENTS, None)


def test_shifted_actions_are_refused_too():
    with pytest.raises(ValueError, match=r"not the action space Discrete\(3, start=1\): wrap the env to shift it"):
        build_learner(PPO, "MlpPolicy", spaces_of_agent(actions=SHIFTED[0]), ARGUMENTS, None)


def test_what_sb3_asserts_becomes_an_error_that_says_which_spaces():
    with pytest.raises(ValueError, match=r"PPO cannot use these spaces or arguments \(observations Box.*, actions Tuple"):
        build_learner(PPO, "MlpPolicy", spaces_of_agent(actions=spaces.Tuple([ACTIONS])), ARGUMENTS, None)
