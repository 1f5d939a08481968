"""Results as a table of text."""

from __future__ import annotations

from collections.abc import Mapping

from sb3_matrl.evaluation import EvaluationResult, mean_confidence_interval


def returns_table(results: Mapping[str, EvaluationResult], per_agent: bool = False) -> str:
    """
    One line per kind of policy (and agent): mean, standard deviation, 95 % interval of the mean, length, episodes.

    :param results: name of the policy -> its episodes
    :param per_agent: whether to add a line for each agent below the team's
    :return: lines of text without a final newline
    """
    lines = [f"{'policy':<10}{'return of':<14}{'mean':>9}{'std':>9}  {'95 % interval':<20}{'length':>8}{'episodes':>10}"]
    for policy, result in results.items():
        columns = {"team": result.returns}
        if per_agent:
            columns |= {agent: result.agent_returns[:, i] for i, agent in enumerate(result.agents)}
        for name, returns in columns.items():
            low, high = mean_confidence_interval(returns)
            lines.append(
                f"{policy:<10}{name:<14}{returns.mean():>9.2f}{returns.std():>9.2f}  {f'[{low:.2f}, {high:.2f}]':<20}"
                f"{result.mean_length:>8.1f}{result.n_episodes:>10}"
            )
    return "\n".join(lines)
