"""The line that an evaluation during training prints."""

from __future__ import annotations

from sb3_matrl.evaluation.evaluate import EvaluationResult
from sb3_matrl.utils.reward_structure import RewardStructure

#: Agents whose returns are printed one by one; of more agents, only the lowest and the highest.
MOST_AGENTS = 8


def evaluation_line(
    timesteps: int, sampled: EvaluationResult, greedy: EvaluationResult, structure: RewardStructure, is_best: bool
) -> str:
    """
    Describe one evaluation: the team return, and the agents' returns where they differ.

    :param timesteps: training steps before the evaluation
    :param sampled: episodes of the sampled policies
    :param greedy: episodes of the greedy policies
    :param structure: how the agents' returns depend on each other; the team return is left out where it is constant
    :param is_best: whether no earlier evaluation had such a high team return
    :return: one line, which begins as SB3's does
    """
    head = f"Eval num_timesteps={timesteps}, "
    if structure == "constant-sum":
        return head + "episode_reward of " + ", ".join(_competitors(sampled, greedy))
    team = f"episode_reward={sampled.mean:.2f} +/- {sampled.std:.2f} (greedy {greedy.mean:.2f} +/- {greedy.std:.2f})"
    agents = f"; {', '.join(_agents(sampled))}" if structure == "individual" else ""
    return head + team + agents + ("; new best" if is_best else "")


def _competitors(sampled: EvaluationResult, greedy: EvaluationResult) -> list[str]:
    """Returns and win rates of all agents, or of those with the lowest and the highest return."""
    means, wins, greedy_means = sampled.agent_means, sampled.win_rates, greedy.agent_means
    return [f"{agent} {means[agent]:.2f} (greedy {greedy_means[agent]:.2f}), won {wins[agent]:.0%}" for agent in _shown(means)]


def _agents(sampled: EvaluationResult) -> list[str]:
    means = sampled.agent_means
    return [f"{agent} {means[agent]:.2f}" for agent in _shown(means)]


def _shown(means: dict[str, float]) -> list[str]:
    """All agents, or those with the lowest and the highest mean return if there are many."""
    if len(means) <= MOST_AGENTS:
        return list(means)
    return [min(means, key=means.__getitem__), max(means, key=means.__getitem__)]
