import numpy as np
import pytest
from stable_baselines3 import PPO

from sb3_matrl import MATRL
from sb3_matrl.envs import matrix_game_v0, switch_v0
from sb3_matrl.evaluation import MixedPolicy, Player, RandomPolicy, evaluate_policy
from sb3_matrl.vec_env import make_joint_vec_env


def untrained(seed, env=switch_v0.parallel_env, **env_kwargs):
    return MATRL("MlpPolicy", env, n_steps=8, batch_size=8, seed=seed, device="cpu", env_kwargs=env_kwargs)


class Counter:
    """Every agent plays how often it has been asked; its state is that number."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        ((agent, _),) = observation.items()
        count = 0 if state is None else state[agent]
        return {agent: np.array(count)}, {agent: count + 1}


@pytest.fixture(scope="module")
def env():
    made = make_joint_vec_env("switch_v0", n_envs=3, env_kwargs={"n_agents": 2})
    yield made
    made.close()


@pytest.mark.cases(e2e=["False"])
@pytest.mark.parametrize("deterministic", [True, False])
def test_agents_of_one_model_play_as_the_model_itself(env, deterministic):
    model = untrained(0, n_agents=2)
    mixed = MixedPolicy({agent: Player(model, agent) for agent in model.agents})
    ours, theirs = (evaluate_policy(policy, env, 6, deterministic=deterministic, seed=1) for policy in (mixed, model))
    np.testing.assert_array_equal(ours.agent_returns, theirs.agent_returns)
    np.testing.assert_array_equal(ours.lengths, theirs.lengths)


def test_every_agent_acts_as_its_player_would():
    here, there = untrained(0, n_agents=2), untrained(1, n_agents=2)
    mixed = MixedPolicy({"agent_0": Player(here, "agent_1"), "agent_1": Player(there, "agent_1")})
    observations = {agent: np.random.default_rng(0).random((50, 2), np.float32) for agent in ("agent_0", "agent_1")}
    actions, state = mixed.predict(observations, deterministic=True)
    for agent, model in (("agent_0", here), ("agent_1", there)):
        expected, _ = model.agents["agent_1"].predict(observations[agent], deterministic=True)
        np.testing.assert_array_equal(actions[agent], expected)
    # The three policies differ, so that the wrong one would be noticed.
    other, _ = here.agents["agent_0"].predict(observations["agent_0"], deterministic=True)
    assert (other != actions["agent_0"]).any() and (actions["agent_0"] != actions["agent_1"]).any()
    assert state is None


def test_only_agents_that_are_to_act_are_asked():
    model = untrained(0, n_agents=2)
    mixed = MixedPolicy({agent: Player(model, agent) for agent in model.agents})
    actions, _ = mixed.predict({"agent_1": np.zeros(2, np.float32)})
    assert list(actions) == ["agent_1"] and actions["agent_1"].shape == ()


def test_states_go_back_to_the_models_they_came_from():
    chance = RandomPolicy(*make_spaces(), seed=0)
    mixed = MixedPolicy({"a": Player(Counter(), "x"), "b": Player(Counter(), "x"), "c": Player(chance, "agent_0")})
    zero = np.zeros(1, np.float32)
    _, state = mixed.predict({"b": zero, "c": zero})
    actions, state = mixed.predict({"a": zero, "b": zero, "c": zero}, state)
    assert (actions["a"], actions["b"]) == (0, 1)
    assert state == {"a": {"x": 1}, "b": {"x": 2}, "c": None}


def make_spaces():
    env = matrix_game_v0.parallel_env()
    agents = env.possible_agents
    return {agent: env.observation_space(agent) for agent in agents}, {agent: env.action_space(agent) for agent in agents}


def test_what_is_no_player_is_told():
    single = PPO("MlpPolicy", "CartPole-v1", device="cpu")
    with pytest.raises(TypeError, match=r"'agent_0' needs a Player\(model, agent of that model\), got a Counter"):
        MixedPolicy({"agent_0": Counter()})
    with pytest.raises(TypeError, match="expected a model that plays all agents, got a PPO"):
        MixedPolicy({"agent_0": Player(single, "agent_0")})


def test_an_agent_without_player_is_told():
    mixed = MixedPolicy({"agent_0": Player(Counter(), "x")})
    with pytest.raises(ValueError, match=r"agent 'agent_O' is unknown; did you mean 'agent_0'\?"):
        mixed.predict({"agent_O": np.zeros(2)})
