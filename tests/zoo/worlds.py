"""Worlds for the tests of the command lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.evaluation.worlds import RandomLength


class Pays(RandomLength):
    """Episodes of one step, in which both agents earn ``reward``."""

    metadata = {"name": "pays", "render_modes": []}  # noqa: RUF012

    def __init__(self, reward: float, render_mode: str | None = None) -> None:
        super().__init__(long=1, render_mode=render_mode)
        self.reward = reward

    def step(self, actions: Mapping[str, int]) -> Any:
        observations, rewards, *rest = super().step(actions)
        return observations, dict.fromkeys(rewards, self.reward), *rest
