"""Logging of several learners into one SB3 logger."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from stable_baselines3.common.logger import HumanOutputFormat, Logger

# Longest key after the name of an agent, with room for those of callbacks and custom learners.
_LONGEST_KEY = 64


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


def fit_tables(logger: Logger, agents: Iterable[str]) -> None:
    """
    Widen SB3's tables for the keys of agents: a table that truncates two keys to the same text raises an error.

    :param logger: logger of a model
    :param agents: names of the agents and their learners
    """
    width = _LONGEST_KEY + max(map(len, agents), default=0)
    for output in logger.output_formats:
        if isinstance(output, HumanOutputFormat):
            output.max_length = max(output.max_length, width)
