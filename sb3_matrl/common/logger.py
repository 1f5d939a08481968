"""Logging of several learners into one SB3 logger."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.logger import Logger


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
