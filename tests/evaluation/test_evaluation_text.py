import numpy as np

from sb3_matrl.evaluation import EvaluationResult
from sb3_matrl.evaluation.evaluation_text import MOST_AGENTS, evaluation_line


def result(agent_returns):
    returns = np.array(agent_returns, dtype=float)
    agents = tuple(f"a{i}" for i in range(returns.shape[1]))
    return EvaluationResult(agents, returns.sum(axis=1), returns, np.full(len(returns), 7))


def test_line_of_a_team_with_common_rewards():
    line = evaluation_line(10, result([[1, 1], [2, 2]]), result([[3, 3]]), "common", is_best=True)
    assert line == "Eval num_timesteps=10, episode_reward=3.00 +/- 1.00 (greedy 6.00 +/- 0.00); new best"


def test_line_of_agents_with_rewards_of_their_own():
    line = evaluation_line(10, result([[1, 0], [2, 1]]), result([[3, 0]]), "individual", is_best=False)
    assert line == "Eval num_timesteps=10, episode_reward=2.00 +/- 1.00 (greedy 3.00 +/- 0.00); a0 1.50, a1 0.50"


def test_line_of_competing_agents_has_no_team():
    line = evaluation_line(10, result([[1, -1], [2, -2], [-1, 1], [0, 0]]), result([[3, -3]]), "constant-sum", is_best=True)
    assert line == (
        "Eval num_timesteps=10, episode_reward of a0 0.50 (greedy 3.00), won 50%, a1 -0.50 (greedy -3.00), won 25%"
    )


def test_of_many_agents_the_lowest_and_the_highest_are_named():
    many = result([np.arange(MOST_AGENTS + 1.0)])
    assert evaluation_line(1, many, many, "individual", False).endswith(f"; a0 0.00, a{MOST_AGENTS} {MOST_AGENTS}.00")
