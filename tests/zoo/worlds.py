"""Worlds for the tests of the command lines."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

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


class Faulty(RandomLength):
    """
    Goes wrong in its 60th step.

    :param fault: how
    """

    metadata = {"name": "faulty", "render_modes": []}  # noqa: RUF012

    def __init__(self, fault: str, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        self.fault = fault
        self.steps = 0

    def step(self, actions: Mapping[str, int]) -> Any:
        self.steps += 1
        observations, rewards, *rest = super().step(actions)
        if self.steps == 60:
            observations, rewards = self._go_wrong(observations, rewards)
        return observations, rewards, *rest

    def _go_wrong(self, observations: dict[str, np.ndarray], rewards: dict[str, float]) -> tuple[Any, Any]:
        if self.fault == "exception":
            raise ZeroDivisionError("a bug\nin the world")
        if self.fault == "hangs":
            time.sleep(600)
        if self.fault == "interrupted twice":
            for _ in range(2):
                signal.raise_signal(signal.SIGINT)
        if self.fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if "reward" in self.fault:
            return observations, {**rewards, "right": float(self.fault.split()[0])}
        shape = (2,) if self.fault == "wrong shape" else (1,)
        return {**observations, "right": np.full(shape, np.nan if "nan" in self.fault else 1.0, np.float32)}, rewards


class FailsToBegin(RandomLength):
    """
    Goes wrong before its first step.

    :param reset_seconds: time that a reset takes; 0 for an error
    :param making_seconds: time that making it takes, in worker processes
    """

    metadata = {"name": "fails_to_begin", "render_modes": []}  # noqa: RUF012

    def __init__(self, reset_seconds: float = 0, making_seconds: float = 0, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        self.reset_seconds = reset_seconds
        if multiprocessing.parent_process() is not None:
            time.sleep(making_seconds)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if self.reset_seconds == 0:
            raise RuntimeError("no\nlicence")
        time.sleep(self.reset_seconds)
        return super().reset(seed, options)


class SavedFaulty(Faulty):
    """A faulty world that can save its state. It goes wrong ``faults`` times in all, over all instances."""

    metadata = {"name": "saved_faulty", "render_modes": []}  # noqa: RUF012
    faults = 1

    def _go_wrong(self, observations: dict[str, np.ndarray], rewards: dict[str, float]) -> tuple[Any, Any]:
        if SavedFaulty.faults == 0:
            return observations, rewards
        SavedFaulty.faults -= 1
        return super()._go_wrong(observations, rewards)

    def snapshot(self) -> dict[str, Any]:
        return {"steps": self.steps, "remaining": self.remaining, "rng": self.rng.bit_generator.state}

    def restore(self, snapshot: dict[str, Any]) -> None:
        self.steps, self.remaining = snapshot["steps"], snapshot["remaining"]
        self.rng.bit_generator.state = snapshot["rng"]
        self.agents = list(self.possible_agents)
