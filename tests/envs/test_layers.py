"""What is found inside wrappers, also behind PettingZoo's conversions."""

import pytest
import supersuit
from mpe2 import simple_spread_v3
from pettingzoo.utils import BaseParallelWrapper
from pettingzoo.utils.conversions import aec_to_parallel, aec_to_parallel_wrapper, parallel_to_aec_wrapper

from sb3_matrl.envs import make_env
from sb3_matrl.envs.layers import conversion_that_hides, layers, require_current_observations
from sb3_matrl.envs.turns import TurnBasedParallelEnv
from sb3_matrl.vec_env import make_joint_vec_env
from tests.vec_env import toys
from tests.vec_env.turn_toys import TurnGame


def converted_twice(env):
    return aec_to_parallel_wrapper(parallel_to_aec_wrapper(env))


def simultaneous(env):
    """A wrapper of one's own that plays all turns at once, and forwards nothing."""
    own = toys.plain()
    own.env = env
    return own


def test_layers_go_through_conversions():
    env = toys.plain()
    kinds = [type(layer) for layer in layers(converted_twice(env))]
    assert kinds == [aec_to_parallel_wrapper, parallel_to_aec_wrapper, toys.ToyEnv]
    assert list(layers(supersuit.clip_reward_v0(env)))[-1] is env
    assert list(layers(env)) == [env]


@pytest.mark.parametrize(
    ("wrap", "hidden"),
    [
        (lambda env: env, False),
        (BaseParallelWrapper, False),
        (converted_twice, True),
        (lambda env: BaseParallelWrapper(converted_twice(env)), True),
        (supersuit.clip_reward_v0, True),
        (lambda env: simultaneous(converted_twice(env)), False),
    ],
)
def test_turns_that_a_conversion_hides_are_found(wrap, hidden):
    env = wrap(TurnBasedParallelEnv(TurnGame()))
    assert (conversion_that_hides(env, "acting_agents") is not None) == hidden


def test_an_env_without_turns_hides_none():
    assert conversion_that_hides(converted_twice(toys.plain()), "acting_agents") is None


STACK = {"supersuit.frame_stack_v1": {"stack_size": 2}}


def test_a_stack_of_an_aec_env_would_be_old():
    """The fault of SuperSuit itself: all agents but the first see zeros after the reset."""
    env = aec_to_parallel(supersuit.frame_stack_v1(simple_spread_v3.env(), 2))
    observations, _ = env.reset(seed=0)
    assert observations["agent_0"].any() and not observations["agent_1"].any()


@pytest.mark.parametrize(
    "make",
    [
        lambda: aec_to_parallel(supersuit.frame_stack_v1(simple_spread_v3.env(), 2)),
        lambda: supersuit.black_death_v3(aec_to_parallel(supersuit.frame_stack_v1(simple_spread_v3.env(), 2))),
        lambda: make_env(simple_spread_v3.env, env_wrapper=STACK),
    ],
)
def test_old_observations_are_an_error(make):
    with pytest.raises(ValueError, match=r"FrameStackModifier is around an AECEnv .* put the wrapper around the ParallelEnv"):
        require_current_observations(make())
    with pytest.raises(ValueError, match="FrameStackModifier is around an AECEnv"):
        make_joint_vec_env(make, 2)


@pytest.mark.parametrize(
    "make",
    [
        lambda: make_env(simple_spread_v3.parallel_env, env_wrapper=STACK),
        lambda: supersuit.clip_reward_v0(supersuit.frame_stack_v1(simple_spread_v3.parallel_env(), 2)),
        lambda: TurnBasedParallelEnv(supersuit.frame_stack_v1(TurnGame(), 2)),
    ],
)
def test_current_observations_are_accepted(make):
    require_current_observations(make())
