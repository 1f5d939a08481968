"""What environments say about the best possible team return is what their best plays get."""

import itertools

import numpy as np
import pytest

from sb3_matrl.envs import checkers_v0, matrix_game_v0, stag_hunt_v0, switch_v0
from tests.envs.comparison import play
from tests.envs.test_checkers_v0 import OPTIMUM
from tests.envs.test_switch_v0 import OPTIMA


@pytest.mark.parametrize("options", [{}, {"max_cycles": 37}, {"team_reward": True}, {"clock": True, "observation": "codes"}])
def test_checkers(options):
    env = checkers_v0.parallel_env(**options)
    assert env.best_team_return == pytest.approx(play(env, OPTIMUM)[0])


@pytest.mark.parametrize(
    "options", [{"step_cost": -0.02}, {"apple_rewards": [10, 1]}, {"lemon_rewards": (-10, -1)}, {"max_cycles": 36}]
)
def test_checkers_with_other_rewards_or_too_little_time_says_nothing(options):
    assert checkers_v0.parallel_env(**options).best_team_return is None


@pytest.mark.parametrize("team_reward", [False, True])
@pytest.mark.parametrize(("n_agents", "finished_agents"), list(OPTIMA))
def test_switch(n_agents, finished_agents, team_reward):
    options = {"n_agents": n_agents, "finished_agents": finished_agents, "team_reward": team_reward}
    env = switch_v0.parallel_env(**options)
    if team_reward and finished_agents == "leave":
        assert env.best_team_return is None
    else:
        assert env.best_team_return == pytest.approx(play(env, OPTIMA[n_agents, finished_agents][1])[0])
    steps = len(OPTIMA[n_agents, finished_agents][1])
    assert switch_v0.parallel_env(**options, max_cycles=steps - 1).best_team_return is None
    assert switch_v0.parallel_env(**options, goal_reward=4).best_team_return is None


@pytest.mark.parametrize("team_reward", [False, True])
@pytest.mark.parametrize("game", ["rps", "climbing", "prisoners_dilemma", "stag_hunt", "random_common_payoff"])
def test_matrix_games_by_playing_everything(game, team_reward):
    env = matrix_game_v0.parallel_env(game, max_cycles=3, team_reward=team_reward)
    agents = env.possible_agents
    totals = []
    for actions in itertools.product(*(range(env.action_space(agent).n) for agent in agents)):
        env.reset(seed=0)
        totals.append(sum(sum(env.step(dict(zip(agents, actions, strict=True)))[1].values()) for _ in range(3)))
    assert env.best_team_return == pytest.approx(np.max(totals))


def test_worlds_without_a_proof_say_nothing():
    assert stag_hunt_v0.parallel_env().best_team_return is None
