"""Logging of several learners into one SB3 logger, and the short table that a verbose training prints."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

import numpy as np
from stable_baselines3.common.logger import HumanOutputFormat, Logger

from sb3_matrl.utils.reward_structure import reward_structure

# Longest key after the name of an agent, with room for those of callbacks and custom learners.
_LONGEST_KEY = 64
_TEAM_RETURN = "rollout/ep_rew_mean"
# Agents whose returns the short table lists; of more agents, only the lowest and the highest.
_MOST_AGENTS = 8
# The keys of these groups that the short table shows; it shows all keys of other groups.
_SHOWN: dict[str, frozenset[str]] = {
    "metagame": frozenset({"rho_mean", "nash_conv"}),
    "time": frozenset({"fps", "iterations", "episodes", "time_elapsed", "total_timesteps"}),
    "train": frozenset({"loss", "actor_loss", "critic_loss", "td_error_abs", "skipped_updates"}),
    "eval": frozenset(),  # the evaluation prints a line of its own
}


class AgentLogger(Logger):
    """
    The logger that one agent's learner writes to: every key goes to the common logger as ``<agent>/<key>``.

    :param parent: the common logger
    :param agent: name of the learner
    """

    def __init__(self, parent: Logger, agent: str) -> None:
        super().__init__(folder=parent.dir, output_formats=[])
        self.parent = parent
        self.agent = agent

    def record(self, key: str, value: Any, exclude: str | tuple[str, ...] | None = None) -> None:
        self.parent.record(f"{self.agent}/{key}", value, exclude)

    def record_mean(self, key: str, value: float | None, exclude: str | tuple[str, ...] | None = None) -> None:
        self.parent.record_mean(f"{self.agent}/{key}", value, exclude)


class ShortTable(HumanOutputFormat):
    """
    SB3's table with the numbers that one watches: returns, the meta-game's rho and NashConv, losses, steps and speed. All
    others are for the files.

    Where the agents' returns differ, they are listed; where they have a constant sum, the team return is left out. Rows
    with nothing but an evaluation are skipped, because the evaluation prints its own line. Keys of groups that this package
    does not write, such as those of a user's callbacks, are shown.

    :param agents: names of the agents and of their learners
    :param file: stream to print to; ``None`` for the standard output
    """

    def __init__(self, agents: Iterable[str], file: TextIO | None = None) -> None:
        super().__init__(sys.stdout if file is None else file)
        self._agents = list(dict.fromkeys(agents))
        self._returns: list[list[float]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Print the numbers that are shown, if there are any beside the number of steps."""
        shown = {key: value for key, value in key_values.items() if self._is_shown(key)}
        if shown.keys() <= {"time/total_timesteps"}:
            return
        returns = {agent: key_values[f"{agent}/{_TEAM_RETURN}"] for agent in self._agents_in(key_values)}
        structure = self._structure(list(returns.values()))
        if structure == "constant-sum":
            shown.pop(_TEAM_RETURN, None)
        if structure != "common":
            shown |= {f"{_TEAM_RETURN} {name}": value for name, value in _listed(returns).items()}
        excluded = {key: key_excluded.get(key, ()) for key in shown}
        super().write(dict(sorted(shown.items())), excluded, step)

    def _is_shown(self, key: str) -> bool:
        if key.startswith(tuple(f"{agent}/" for agent in self._agents)):
            return False
        group, _, name = key.partition("/")
        return group not in _SHOWN or name in _SHOWN[group]

    def _agents_in(self, key_values: Mapping[str, Any]) -> list[str]:
        return [agent for agent in self._agents if f"{agent}/{_TEAM_RETURN}" in key_values]

    def _structure(self, returns: list[float]) -> str:
        """How the agents' mean returns in the rows so far depend on each other."""
        if not returns:
            return "common"
        self._returns = [*(row for row in self._returns if len(row) == len(returns)), returns][-1000:]
        return reward_structure(np.array(self._returns, dtype=np.float64))


def _listed(returns: Mapping[str, float]) -> dict[str, float]:
    """Agent -> return; of many agents, the lowest and the highest return."""
    if len(returns) <= _MOST_AGENTS:
        return dict(returns)
    return {"lowest": min(returns.values()), "highest": max(returns.values())}


def fit_tables(logger: Logger, agents: Iterable[str], short: bool = False) -> None:
    """
    Fit SB3's tables to several agents.

    A table that truncates two keys to the same text raises an error, so all tables get room for the keys of agents.

    :param logger: logger of a model
    :param agents: names of the agents and their learners
    :param short: replace SB3's table on the standard output by a :class:`ShortTable`
    """
    names = list(agents)
    if short:
        logger.output_formats = [
            ShortTable(names) if type(output) is HumanOutputFormat and output.file is sys.stdout else output
            for output in logger.output_formats
        ]
    width = _LONGEST_KEY + max(map(len, names), default=0)
    for output in logger.output_formats:
        if isinstance(output, HumanOutputFormat):
            output.max_length = max(output.max_length, width)
